// What every implementation of the port does: event channels.
#include "hypervisor/conformance/suite.h"

namespace bulkhead::hypervisor::conformance {
namespace {

class EventConformance : public Conformance {
 protected:
  void SetUp() override {
    Conformance::SetUp();
    use_new_events();
  }

  bool has_event() {
    auto event = hypervisor_->take_event();
    return event.has_value() && event->has_value();
  }
  // Takes what there is, and unmasks; how many.
  int take_all() {
    int taken = 0;
    for (; has_event(); ++taken) (void)hypervisor_->unmask(port_);
    return taken;
  }
};

TEST_P(EventConformance, WithoutSignalsThereIsNothingAndNobodyWaits) {
  EXPECT_FALSE(has_event());
  bind_new();
  EXPECT_FALSE(has_event());
}

TEST_P(EventConformance, EachSideSignalsTheOther) {
  bind_new();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(frontend_.notify(remote_));
    ASSERT_EQ(take_event(), port_);
    ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
    ASSERT_TRUE(hypervisor_->notify(port_).has_value());
    ASSERT_EQ(frontend_.take_event(), remote_);
  }
}

TEST_P(EventConformance, TheSignalledPortIsTheOneThatIsTaken) {
  bind_new();
  const Port first = port_;
  const Port first_remote = remote_;
  bind_new();
  ASSERT_NE(first, port_);
  ASSERT_TRUE(frontend_.notify(remote_));
  EXPECT_EQ(take_event(), port_);
  ASSERT_TRUE(frontend_.notify(first_remote));
  EXPECT_EQ(take_event(), first);
  ASSERT_TRUE(hypervisor_->notify(first).has_value());
  EXPECT_EQ(frontend_.take_event(), first_remote);
}

TEST_P(EventConformance, SignalsCoalesce) {
  bind_new();
  ASSERT_TRUE(frontend_.notify(remote_, 1000));
  ASSERT_EQ(take_event(), port_);
  ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
  // Those after the first may be one more event, which may take a moment.
  EXPECT_LE(take_all(), 1);
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(hypervisor_->notify(port_).has_value());
  EXPECT_EQ(frontend_.take_event(), remote_);
}

TEST_P(EventConformance, ASignalBeforeTheBindingIsNotLost) {
  remote_ = frontend_.allocate_port();
  ASSERT_TRUE(frontend_.notify(remote_));
  auto port = hypervisor_->bind(domid_, remote_);
  ASSERT_TRUE(port.has_value()) << port.error().message();
  EXPECT_EQ(take_event(), *port);
}

TEST_P(EventConformance, ASignalBetweenTakingAndUnmaskingIsNotLost) {
  bind_new();
  ASSERT_TRUE(frontend_.notify(remote_));
  ASSERT_EQ(take_event(), port_);
  ASSERT_TRUE(frontend_.notify(remote_));
  ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
  EXPECT_EQ(take_event(), port_);
}

// The way of every ring: look only when there was an event, unmask, look again at the next one. Whatever the
// frontend does meanwhile, its last step is seen.
TEST_P(EventConformance, NoStepOfARingIsMissed) {
  constexpr std::uint64_t kTarget = 20'000;
  auto pages = map({frontend_.grant(Access::kReadWrite)}, Access::kReadWrite);
  ASSERT_TRUE(pages.has_value()) << pages.error().message();
  const auto* counter = reinterpret_cast<const std::atomic<std::uint64_t>*>((*pages)->data());
  bind_new();
  frontend_.count(remote_, kTarget);
  std::uint64_t seen = 0;
  while (seen < kTarget) {
    ASSERT_EQ(take_event(), port_) << "after step " << seen;
    ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
    seen = counter->load();
  }
}

TEST_P(EventConformance, APortIsBoundOnce) {
  bind_new();
  EXPECT_EQ(kind(hypervisor_->bind(domid_, remote_)), ErrorKind::kRefused);
  EXPECT_EQ(kind(hypervisor_->bind(domid_, remote_ + 1000)), ErrorKind::kRefused);
  EXPECT_FALSE(hypervisor_->bind(kNoDomain, remote_).has_value());
}

TEST_P(EventConformance, WhatIsUnboundIsGoneAndMayBeBoundAgain) {
  bind_new();
  ASSERT_TRUE(frontend_.notify(remote_));
  ASSERT_TRUE(hypervisor_->unbind(port_).has_value());
  EXPECT_LE(take_all(), 1);
  EXPECT_EQ(kind(hypervisor_->notify(port_)), ErrorKind::kNotFound);
  EXPECT_FALSE(hypervisor_->unbind(port_).has_value());
  auto port = hypervisor_->bind(domid_, remote_);
  ASSERT_TRUE(port.has_value()) << port.error().message();
  port_ = *port;
  settle();
  ASSERT_TRUE(frontend_.notify(remote_));
  EXPECT_EQ(take_event(), port_);
  ASSERT_TRUE(hypervisor_->notify(port_).has_value());
  EXPECT_EQ(frontend_.take_event(), remote_);
}

TEST_P(EventConformance, EventsAreUsedOnce) {
  auto events = hypervisor_->make_events();
  ASSERT_TRUE(events.has_value());
  EXPECT_EQ(kind(hypervisor_->use_events(events->borrow())), ErrorKind::kRefused);
}

// ---- a backend dies, a successor has the descriptor ----

class SuccessionConformance : public Conformance {
 protected:
  // Binds in another process, which leaves its events descriptor to us, and then kills that process. `tell`:
  // whether it tells which port it got.
  void predecessor_binds(bool tell) {
    remote_ = frontend_.allocate_port();
    Child predecessor([this, tell](const Line& line) {
      auto hypervisor = open(environment_->spec());
      if (!hypervisor) return;
      auto events = (*hypervisor)->make_events();
      if (!events || !(*hypervisor)->use_events(events->borrow())) return;
      if (!line.send(0, events->borrow())) return;
      auto port = (*hypervisor)->bind(domid_, remote_);
      if (!port || take_event_of(**hypervisor) != *port) return;
      // Taken by somebody who dies: a successor unmasks everything.
      (void)line.send(tell ? static_cast<std::int64_t>(*port) : 0);
      for (;;) ::pause();
    });
    auto events = predecessor.line().receive();
    ASSERT_TRUE(events.has_value() && events->fd.valid());
    custody_ = std::move(events->fd);
    auto port = predecessor.line().receive();
    ASSERT_TRUE(port.has_value()) << port.error().message();
    port_ = static_cast<Port>(port->value);
    predecessor.kill();
  }

