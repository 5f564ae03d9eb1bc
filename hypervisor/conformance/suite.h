// The fixture of the conformance tests: a hypervisor, a frontend in another process, and we as the backend.
#pragma once

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>

#include "hypervisor/conformance/environment.h"
#include "hypervisor/conformance/kind.h"

namespace bulkhead::hypervisor::conformance {

inline constexpr Domid kNoDomain = 0x7FEF;
inline constexpr GrantRef kNoGrant = 30'000;  // which no frontend here grants

// The next event; 0: none within the deadline.
inline Port take_event_of(Hypervisor& hypervisor) {
  while (wait_readable(hypervisor.events())) {
    auto event = hypervisor.take_event();
    if (!event) break;
    if (*event) return **event;
  }
  return 0;
}

class Conformance : public ::testing::TestWithParam<std::string> {
 protected:
  // The frontend first: what is opened afterwards it does not inherit.
  Conformance() : environment_(Environment::create(GetParam())), frontend_(environment_->guest()) {}

  void SetUp() override {
    auto hypervisor = open(environment_->spec());
    ASSERT_TRUE(hypervisor.has_value()) << hypervisor.error().message();
    hypervisor_ = std::move(*hypervisor);
    const auto domid = frontend_.domid();
    ASSERT_GE(domid, 0);
    domid_ = static_cast<Domid>(domid);
  }

  // Says by name what a dom0 by loopback cannot show.
  bool needs_domains() const {
    if (environment_->has_domains()) return true;
    [] {
      GTEST_SKIP()
          << "the frontend is dom0 itself, by loopback: it cannot die, and has no second xenstore page";
    }();
    return false;
  }

  Result<std::unique_ptr<Pages>> map(const std::vector<GrantRef>& refs, Access access) {
    return hypervisor_->map(domid_, refs, access);
  }

  void use_new_events() {
    auto events = hypervisor_->make_events();
    ASSERT_TRUE(events.has_value()) << events.error().message();
    const auto used = hypervisor_->use_events(events->borrow());
    ASSERT_TRUE(used.has_value()) << used.error().message();
  }
  Port take_event() { return take_event_of(*hypervisor_); }
  // A port of ours bound to a new one of the frontend's, with what a new binding has pending taken.
  void bind_new() {
    remote_ = frontend_.allocate_port();
    auto port = hypervisor_->bind(domid_, remote_);
    ASSERT_TRUE(port.has_value()) << port.error().message();
    port_ = *port;
    settle();
  }
  // A new binding is pending once.
  void settle() {
    ASSERT_EQ(take_event(), port_);
    ASSERT_TRUE(hypervisor_->unmask(port_).has_value());
  }

  std::unique_ptr<Environment> environment_;
  FrontendProcess frontend_;
  std::unique_ptr<Hypervisor> hypervisor_;
  Domid domid_ = 0;
  Port remote_ = 0;
  Port port_ = 0;
};

}  // namespace bulkhead::hypervisor::conformance
