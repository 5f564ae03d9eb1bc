// The port to the hypervisor: what a backend needs of it, and no more. Two implementations: xen/
// (libxengnttab, libxenevtchn, libxenctrl) and local/ (shared memory and eventfds, with the frontend in
// another process), which serves tests, benchmarks and machines without Xen and never claims to be Xen. Both
// pass conformance_test.
//
// Terms are Xen's: a domain, by its domid, grants pages by grant reference; two ends of an event channel are
// ports, one in each domain. "We" are the backend's domain, dom0 as a rule.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::hypervisor {

using Domid = std::uint32_t;     // below kFirstReservedDomid
using GrantRef = std::uint32_t;  // index into the granting domain's table
using Port = std::uint32_t;      // of an event channel, in the domain it belongs to; 0 is none

inline constexpr Domid kFirstReservedDomid = 0x7FF0;  // DOMID_FIRST_RESERVED, xen/public/xen.h
inline constexpr std::size_t kPageBytes = 4096;       // XC_PAGE_SIZE: of a granted page

// Pages of another domain, mapped into this process one behind the other; unmapped by the destructor. The
// other domain may write to them at any time: copy once, then check, then use. A mapping stays readable and
// writable when its domain dies (and keeps the dead domain's memory from being freed). It belongs to the
// process that made it: a successor maps for itself.
class Pages {
 public:
  virtual ~Pages() = default;
  Pages(const Pages&) = delete;
  Pages& operator=(const Pages&) = delete;

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }  // bytes, a multiple of kPageBytes
  std::span<std::byte> bytes() const { return {data_, size_}; }

 protected:
  Pages(std::byte* data, std::size_t size) : data_(data), size_(size) {}

 private:
  std::byte* data_;
  std::size_t size_;
};

enum class Access : std::uint8_t { kReadOnly, kReadWrite };

struct Domain {
  Domid domid = 0;
  bool shut_down = false;  // it has stopped by itself, for whatever reason (a crash is one)
  bool dying = false;      // it has been destroyed; what remains is memory that somebody has mapped
};

// Single-threaded, but a standby's thread may use one before the serving thread does.
class Hypervisor {
 public:
  virtual ~Hypervisor() = default;
  Hypervisor(const Hypervisor&) = delete;
  Hypervisor& operator=(const Hypervisor&) = delete;

  // ---- memory ----

  // All or none. kRefused: not granted to us, or not for this access; kNotFound: no such domain.
  virtual Result<std::unique_ptr<Pages>> map(Domid domid, std::span<const GrantRef> refs, Access access) = 0;
  // A domain's xenstore ring (struct xenstore_domain_interface, xen/io/xs_wire.h), read-write. Domain 0's is
  // that of the kernel we run on.
  virtual Result<std::unique_ptr<Pages>> map_xenstore_page(Domid domid) = 0;

  // ---- event channels ----
  // All of our ports belong to one descriptor, which outlives processes: it goes into custody, and a
  // successor hands it to use_events(). As long as somebody holds it, ports stay bound. An event that was
  // taken by a process that died is gone: a successor treats every port as pending once.

  // Makes such a descriptor. Not yet used by this object.
  virtual Result<UniqueFd> make_events() = 0;
  // Uses it (a duplicate) from now on; everything below needs this. Once only.
  virtual Status use_events(BorrowedFd events) = 0;
  // Readable when take_event() has something.
  virtual BorrowedFd events() const = 0;
  // A port that has been signalled; never blocks. nullopt: none. A port that was just bound has been, once.
  // On Xen it is masked until unmask(); local/ masks nothing, so a busy port may be returned again at once:
  // take a bounded number before serving them.
  virtual Result<std::optional<Port>> take_event() = 0;
  // Say it before looking at what the port stands for, or look again. A signal since take_event() is not
  // lost: it is pending at once.
  virtual Status unmask(Port port) = 0;
  // Signals the other end; without effect if that domain has gone. kNotFound: not bound.
  virtual Status notify(Port port) = 0;

  // Binds a port of ours to a port that `domid` has allocated for us. kRefused: there is no such port, or it
  // is bound already (see find_binding()).
  virtual Result<Port> bind(Domid domid, Port remote) = 0;
  // Our port that is bound to it: whoever made the binding may have died before he could note it. nullopt:
  // none.
  virtual Result<std::optional<Port>> find_binding(Domid domid, Port remote) = 0;
  // The port of `domid` that a port of ours is bound to. nullopt: it is not bound to one of that domain's.
  virtual Result<std::optional<Port>> remote_of(Domid domid, Port port) = 0;
  // The number may be given again at once; an event that was on its way may still be taken. kNotFound: not
  // bound.
  virtual Status unbind(Port port) = 0;
  // The port that is signalled when a domain has shut down, crashed or been destroyed (VIRQ_DOM_EXC); bound
  // if it is not yet.
  virtual Result<Port> domain_events() = 0;
  // The port that this host's own kernel has allocated for its xenstore (xsd_port). kNotFound: this host has
  // none.
  virtual Result<Port> xenstore_port() = 0;

  // ---- domains ----

  // Sorted by domid, domain 0 included.
  virtual Result<std::vector<Domain>> domains() = 0;
  // nullopt: there is none.
  virtual Result<std::optional<Domain>> domain(Domid domid) = 0;

 protected:
  Hypervisor() = default;
};

// "xen", or "local:PATH" where PATH is the socket of a bulkhead-local-hypervisor. kInvalid: `spec` is
// neither; kNotFound: this host is not what `spec` says, in one line for the operator.
Result<std::unique_ptr<Hypervisor>> open(const std::string& spec);

}  // namespace bulkhead::hypervisor