  void take_over() {
    const auto used = hypervisor_->use_events(custody_.borrow());
    ASSERT_TRUE(used.has_value()) << used.error().message();
  }

  void expect_both_ways() {
    ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
    ASSERT_TRUE(frontend_.notify(remote_));
    EXPECT_EQ(take_event(), port_);
    ASSERT_TRUE(hypervisor_->notify(port_).has_value());
    EXPECT_EQ(frontend_.take_event(), remote_);
  }

  UniqueFd custody_;
};

TEST_P(SuccessionConformance, BindingsLiveOnInTheDescriptor) {
  predecessor_binds(true);
  take_over();
  expect_both_ways();
  EXPECT_EQ(kind(hypervisor_->bind(domid_, remote_)), ErrorKind::kRefused);
}

TEST_P(SuccessionConformance, ASignalWhileNobodyServesIsPending) {
  predecessor_binds(true);
  ASSERT_TRUE(frontend_.notify(remote_));
  take_over();
  ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
  EXPECT_EQ(take_event(), port_);
}

TEST_P(SuccessionConformance, ABindingThatNobodyNotedIsFound) {
  predecessor_binds(false);
  const Port unbound = frontend_.allocate_port();
  take_over();
  auto found = hypervisor_->find_binding(domid_, remote_);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  ASSERT_TRUE(found->has_value());
  port_ = **found;
  expect_both_ways();
  found = hypervisor_->find_binding(domid_, unbound);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  EXPECT_FALSE(found->has_value());
}

TEST_P(SuccessionConformance, TheOtherEndOfAPortIsFound) {
  predecessor_binds(true);
  take_over();
  auto found = hypervisor_->remote_of(domid_, port_);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  EXPECT_EQ(*found, std::optional(remote_));
  found = hypervisor_->remote_of(domid_ + 1, port_);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  EXPECT_FALSE(found->has_value());
  ASSERT_TRUE(hypervisor_->unbind(port_).has_value());
  found = hypervisor_->remote_of(domid_, port_);
  ASSERT_TRUE(found.has_value()) << found.error().message();
  EXPECT_FALSE(found->has_value());
}

TEST_P(SuccessionConformance, TwoMayUseTheDescriptorWhileOneTakesEvents) {
  use_new_events();
  bind_new();
  Child standby([this](const Line& line) {
    auto hypervisor = open(environment_->spec());
    if (hypervisor && (*hypervisor)->use_events(hypervisor_->events())) (void)line.send(1);
    for (;;) ::pause();
  });
  ASSERT_TRUE(standby.line().receive().has_value());
  ASSERT_TRUE(frontend_.notify(remote_));
  EXPECT_EQ(take_event(), port_);
  standby.kill();
  custody_ = UniqueFd();
  expect_both_ways();
}

INSTANTIATE_TEST_SUITE_P(On, EventConformance, ::testing::ValuesIn(Environment::names()),
                         [](const auto& instance) { return instance.param; });
INSTANTIATE_TEST_SUITE_P(On, SuccessionConformance, ::testing::ValuesIn(Environment::names()),
                         [](const auto& instance) { return instance.param; });

}  // namespace
}  // namespace bulkhead::hypervisor::conformance
