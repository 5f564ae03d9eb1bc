// The frontend as conformance_test needs it: what a domain's kernel does. Lives in a process of its own
// (frontend_process.h).
#pragma once

#include <memory>
#include <string>

#include "hypervisor/hypervisor.h"

namespace bulkhead::hypervisor::conformance {

class Guest {
 public:
  virtual ~Guest() = default;

  virtual Domid domid() const = 0;
  // Its pages are numbered in the order in which they were granted; the grant reference is the reply.
  virtual Result<GrantRef> grant(Access access) = 0;
  virtual std::span<std::byte> page(std::size_t index) = 0;
  virtual Result<Port> allocate_port() = 0;
  virtual Status notify(Port port) = 0;
  virtual BorrowedFd events() const = 0;
  virtual Result<std::optional<Port>> take_event() = 0;
  // The rest is refused where the guest is domain 0 itself.
  virtual std::span<std::byte> xenstore_page() = 0;
  virtual Status set_xenstore_port(Port port) = 0;
  virtual Status shut_down() = 0;
  virtual Status destroy() = 0;
};

// A domain of the local hypervisor at `socket`; domain 0's kernel if `kernel`.
Result<std::unique_ptr<Guest>> local_guest(const std::string& socket, bool kernel);

// dom0, on Xen, which grants to itself.
Result<std::unique_ptr<Guest>> xen_guest();

}  // namespace bulkhead::hypervisor::conformance
