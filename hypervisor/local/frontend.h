// The frontend's side of the local hypervisor: a process that plays a domain.
#pragma once

#include <map>
#include <memory>
#include <optional>
#include <string>

#include "hypervisor/hypervisor.h"
#include "hypervisor/local/connection.h"
#include "hypervisor/local/layout.h"
#include "runtime/memfd.h"

namespace bulkhead::hypervisor::local {

// A domain. It ends, as if destroyed, with this object or with the process, in whatever way that ends; what
// backends have mapped stays mapped. Page 0 is its xenstore page, granted to domain 0 from the beginning
// (grant reference 1).
//
// Domain 0 is there anyway. Created as a LocalDomain it is that domain's kernel: it has a xenstore page, and
// a port once set_xenstore_port() names it.
class LocalDomain {
 public:
  struct Options {
    std::optional<Domid> domid = std::nullopt;  // default: the next free one
    std::size_t pages = 16;                     // memory, all zeroes
  };

  // `path`: the socket of a bulkhead-local-hypervisor. kRefused: the domid is in use.
  static Result<std::unique_ptr<LocalDomain>> create(const std::string& path, const Options& options);
  static Result<std::unique_ptr<LocalDomain>> create(const std::string& path) { return create(path, {}); }

  Domid domid() const { return domid_; }

  // ---- memory ----

  std::size_t pages() const { return (memory_.size() - kGrantTableBytes) / kPageBytes; }
  // `index` below pages().
  std::span<std::byte> page(std::size_t index) const;
  std::span<std::byte> xenstore_page() const { return page(0); }

  // Grants a page to domain 0. References below 8 are reserved, which nobody checks.
  void grant(GrantRef ref, std::size_t page, Access access);
  // What is mapped stays mapped (a guest on Xen would have to wait until it is not).
  void revoke(GrantRef ref);
  // To write into the table whatever one likes. `ref` below kMaxGrants.
  GrantWord& grant_word(GrantRef ref) const;

  // ---- event channels ----

  // A new port that domain 0 may bind.
  Result<Port> allocate_port();
  // kNotFound: no such port. Signals before the backend binds are not lost.
  Status notify(Port port);
  // Readable when take_event() has something.
  BorrowedFd events() const { return events_.borrow(); }
  // A port that was signalled, since the last time it was returned here. nullopt: none.
  Result<std::optional<Port>> take_event();

  // ---- life ----

  // Of domain 0 only: what Hypervisor::xenstore_port() says from now on.
  Status set_xenstore_port(Port port);
  // Both are seen through Hypervisor::domain_events(). Refused by domain 0.
  Status shut_down();
  // From now on nothing can be mapped or bound; it is listed as dying until this object ends.
  Status destroy();

 private:
  struct Channel {
    UniqueFd signal;   // eventfd
    UniqueFd receive;  // datagram socket
  };

  LocalDomain(Connection connection, Mapping memory, UniqueFd events, Domid domid)
      : connection_(std::move(connection)),
        memory_(std::move(memory)),
        events_(std::move(events)),
        domid_(domid) {}
  Status ask(Operation operation, Port port = 0);

  Connection connection_;
  Mapping memory_;
  UniqueFd events_;  // epoll over the receiving ends
  Domid domid_;
  std::map<Port, Channel> channels_;
};

}  // namespace bulkhead::hypervisor::local
