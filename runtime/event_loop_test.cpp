#include "runtime/event_loop.h"

#include <gtest/gtest.h>
#include <sys/eventfd.h>

#include "runtime/clock.h"

namespace bulkhead {
namespace {

class EventLoopTest : public ::testing::Test {
 protected:
  EventLoopTest() : loop_(std::move(*EventLoop::create())) {}

  static UniqueFd rung() { return UniqueFd(::eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK)); }

  EventLoop loop_;
};

TEST_F(EventLoopTest, CallsBackForAReadyDescriptor) {
  const UniqueFd fd = rung();
  int calls = 0;
  ASSERT_TRUE(loop_.watch(fd.borrow(), EPOLLIN, [&](std::uint32_t) { ++calls; }).has_value());
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 1);
  loop_.unwatch(fd.borrow());
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 1);
}

// Two are ready in one turn and each removes both: only one may be called.
TEST_F(EventLoopTest, ARemovedWatchIsNotCalledInTheSameTurn) {
  const UniqueFd a = rung();
  const UniqueFd b = rung();
  int calls = 0;
  const auto remove_both = [&](std::uint32_t) {
    ++calls;
    loop_.unwatch(a.borrow());
    loop_.unwatch(b.borrow());
  };
  ASSERT_TRUE(loop_.watch(a.borrow(), EPOLLIN, remove_both).has_value());
  ASSERT_TRUE(loop_.watch(b.borrow(), EPOLLIN, remove_both).has_value());
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 1);
}

TEST_F(EventLoopTest, TimersRunInOrderOfTheirDeadlines) {
  std::string order;
  loop_.after(2 * kMillisecond, [&] { order += 'b'; });
  loop_.after(1 * kMillisecond, [&] { order += 'a'; });
  const auto cancelled = loop_.after(1 * kMillisecond, [&] { order += 'x'; });
  loop_.after(3 * kMillisecond, [&] { loop_.stop(); });
  loop_.cancel(cancelled);
  ASSERT_TRUE(loop_.run().has_value());
  EXPECT_EQ(order, "ab");
}

TEST_F(EventLoopTest, ATimerArmedByATimerWaitsForTheNextTurn) {
  int calls = 0;
  std::function<void()> again = [&] {
    ++calls;
    loop_.after(0, again);
  };
  loop_.after(0, again);
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 1);
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 2);
}

TEST_F(EventLoopTest, ACallbackMayCancelATimerDueInTheSameTurn) {
  int calls = 0;
  EventLoop::TimerId second = 0;
  loop_.after(0, [&] { loop_.cancel(second); });
  second = loop_.after(0, [&] { ++calls; });
  ASSERT_TRUE(loop_.turn(0).has_value());
  EXPECT_EQ(calls, 0);
}

}  // namespace
}  // namespace bulkhead
