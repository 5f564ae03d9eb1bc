// What dom0 by loopback cannot show: a real guest on Xen, which BULKHEAD_GUEST names by its domid. Destroys
// it.
#include <atomic>
#include <cstdint>
#include <cstdlib>

#include "hypervisor/conformance/suite.h"
#include "runtime/clock.h"

#include <xen/io/xs_wire.h>  // last: it takes the integer types for granted

namespace bulkhead::hypervisor::conformance {
namespace {

std::vector<Domid> guests() {
  const char* domid = std::getenv("BULKHEAD_GUEST");
  if (domid == nullptr) return {};
  return {static_cast<Domid>(std::atoi(domid))};
}

// Xen tells nobody when the last page of a dying domain is unmapped.
bool gone(Hypervisor& hypervisor, Domid domid) {
  const std::int64_t deadline = monotonic_ns() + kPatienceMs * kMillisecond;
  while (monotonic_ns() < deadline) {
    auto domain = hypervisor.domain(domid);
    if (domain && !*domain) return true;
  }
  return false;
}

class GuestConformance : public ::testing::TestWithParam<Domid> {
 protected:
  void SetUp() override {
    auto hypervisor = open("xen");
    ASSERT_TRUE(hypervisor.has_value()) << hypervisor.error().message();
    hypervisor_ = std::move(*hypervisor);
  }
  const Domid domid_ = GetParam();
  std::unique_ptr<Hypervisor> hypervisor_;
};

TEST_P(GuestConformance, ItsXenstorePageOutlivesIt) {
  auto domains = hypervisor_->domains();
  ASSERT_TRUE(domains.has_value()) << domains.error().message();
  EXPECT_TRUE(std::any_of(domains->begin(), domains->end(), [this](const Domain& domain) {
    return domain.domid == domid_ && !domain.shut_down && !domain.dying;
  }));

  auto page = hypervisor_->map_xenstore_page(domid_);
  ASSERT_TRUE(page.has_value()) << page.error().message();
  auto* ring = reinterpret_cast<xenstore_domain_interface*>((*page)->data());
  EXPECT_GT(std::atomic_ref(ring->req_cons).load(), 0U);  // it has talked to its xenstore
  EXPECT_GT(std::atomic_ref(ring->rsp_prod).load(), 0U);
  EXPECT_EQ(kind(hypervisor_->map(domid_, std::vector<GrantRef>{kNoGrant}, Access::kReadOnly)),
            ErrorKind::kRefused);

  ASSERT_EQ(std::system(("xl destroy " + std::to_string(domid_)).c_str()), 0);
  auto domain = hypervisor_->domain(domid_);
  ASSERT_TRUE(domain.has_value() && domain->has_value()) << "what is mapped keeps a domain from vanishing";
  EXPECT_TRUE((*domain)->dying);
  const std::byte last = (*page)->data()[kPageBytes - 1];
  (*page)->data()[kPageBytes - 1] = ~last;
  EXPECT_EQ((*page)->data()[kPageBytes - 1], ~last);

  page->reset();
  EXPECT_TRUE(gone(*hypervisor_, domid_));
  EXPECT_EQ(kind(hypervisor_->map_xenstore_page(domid_)), ErrorKind::kNotFound);
}

// Only one process of the host may have them, and that is the host's xenstore.
TEST_P(GuestConformance, TheEventsOfDomainsAreTheXenstores) {
  auto events = hypervisor_->make_events();
  ASSERT_TRUE(events.has_value() && hypervisor_->use_events(events->borrow()).has_value());
  EXPECT_EQ(kind(hypervisor_->domain_events()), ErrorKind::kRefused);
}

GTEST_ALLOW_UNINSTANTIATED_PARAMETERIZED_TEST(GuestConformance);
INSTANTIATE_TEST_SUITE_P(On, GuestConformance, ::testing::ValuesIn(guests()));

}  // namespace
}  // namespace bulkhead::hypervisor::conformance
