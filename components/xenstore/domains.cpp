#include "components/xenstore/domains.h"

namespace bulkhead::xenstore::core {

Domain& DomainTable::get(std::uint32_t domid) {
  if (domid >= domains_.size()) domains_.resize(domid + 1U);
  std::unique_ptr<Domain>& domain = domains_[domid];
  if (!domain) {
    domain = std::make_unique<Domain>();
    domain->domid = domid;
    domain->generation = generation_;
  }
  return *domain;
}

void DomainTable::charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) {
  Domain& domain = get(domid);
  domain.nodes += nodes;
  domain.memory += bytes;
}

bool DomainTable::existed_at(std::uint32_t domid, std::uint64_t generation) const {
  const Domain* domain = find(domid);
  return domain != nullptr && domain->generation <= generation;
}

}  // namespace bulkhead::xenstore::core
