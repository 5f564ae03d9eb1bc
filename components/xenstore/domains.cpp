#include "components/xenstore/domains.h"

#include <algorithm>

namespace bulkhead::xenstore::core {

Domain& DomainTable::get(std::uint32_t domid) {
  if (domid >= domains_.size()) domains_.resize(domid + 1U);
  std::unique_ptr<Domain>& domain = domains_[domid];
  if (!domain) {
    domain = std::make_unique<Domain>();
    domain->domid = domid;
    domain->generation = generation_;
    domain->limits = limits_;
  }
  return *domain;
}

void DomainTable::charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) {
  Domain& domain = get(domid);
  domain.nodes += nodes;
  add_memory(domain, bytes);
}

bool DomainTable::settle(Output& out) {
  if (crossed_.empty()) return false;
  bool changed = false;
  std::ranges::sort(crossed_);
  const auto repeated = std::ranges::unique(crossed_);
  crossed_.erase(repeated.begin(), repeated.end());
  for (std::uint32_t domid : crossed_) {
    Domain* domain = find(domid);
    if (domain == nullptr) continue;
    bool due = domain->soft_due();
    changed = changed || due || domain->soft_over() || domain->hard_over();
    domain->hard_warned = domain->hard_warned && !domain->hard_over();
    domain->soft_warned = due || (domain->soft_warned && !domain->soft_over());
    if (due) {
      out.quota_warning(
          {domid, "memory", domain->limits.memory_soft, static_cast<std::uint64_t>(domain->memory), false});
    }
  }
  crossed_.clear();
  return changed;
}

void DomainTable::reset(Domain& domain) const {
  domain.limits = limits_;
  domain.own_limits = 0;
  domain.features = kServerFeatures;
}

bool DomainTable::existed_at(std::uint32_t domid, std::uint64_t generation) const {
  const Domain* domain = find(domid);
  return domain != nullptr && domain->generation <= generation;
}

}  // namespace bulkhead::xenstore::core
