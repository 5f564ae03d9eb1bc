#include "supervisor/api/core_link.h"

#include <gtest/gtest.h>

#include <condition_variable>
#include <future>

#include "runtime/clock.h"
#include "supervisor/api/fake_core.h"

namespace bulkhead::edge {
namespace {

using contract::v1::Caller;
using contract::v1::EdgeRequest;

constexpr std::chrono::seconds kPatience(10);

// A call whose ends the test can wait for.
class RecordedCall final : public CoreCall {
 public:
  void on_element(std::string body) override {
    const std::lock_guard lock(mutex_);
    elements_.push_back(std::move(body));
    changed_.notify_all();
  }
  void on_end(CallEnd end) override {
    const std::lock_guard lock(mutex_);
    ++ends_;
    end_ = std::move(end);
    changed_.notify_all();
  }

  CallEnd wait_for_end() {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return ends_ > 0; }));
    return end_;
  }
  std::vector<std::string> wait_for_elements(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return elements_.size() >= count; }));
    return elements_;
  }
  int ends() {
    const std::lock_guard lock(mutex_);
    return ends_;
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::string> elements_;
  int ends_ = 0;
  CallEnd end_;
};

class CoreLinkTest : public testing::Test {
 protected:
  CoreLinkTest() {
    auto link = CoreLink::start(core_.connect(), [this] { closed_.set_value(); });
    if (link) link_ = std::move(*link);
  }

  std::shared_ptr<RecordedCall> call(const std::string& method,
                                     std::int64_t deadline_ns = CoreLink::kNoDeadline) {
    auto call = std::make_shared<RecordedCall>();
    EXPECT_TRUE(link_->call(call, method, Caller(), "body", deadline_ns));
    return call;
  }

  FakeCore core_;
  std::promise<void> closed_;
  std::unique_ptr<CoreLink> link_;
};

TEST_F(CoreLinkTest, CarriesARequestAndItsAnswer) {
  core_.on("Echo", [&](const EdgeRequest& request) { core_.answer(request.id(), request); });
  Caller caller;
  caller.set_certificate("operator");
  auto echo = std::make_shared<RecordedCall>();
  ASSERT_TRUE(link_->call(echo, "Echo", caller, "payload"));
  const CallEnd end = echo->wait_for_end();
  EXPECT_EQ(end.code, Code::kOk);
  EdgeRequest seen;
  ASSERT_TRUE(seen.ParseFromString(end.body));
  EXPECT_EQ(seen.method(), "Echo");
  EXPECT_EQ(seen.caller().certificate(), "operator");
  EXPECT_EQ(seen.body(), "payload");
}

TEST_F(CoreLinkTest, PassesARefusalOn) {
  core_.on("Refuse", [&](const EdgeRequest& request) { core_.refuse(request.id(), Code{7}, "not yours"); });
  const CallEnd end = call("Refuse")->wait_for_end();
  EXPECT_EQ(static_cast<int>(end.code), 7);
  EXPECT_EQ(end.message, "not yours");
}

TEST_F(CoreLinkTest, DeliversStreamElementsInOrderThenTheEnd) {
  core_.on("Stream", [&](const EdgeRequest& request) {
    v1::Event event;
    for (std::uint64_t i = 1; i <= 1000; ++i) {
      event.set_sequence(i);
      core_.element(request.id(), event);
    }
    core_.refuse(request.id(), Code::kOk, "");
  });
  auto stream = call("Stream");
  EXPECT_EQ(stream->wait_for_end().code, Code::kOk);
  const auto elements = stream->wait_for_elements(1000);
  ASSERT_EQ(elements.size(), 1000U);
  for (std::uint64_t i = 0; i < 1000; ++i) {
    v1::Event event;
    ASSERT_TRUE(event.ParseFromString(elements[i]));
    EXPECT_EQ(event.sequence(), i + 1);
  }
}

TEST_F(CoreLinkTest, CancelTellsTheCoreAndSilencesTheCall) {
  core_.on("Hang", [](const EdgeRequest&) {});
  auto hanging = call("Hang");
  const auto request = core_.wait_for("Hang");
  ASSERT_TRUE(request);
  EXPECT_TRUE(link_->cancel(*hanging));
  EXPECT_TRUE(core_.wait_for_cancel(request->id()));
  EXPECT_FALSE(link_->cancel(*hanging));
  core_.answer(request->id(), v1::Event());
  call("GetVersion")->wait_for_end();  // answered after the late answer was read
  EXPECT_EQ(hanging->ends(), 0);
}

