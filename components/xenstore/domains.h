// What the engine knows of domains: introduction, targets, and exactly what each of them uses of its quotas.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/tree.h"

namespace bulkhead::xenstore::core {

struct Domain {
  std::uint32_t domid = 0;
  bool introduced = false;
  bool shut_down = false;               // @releaseDomain was fired for its shutdown; RESUME clears it
  bool ended = false;                   // released; to be forgotten with its last connection
  std::optional<std::uint32_t> target;  // it may do what the target may (SET_TARGET)
  std::uint64_t mfn = 0;
  std::uint32_t port = 0;
  std::uint64_t generation = 0;  // of the tree when the domain became known; older permissions do not mean it

  std::int64_t nodes = 0;
  std::int64_t watches = 0;
  std::int64_t transactions = 0;
  std::int64_t memory = 0;  // records of its nodes, its watches, and what its transactions hold
  std::uint32_t connections = 0;
};

// Domain 0 and reserved ids never end. Pointers stay good until the domain is forgotten.
class DomainTable final : public Accounts {
 public:
  // `generation` is the engine's counter, read whenever a domain becomes known.
  explicit DomainTable(const std::uint64_t& generation) : generation_(generation) {}

  Domain* find(std::uint32_t domid) const {
    return domid < domains_.size() ? domains_[domid].get() : nullptr;
  }
  // Makes it known if it is not. `domid` is below kFirstReservedDomain.
  Domain& get(std::uint32_t domid);
  // Forgets a released domain that neither a connection nor a node keeps.
  void forget_if_ended(const Domain& domain) {
    if (domain.ended && domain.connections == 0 && domain.nodes == 0) domains_[domain.domid].reset();
  }

  void charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) override;
  bool existed_at(std::uint32_t domid, std::uint64_t generation) const override;

  // Calls for each known domain, by rising domid.
  template <typename Function>
  void for_each(Function function) const {
    for (const auto& domain : domains_) {
      if (domain) function(*domain);
    }
  }

 private:
  const std::uint64_t& generation_;
  std::vector<std::unique_ptr<Domain>> domains_;  // indexed by domid, below kFirstReservedDomain
};

}  // namespace bulkhead::xenstore::core
