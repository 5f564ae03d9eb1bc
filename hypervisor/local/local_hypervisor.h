// The backend's side of the local hypervisor.
//
// Mapping a grant and notifying need no round trip once the domain and the port are known: the grant table is
// read in the domain's memory, and a port's other end is a datagram socket of ours.
//
// Semantics where Xen leaves room, or where this differs: docs/hypervisor.md.
#pragma once

#include <sys/types.h>

#include <map>

#include "hypervisor/hypervisor.h"
#include "hypervisor/local/connection.h"
#include "hypervisor/local/layout.h"

namespace bulkhead::hypervisor::local {

class LocalHypervisor final : public Hypervisor {
 public:
  // `path`: the socket of a bulkhead-local-hypervisor. kNotFound: nobody listens there.
  static Result<std::unique_ptr<Hypervisor>> open(const std::string& path);

  Result<std::unique_ptr<Pages>> map(Domid domid, std::span<const GrantRef> refs, Access access) override;
  Result<std::unique_ptr<Pages>> map_xenstore_page(Domid domid) override;

  Result<UniqueFd> make_events() override;
  Status use_events(BorrowedFd events) override;
  BorrowedFd events() const override { return events_.borrow(); }
  Result<std::optional<Port>> take_event() override;
  Status unmask(Port port) override;
  Status notify(Port port) override;
  Result<Port> bind(Domid domid, Port remote) override;
  Result<std::optional<Port>> find_binding(Domid domid, Port remote) override;
  Result<std::optional<Port>> remote_of(Domid domid, Port port) override;
  Status unbind(Port port) override;
  Result<Port> domain_events() override;
  Result<Port> xenstore_port() override;

  Result<std::vector<Domain>> domains() override;
  Result<std::optional<Domain>> domain(Domid domid) override;

 private:
  // A domain's memory, as long as it lives.
  struct Memory {
    UniqueFd memfd;
    std::unique_ptr<Pages> grant_table;
    std::uint32_t pages = 0;
    std::uint32_t slot = 0;
    std::uint64_t generation = 0;
  };

  LocalHypervisor(Connection connection, std::unique_ptr<Pages> living)
      : connection_(std::move(connection)), living_(std::move(living)) {}

  Result<Answer> ask(Operation operation, Domid domid = 0, Port port = 0, std::size_t fds_expected = 0);
  bool lives(const Memory& memory) const;
  Result<const Memory*> memory_of(Domid domid);
  Result<Memory> fetch_memory(Domid domid);
  Result<BorrowedFd> signal_of(Port port);

  Connection connection_;
  std::unique_ptr<Pages> living_;  // LivingTable, read-only
  std::map<Domid, Memory> memories_;
  UniqueFd events_;
  std::map<Port, UniqueFd> signals_;  // datagram sockets to the other ends of our ports
};

}  // namespace bulkhead::hypervisor::local
