#include "supervisor/api/health.h"

#include <gtest/gtest.h>

#include <future>
#include <optional>

#include "supervisor/api/fake_core.h"

namespace bulkhead::edge {
namespace {

constexpr std::chrono::seconds kPatience(10);
constexpr HealthTiming kFast{10'000'000, 300'000'000};

v1::Component component(const std::string& name, bool wanted, bool healthy) {
  v1::Component component;
  component.set_name(name);
  component.set_wanted(wanted);
  component.set_running(wanted);
  component.set_ready(wanted);
  component.set_healthy(healthy);
  return component;
}

class HealthFeedTest : public testing::Test {
 protected:
  HealthFeedTest() {
    auto link = CoreLink::start(core_.connect(), [] {});
    if (link) link_ = std::move(*link);
  }

  void start() {
    feed_ = std::make_unique<HealthFeed>(
        *link_, contract::v1::Caller(),
        [this](const std::string& service, bool serving) { record(service, serving); }, kFast);
  }
  void record(const std::string& service, bool serving) {
    const std::lock_guard lock(mutex_);
    statuses_[service] = serving;
    changed_.notify_all();
  }
  bool becomes(const std::string& service, bool serving) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, kPatience, [&] {
      const auto found = statuses_.find(service);
      return found != statuses_.end() && found->second == serving;
    });
  }

  FakeCore core_;
  std::unique_ptr<CoreLink> link_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::map<std::string, bool> statuses_;
  std::unique_ptr<HealthFeed> feed_;  // last: ends before what its sink uses
};

TEST_F(HealthFeedTest, OverallNeedsEveryWantedComponent) {
  core_.set_component(component("xenstore", true, true));
  core_.set_component(component("netback", false, false));
  start();
  EXPECT_TRUE(becomes("xenstore", true));
  EXPECT_TRUE(becomes("netback", false));
  EXPECT_TRUE(becomes("", true));
  core_.set_component(component("xenstore", true, false));
  EXPECT_TRUE(becomes("xenstore", false));
  EXPECT_TRUE(becomes("", false));
  core_.set_component(component("xenstore", true, true));
  EXPECT_TRUE(becomes("", true));
}

TEST_F(HealthFeedTest, NothingWantedIsWell) {
  start();
  EXPECT_TRUE(becomes("", true));
}

TEST_F(HealthFeedTest, ASilentCoreIsNotServingButComponentsKeepTheirStatus) {
  core_.set_component(component("xenstore", true, true));
  start();
  ASSERT_TRUE(becomes("", true));
  core_.pause();
  EXPECT_TRUE(becomes("", false));
  EXPECT_TRUE(becomes("xenstore", true));
  core_.resume();
  EXPECT_TRUE(becomes("", true));
}

TEST_F(HealthFeedTest, NeverAnsweredIsNotServing) {
  core_.pause();
  start();
  EXPECT_TRUE(becomes("", false));
}

TEST_F(HealthFeedTest, AReplacedCoreIsFollowedAndCallsToItsPredecessorEnd) {
  core_.set_component(component("xenstore", true, true));
  start();
  ASSERT_TRUE(becomes("", true));
  class Hanging final : public CoreCall {
   public:
    void on_element(std::string) override {}
    void on_end(CallEnd end) override { code.set_value(end.code); }
    std::promise<Code> code;
  };
  core_.on("HandOver", [](const contract::v1::EdgeRequest&) {});
  auto hanging = std::make_shared<Hanging>();
  ASSERT_TRUE(link_->call(hanging, "HandOver", contract::v1::Caller(), ""));
  ASSERT_TRUE(core_.wait_for("HandOver"));
  core_.restart();
  auto ended = hanging->code.get_future();
  ASSERT_EQ(ended.wait_for(kPatience), std::future_status::ready);
  EXPECT_EQ(ended.get(), Code::kUnavailable);
  ASSERT_TRUE(core_.wait_for("WatchComponents", 1));  // asked again
  ASSERT_TRUE(core_.wait_for("ListComponents", 1));
  core_.set_component(component("xenstore", true, false));
  EXPECT_TRUE(becomes("xenstore", false));
}

}  // namespace
}  // namespace bulkhead::edge
