#include "components/xenstore/rings.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "components/xenstore/crash_points.h"

namespace bulkhead::xenstore {

Result<Rings> Rings::open(const std::string& spec) {
  Rings rings;
  if (spec.empty()) return rings;
  auto opened = hypervisor::open(spec);
  if (!opened) return forward(std::move(opened));
  rings.hypervisor_ = std::move(*opened);
  return rings;
}

void Rings::follow(const std::vector<IntroducedDomain>& domains) {
  std::vector<std::uint32_t> introductions;
  introductions.reserve(domains.size());
  for (const IntroducedDomain& domain : domains) introductions.push_back(domain.introduction);
  if (introductions == followed_) return;
  followed_ = std::move(introductions);
  std::erase_if(pages_, [&](const auto& page) {
    const auto found = std::ranges::lower_bound(domains, page.first, {}, &IntroducedDomain::domid);
    const std::uint32_t introduction = page.second.introduction;
    const bool known = found != domains.end() && found->domid == page.first &&
                       (found->introduction == introduction || introduction == kTried);
    return !known && page.first != 0;
  });
  for (const IntroducedDomain& domain : domains) {
    // One that cannot be mapped now is tried again by an owner, who says so.
    (void)map(domain.domid, domain.introduction);
  }
}

Result<DomainRing> Rings::map(std::uint32_t domid, std::uint32_t introduction) {
  if (const auto found = pages_.find(domid); found != pages_.end()) {
    if (found->second.introduction == kTried) found->second.introduction = introduction;
    if (found->second.introduction == introduction) return found->second.ring;
    pages_.erase(found);
  }
  auto pages = hypervisor_->map_xenstore_page(domid);
  if (!pages) return forward(std::move(pages));
  const DomainRing ring((*pages)->data());
  pages_.insert_or_assign(domid, Page{introduction, std::move(*pages), ring});
  return ring;
}

const DomainRing* Rings::find(std::uint32_t domid) const {
  const auto found = pages_.find(domid);
  return found == pages_.end() ? nullptr : &found->second.ring;
}

Status Rings::use_events(CustodyStore& store) {
  if (uses_events_) return {};
  if (auto used = hypervisor_->use_events(store.custody(kEventsItem)->fd.borrow()); !used) return used;
  uses_events_ = true;
  return {};
}

Status Rings::adopt_events(CustodyStore& store) {
  if (store.custody(kEventsItem) == nullptr) {
    auto made = hypervisor_->make_events();
    if (!made) return forward(std::move(made));
    kCustodyDeposit.pass();
    if (auto deposited = store.deposit(kEventsItem, "other", std::move(*made));
        !deposited && store.custody(kEventsItem) == nullptr) {
      return forward(std::move(deposited), "cannot deposit the event channels' descriptor");
    }
  }
  if (auto used = use_events(store); !used) return used;
  auto port = hypervisor_->domain_events();
  if (!port) return forward(std::move(port), "cannot watch domains");
  domain_events_ = *port;
  expect_again(domain_events_);
  return {};
}

std::optional<std::uint32_t> Rings::take_event() {
  auto port = hypervisor_->take_event();
  if (!port) {
    spdlog::error("event channels: {}", port.error().message());
    return std::nullopt;
  }
  // Before the ring is looked at: what comes later is signalled again.
  if (*port) expect_again(**port);
  return *port;
}

Result<std::uint32_t> Rings::bind(std::uint32_t domid, std::uint32_t port) {
  const auto tried = std::exchange(tried_, std::nullopt);
  if (tried && tried->domid == domid && tried->remote == port) return tried->port;
  auto bound = hypervisor_->bind(domid, port);
  if (bound || bound.error().kind() != ErrorKind::kRefused) return bound;
  auto found = hypervisor_->find_binding(domid, port);
  if (found && *found) return **found;
  return bound;
}

Status Rings::try_introduction(std::uint32_t domid, std::uint32_t port) {
  pages_.erase(domid);
  if (auto mapped = map(domid, kTried); !mapped) return forward(std::move(mapped));
  auto bound = bind(domid, port);
  if (!bound) {
    pages_.erase(domid);
    return forward(std::move(bound));
  }
  tried_ = {domid, port, *bound};
  kRingBound.pass();
  return {};
}

}  // namespace bulkhead::xenstore