TEST_F(CoreLinkTest, EndsACallAtItsDeadlineAndTellsTheCore) {
  core_.on("Hang", [](const EdgeRequest&) {});
  auto hanging = call("Hang", monotonic_ns() + 20 * kMillisecond);
  EXPECT_EQ(hanging->wait_for_end().code, Code::kDeadlineExceeded);
  const auto request = core_.wait_for("Hang");
  ASSERT_TRUE(request);
  EXPECT_TRUE(core_.wait_for_cancel(request->id()));
}

TEST_F(CoreLinkTest, CallsWaitWhileTheCoreIsAway) {
  core_.pause();
  std::vector<std::shared_ptr<RecordedCall>> calls;
  for (std::size_t i = 0; i < CoreLink::kMaxCalls; ++i) calls.push_back(call("GetVersion"));
  const Status over = link_->call(std::make_shared<RecordedCall>(), "GetVersion", Caller(), "");
  ASSERT_FALSE(over);
  EXPECT_EQ(over.error().kind(), ErrorKind::kExhausted);
  for (const auto& waiting : calls) EXPECT_EQ(waiting->ends(), 0);
  core_.resume();
  for (const auto& waiting : calls) EXPECT_EQ(waiting->wait_for_end().code, Code::kOk);
}

TEST_F(CoreLinkTest, ACallCancelledBeforeItWasSentNeverReachesTheCore) {
  core_.pause();
  for (int i = 0; i < 1000; ++i)
    call("GetVersion");  // more than the socket takes: the rest stays in the edge
  auto unsent = call("Unsent");
  EXPECT_TRUE(link_->cancel(*unsent));
  core_.resume();
  call("Last")->wait_for_end();
  EXPECT_EQ(core_.count("Unsent"), 0U);
}

TEST_F(CoreLinkTest, AnOversizedRequestIsRefusedAtOnce) {
  const Status sent =
      link_->call(std::make_shared<RecordedCall>(), "Big", Caller(), std::string(200 * 1024, 'x'));
  ASSERT_FALSE(sent);
  EXPECT_EQ(sent.error().kind(), ErrorKind::kInvalid);
}

TEST_F(CoreLinkTest, AbandonsWhatAReplacedCoreWasAsked) {
  core_.on("Hang", [](const EdgeRequest&) {});
  auto old_call = call("Hang");
  auto marker = call("Hang");
  auto young = call("Hang");
  const auto old_request = core_.wait_for("Hang");
  ASSERT_TRUE(old_request);
  link_->abandon_before(*marker, "restarted");
  EXPECT_EQ(old_call->wait_for_end().code, Code::kUnavailable);
  EXPECT_TRUE(core_.wait_for_cancel(old_request->id()));
  EXPECT_EQ(marker->ends() + young->ends(), 0);
}

TEST_F(CoreLinkTest, ACoreThatHangsUpEndsEverything) {
  core_.on("Hang", [](const EdgeRequest&) {});
  auto hanging = call("Hang");
  ASSERT_TRUE(core_.wait_for("Hang"));
  core_.hang_up();
  EXPECT_EQ(hanging->wait_for_end().code, Code::kUnavailable);
  EXPECT_EQ(closed_.get_future().wait_for(kPatience), std::future_status::ready);
  const Status after = link_->call(std::make_shared<RecordedCall>(), "Any", Caller(), "");
  ASSERT_FALSE(after);
  EXPECT_EQ(after.error().kind(), ErrorKind::kDisconnected);
}

TEST_F(CoreLinkTest, EndingTheLinkEndsItsCalls) {
  core_.on("Hang", [](const EdgeRequest&) {});
  auto hanging = call("Hang");
  link_.reset();
  EXPECT_EQ(hanging->wait_for_end().code, Code::kUnavailable);
  EXPECT_EQ(hanging->ends(), 1);
}

// Each call ends exactly once or is cancelled, whatever the interleaving of answers, cancellations and
// deadlines.
TEST_F(CoreLinkTest, EveryCallEndsOnceUnderContention) {
  std::vector<std::thread> threads;
  std::atomic<int> wrong = 0;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&, t] {
      for (int i = 0; i < 300; ++i) {
        auto one = call("GetVersion", (i % 3 == 0) ? monotonic_ns() : CoreLink::kNoDeadline);
        const bool cancelled = (i + t) % 2 == 0 && link_->cancel(*one);
        if (!cancelled) one->wait_for_end();
        if (one->ends() != (cancelled ? 0 : 1)) ++wrong;
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(wrong, 0);
}

}  // namespace
}  // namespace bulkhead::edge
