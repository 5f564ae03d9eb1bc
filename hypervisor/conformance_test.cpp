// What every implementation of the port does: memory and domains. Event channels: event_conformance_test.cpp.
#include "hypervisor/conformance/suite.h"

namespace bulkhead::hypervisor::conformance {
namespace {

class MemoryConformance : public Conformance {};
class DomainConformance : public Conformance {};

TEST_P(MemoryConformance, BothSidesSeeAGrantedPage) {
  const GrantRef ref = frontend_.grant(Access::kReadWrite);
  frontend_.write(0, 17);
  auto pages = map({ref}, Access::kReadWrite);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  ASSERT_EQ((*pages)->size(), kPageBytes);
  EXPECT_EQ((*pages)->data()[0], std::byte{17});
  (*pages)->data()[0] = std::byte{18};
  EXPECT_EQ(frontend_.read(0), 18);
}

TEST_P(MemoryConformance, AGrantCanBeMappedAgainAndAgain) {
  const GrantRef ref = frontend_.grant(Access::kReadWrite);
  for (int i = 0; i < 100; ++i) {
    auto first = map({ref}, Access::kReadWrite);
    auto second = map({ref}, Access::kReadOnly);
    ASSERT_TRUE(first.has_value() && second.has_value());
    (*first)->data()[5] = static_cast<std::byte>(i);
    EXPECT_EQ((*second)->data()[5], static_cast<std::byte>(i));
  }
}

TEST_P(MemoryConformance, AGrantForReadingIsNotMappedForWriting) {
  const GrantRef ref = frontend_.grant(Access::kReadOnly);
  frontend_.write(0, 3);
  EXPECT_EQ(kind(map({ref}, Access::kReadWrite)), ErrorKind::kRefused);
  auto pages = map({ref}, Access::kReadOnly);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  EXPECT_EQ((*pages)->data()[0], std::byte{3});
}

TEST_P(MemoryConformance, WhatIsNotGrantedIsRefusedAllOrNothing) {
  const GrantRef ref = frontend_.grant(Access::kReadWrite);
  EXPECT_EQ(kind(map({kNoGrant}, Access::kReadOnly)), ErrorKind::kRefused);
  EXPECT_EQ(kind(map({ref, kNoGrant, ref}, Access::kReadOnly)), ErrorKind::kRefused);
  EXPECT_EQ(kind(map({0xFFFFFFFF}, Access::kReadOnly)), ErrorKind::kRefused);
  EXPECT_EQ(kind(map({}, Access::kReadOnly)), ErrorKind::kInvalid);
}

TEST_P(MemoryConformance, NothingOfADomainThatDoesNotExist) {
  const GrantRef ref = 1;
  EXPECT_EQ(kind(hypervisor_->map(kNoDomain, {&ref, 1}, Access::kReadOnly)), ErrorKind::kNotFound);
  EXPECT_EQ(kind(hypervisor_->map_xenstore_page(kNoDomain)), ErrorKind::kNotFound);
}

TEST_P(MemoryConformance, SeveralGrantsLieOneBehindTheOtherAsNamed) {
  std::vector<GrantRef> refs;
  for (std::uint8_t i = 0; i < 11; ++i) {
    refs.insert(refs.begin(), frontend_.grant(Access::kReadWrite));
    frontend_.write(i, i);
  }
  auto pages = map(refs, Access::kReadWrite);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  ASSERT_EQ((*pages)->size(), refs.size() * kPageBytes);
  for (std::size_t i = 0; i < refs.size(); ++i) {
    EXPECT_EQ((*pages)->data()[i * kPageBytes], static_cast<std::byte>(refs.size() - 1 - i));
  }
  std::fill((*pages)->bytes().begin(), (*pages)->bytes().end(), std::byte{0xEE});
  for (std::size_t i = 0; i < refs.size(); ++i) EXPECT_EQ(frontend_.read(i), 0xEE);
}

TEST_P(MemoryConformance, AMappingSurvivesTheFrontend) {
  auto pages = map({frontend_.grant(Access::kReadWrite)}, Access::kReadWrite);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  frontend_.write(0, 77);
  frontend_.kill();
  EXPECT_EQ((*pages)->data()[0], std::byte{77});
  std::fill((*pages)->bytes().begin(), (*pages)->bytes().end(), std::byte{1});
  EXPECT_EQ((*pages)->data()[kPageBytes - 1], std::byte{1});
}

TEST_P(MemoryConformance, OfTwoProcessesThatMapTheSameGrantOneMayBeKilled) {
  const GrantRef ref = frontend_.grant(Access::kReadWrite);
  Child other([&](const Line& line) {
    auto hypervisor = open(environment_->spec());
    if (!hypervisor) return;
    auto mapped = (*hypervisor)->map(domid_, {&ref, 1}, Access::kReadWrite);
    if (!mapped) return;
    (*mapped)->data()[0] = std::byte{99};
    (void)line.send(1);
    for (;;) ::pause();
  });
  auto pages = map({ref}, Access::kReadWrite);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  ASSERT_TRUE(other.line().receive().has_value());
  EXPECT_EQ((*pages)->data()[0], std::byte{99});
  other.kill();
  (*pages)->data()[0] = std::byte{100};
  EXPECT_EQ(frontend_.read(0), 100);
  EXPECT_TRUE(map({ref}, Access::kReadWrite).has_value());
}

TEST_P(DomainConformance, DomainZeroIsListedFirst) {
  auto domains = hypervisor_->domains();
  ASSERT_TRUE(domains.has_value()) << domains.error().message();
  ASSERT_FALSE(domains->empty());
  EXPECT_EQ(domains->front().domid, 0U);
  EXPECT_FALSE(domains->front().shut_down || domains->front().dying);
}

TEST_P(DomainConformance, WhatDoesNotExistIsNotFound) {
  auto domain = hypervisor_->domain(kNoDomain);
  ASSERT_TRUE(domain.has_value()) << domain.error().message();
  EXPECT_FALSE(domain->has_value());
}

TEST_P(DomainConformance, ADomainIsListedWhileItLives) {
  if (!needs_domains()) return;
  use_new_events();
  auto ended = hypervisor_->domain_events();
  ASSERT_TRUE(ended.has_value()) << ended.error().message();
  auto domains = hypervisor_->domains();
  ASSERT_TRUE(domains.has_value());
  ASSERT_EQ(domains->size(), 2U);
  EXPECT_EQ((*domains)[1].domid, domid_);
  frontend_.kill();
  EXPECT_EQ(take_event(), *ended);
  EXPECT_EQ(hypervisor_->domains()->size(), 1U);
  EXPECT_FALSE(hypervisor_->domain(domid_)->has_value());
}

TEST_P(DomainConformance, ShutdownAndDestructionAreSeen) {
  if (!needs_domains()) return;
  use_new_events();
  auto port = hypervisor_->domain_events();
  ASSERT_TRUE(port.has_value()) << port.error().message();
  EXPECT_EQ(*hypervisor_->domain_events(), *port);

  ASSERT_TRUE(frontend_.shut_down());
  EXPECT_EQ(take_event(), *port);
  EXPECT_TRUE(hypervisor_->unmask(*port).has_value());
  auto domain = hypervisor_->domain(domid_);
  ASSERT_TRUE(domain.has_value() && domain->has_value());
  EXPECT_TRUE((*domain)->shut_down);
  EXPECT_FALSE((*domain)->dying);

  ASSERT_TRUE(frontend_.destroy());
  EXPECT_EQ(take_event(), *port);
  EXPECT_TRUE(hypervisor_->unmask(*port).has_value());
  domain = hypervisor_->domain(domid_);
  ASSERT_TRUE(domain.has_value() && domain->has_value());
  EXPECT_TRUE((*domain)->dying);
  EXPECT_EQ(kind(hypervisor_->map_xenstore_page(domid_)), ErrorKind::kNotFound);

  frontend_.kill();
  EXPECT_EQ(take_event(), *port);
  EXPECT_FALSE(hypervisor_->domain(domid_)->has_value());
}

TEST_P(DomainConformance, ADomainsXenstorePage) {
  if (!needs_domains()) return;
  auto pages = hypervisor_->map_xenstore_page(domid_);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  ASSERT_EQ((*pages)->size(), kPageBytes);
  (*pages)->data()[0] = std::byte{42};
  EXPECT_EQ(frontend_.read_xenstore_page(), 42);
}

TEST_P(DomainConformance, TheXenstoreOfTheKernelWeRunOn) {
  std::optional<FrontendProcess> kernel;
  if (environment_->kernel()) {
    EXPECT_EQ(kind(hypervisor_->xenstore_port()), ErrorKind::kNotFound);
    kernel.emplace(environment_->kernel());
    ASSERT_EQ(kernel->domid(), 0);
    ASSERT_TRUE(kernel->set_xenstore_port(kernel->allocate_port()));
  }
  auto port = hypervisor_->xenstore_port();
  ASSERT_TRUE(port.has_value()) << port.error().message();
  EXPECT_GT(*port, 0U);
  auto pages = hypervisor_->map_xenstore_page(0);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  EXPECT_EQ((*pages)->size(), kPageBytes);
}

INSTANTIATE_TEST_SUITE_P(On, MemoryConformance, ::testing::ValuesIn(Environment::names()),
                         [](const auto& instance) { return instance.param; });
INSTANTIATE_TEST_SUITE_P(On, DomainConformance, ::testing::ValuesIn(Environment::names()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace bulkhead::hypervisor::conformance
