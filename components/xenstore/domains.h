// What the engine knows of domains: introduction, targets, and exactly what each of them uses of its quotas.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/tree.h"

namespace bulkhead::xenstore::core {

// Bits of GET_FEATURE and of the ring page (xen/io/xs_wire.h, XENSTORE_SERVER_FEATURE_*): a guest may reset
// its ring, is told in it why it was cut off, and WATCH takes a depth.
inline constexpr std::uint32_t kFeatureReconnection = 1;
inline constexpr std::uint32_t kFeatureError = 2;
inline constexpr std::uint32_t kFeatureWatchDepth = 4;
inline constexpr std::uint32_t kServerFeatures = kFeatureReconnection | kFeatureError | kFeatureWatchDepth;

struct Domain {
  std::uint32_t domid = 0;
  bool introduced = false;
  bool shut_down = false;               // @releaseDomain was fired for its shutdown; RESUME clears it
  bool ended = false;                   // released; to be forgotten with its last connection
  std::optional<std::uint32_t> target;  // it may do what the target may (SET_TARGET)
  std::uint64_t mfn = 0;
  std::uint32_t port = 0;
  std::uint32_t introduction = 0;  // the number of its last INTRODUCE, over all domains
  std::uint64_t generation = 0;  // of the tree when the domain became known; older permissions do not mean it
  std::uint32_t features = kServerFeatures;  // what it is told that the server can do

  Limits limits;                 // those in force: the global ones where it has none of its own
  std::uint32_t own_limits = 0;  // mask over all_quotas()
  bool soft_warned = false;      // of its memory
  bool hard_warned = false;

  std::int64_t nodes = 0;
  std::int64_t watches = 0;
  std::int64_t transactions = 0;
  std::int64_t memory = 0;  // records of its nodes, its watches, and what its transactions hold
  std::uint32_t connections = 0;

  // The warning level is reached and has not been told.
  bool soft_due() const {
    return domid != 0 && !soft_warned && limits.memory_soft != 0 &&
           memory >= std::int64_t{limits.memory_soft};
  }
  // A warning was given, and may be given again since the use has fallen far enough.
  bool soft_over() const { return soft_warned && is_far_below(limits.memory_soft); }
  bool hard_over() const { return hard_warned && is_far_below(limits.memory); }
  // By an eighth: who is at the limit and goes to and fro does not cause a warning each time.
  bool is_far_below(std::uint32_t limit) const {
    return limit == 0 || memory < std::int64_t{limit} - std::int64_t{limit} / 8;
  }
};

// Domain 0 and reserved ids never end. Pointers stay good until the domain is forgotten.
class DomainTable final : public Accounts {
 public:
  // `generation` is the engine's counter, `limits` its global limits, both read whenever a domain becomes
  // known.
  DomainTable(const std::uint64_t& generation, const Limits& limits)
      : generation_(generation), limits_(limits) {}

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
  void add_memory(Domain& domain, std::int64_t bytes) {
    domain.memory += bytes;
    if (domain.soft_due() || domain.soft_over() || domain.hard_over()) unsettle(domain);
  }
  // Brings the flags of warnings in step with what the input before did; true if any changed. Tells `out` of
  // those due.
  bool settle(Output& out);
  // To be looked at by settle(), for another reason than a change of its memory.
  void unsettle(const Domain& domain) {
    if (crossed_.empty() || crossed_.back() != domain.domid) crossed_.push_back(domain.domid);
  }
  // Back to the global limits and all features, as a new domain has them.
  void reset(Domain& domain) const;
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
  const Limits& limits_;
  std::vector<std::uint32_t> crossed_;            // scratch, no state: domains whose flags may have to change
  std::vector<std::unique_ptr<Domain>> domains_;  // indexed by domid, below kFirstReservedDomain
};

}  // namespace bulkhead::xenstore::core
