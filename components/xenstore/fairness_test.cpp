// Whose turn it is: the queue of clients, the guests' write limit, and what waits to be read by them.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/delivery.h"
#include "components/xenstore/run_queue.h"
#include "components/xenstore/service_test_support.h"
#include "components/xenstore/write_limit.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(RunQueueTest, WhoHadASliceWaitsBehindWhoHadNone) {
  RunQueue queue(4);
  queue.add(1);
  queue.add(2);
  queue.add(1);
  EXPECT_THAT(queue.take_fresh(), ElementsAre(1, 2));
  queue.add_behind(2);
  queue.add(2);  // its bytes arrive meanwhile: it waits all the same
  queue.add(3);
  EXPECT_THAT(queue.take_fresh(), ElementsAre(3));
  EXPECT_TRUE(queue.anyone_waiting());
  EXPECT_EQ(queue.take_waiting(), 2U);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.take_waiting(), std::nullopt);
}

TEST(RunQueueTest, WaitingIsInTurns) {
  RunQueue queue(4);
  for (const std::uint32_t slot : {0U, 1U, 2U}) queue.add_behind(slot);
  EXPECT_EQ(queue.take_waiting(), 0U);
  queue.add_behind(0);
  EXPECT_EQ(queue.take_waiting(), 1U);
  EXPECT_EQ(queue.take_waiting(), 2U);
  EXPECT_EQ(queue.take_waiting(), 0U);
}

TEST(WriteLimitTest, ABurstThenTheRate) {
  WriteLimit limit({.per_second = 100, .burst = 3});
  const std::int64_t start = 5 * kSecond;
  for (int i = 0; i < 3; ++i) EXPECT_EQ(limit.admit(1, start), 0) << i;
  EXPECT_EQ(limit.admit(1, start), start + 10 * kMillisecond);
  EXPECT_EQ(limit.admit(1, start), start + 10 * kMillisecond) << "asking costs nothing";
  EXPECT_EQ(limit.admit(2, start), 0) << "each domain has its own";
  EXPECT_EQ(limit.admit(1, start + 10 * kMillisecond), 0);
  EXPECT_NE(limit.admit(1, start + 10 * kMillisecond), 0);
  // No more than a burst is saved up.
  int granted = 0;
  while (limit.admit(1, start + 100 * kSecond) == 0) ++granted;
  EXPECT_EQ(granted, 3);
}

TEST(WriteLimitTest, CanBeSwitchedOff) {
  WriteLimit limit({.per_second = 0, .burst = 1});
  for (int i = 0; i < 100; ++i) EXPECT_EQ(limit.admit(1, 0), 0);
}

class DeliveryTest : public testing::Test {
 protected:
  DeliveryTest() {
    process_.executor.connect(0, 0);
    process_.executor.connect(1, 7);
    process_.executor.connect(2, 7);
  }
  void call(std::uint32_t slot, std::uint32_t type, std::string_view payload) {
    process_.call(slot, type, payload);
  }
  void read_bytes(std::uint32_t slot, std::uint64_t count) {
    process_.connections.set_sent(slot, process_.connections.slot(slot).sent.load() + count);
    delivery_.sent(slot);
  }
  static std::string counts(const Delivery::Waiting& waiting) {
    return std::to_string(waiting.replies) + "," + std::to_string(waiting.events);
  }

  MemoryCustody store_ = small_custody();
  Incarnation process_{store_};
  Delivery& delivery_ = process_.executor.delivery();
};

TEST_F(DeliveryTest, CountsRepliesAndEventsUntilTheyAreReadAsAWhole) {
  call(1, kWatch, "/x|t|");  // reply "OK" and the first event: 16 + 3 and 16 + 5 bytes
  EXPECT_EQ(counts(delivery_.of_connection(1)), "1,1");
  call(2, kRead, "/|");
  EXPECT_EQ(counts(delivery_.of_domain(7)), "2,1");
  read_bytes(1, 18);
  EXPECT_EQ(counts(delivery_.of_connection(1)), "1,1");
  read_bytes(1, 1);
  EXPECT_EQ(counts(delivery_.of_connection(1)), "0,1");
  read_bytes(1, 21);
  EXPECT_EQ(counts(delivery_.of_connection(1)), "0,0");
  EXPECT_EQ(counts(delivery_.of_domain(7)), "1,0");
  process_.executor.disconnect(2);
  EXPECT_EQ(counts(delivery_.of_domain(7)), "0,0");
}

TEST_F(DeliveryTest, EventsAreCountedWhoeverMadeThem) {
  call(1, kWatch, "/x|t|");
  read_bytes(1, 40);
  call(0, kWrite, "/x|");
  call(0, kSetPerms, "/x|b7|");
  call(0, kWrite, "/x|v");
  EXPECT_EQ(counts(delivery_.of_connection(1)), "0,2");
  read_bytes(1, 21);
  EXPECT_EQ(counts(delivery_.of_connection(1)), "0,1");
  EXPECT_EQ(delivery_.most_bytes_of_domain(7), 21U);
}

// What a closing connection's last completions tell is nobody's business any more.
TEST_F(DeliveryTest, SentAfterTheEndChangesNothing) {
  call(1, kRead, "/|");
  process_.executor.disconnect(1);
  read_bytes(1, 16);
  EXPECT_EQ(counts(delivery_.of_domain(7)), "0,0");
}

TEST_F(DeliveryTest, DomainZeroIsNotCounted) {
  call(0, kRead, "/|");
  EXPECT_EQ(counts(delivery_.of_domain(0)), "0,0");
}

// Whatever was sent, counted or moved when the owner died, its successor counts the same.
TEST_F(DeliveryTest, ASuccessorCountsTheSame) {
  for (int i = 0; i < 40; ++i) {
    call(1, kWatch, "/x|" + std::to_string(i) + "|");
    read_bytes(1, static_cast<std::uint64_t>(i % 5) * 7);
    Incarnation next(store_);
    next.take_over();
    Delivery counted(next.connections);
    counted.opened(1);
    counted.opened(2);
    ASSERT_EQ(counts(counted.of_connection(1)), counts(delivery_.of_connection(1))) << i;
    ASSERT_EQ(counts(counted.of_domain(7)), counts(delivery_.of_domain(7))) << i;
  }
}

// Died after `sent` moved and before the boundary did.
TEST_F(DeliveryTest, ASuccessorFindsTheBoundary) {
  call(1, kWatch, "/x|t|");
  process_.connections.set_sent(1, 19);
  Incarnation next(store_);
  next.take_over();
  Delivery counted(next.connections);
  counted.opened(1);
  EXPECT_EQ(counts(counted.of_connection(1)), "0,1");
  EXPECT_EQ(next.connections.slot(1).boundary.load(), 19U);
}

// The same by dying there.
TEST_F(DeliveryTest, DiesBeforeTheBoundaryMoves) {
  call(1, kWatch, "/x|t|");
  EXPECT_TRUE(dies([&] {
    EXPECT_TRUE(CrashPoint::arm("boundary-behind"));
    read_bytes(1, 19);
  }));
  Incarnation next(store_);
  next.take_over();
  EXPECT_EQ(next.connections.slot(1).sent.load(), 19U);
  EXPECT_EQ(next.connections.slot(1).boundary.load(), 0U);
  Delivery counted(next.connections);
  counted.opened(1);
  EXPECT_EQ(counts(counted.of_connection(1)), "0,1");
  EXPECT_EQ(next.connections.slot(1).boundary.load(), 19U);
}

// Half-sent messages keep their place in the buffer, through any number of wraps.
TEST_F(DeliveryTest, HoldsThroughWraps) {
  std::vector<std::uint64_t> ends;
  const Slot& slot = process_.connections.slot(1);
  for (int i = 0; i < 3000; ++i) {
    call(1, kRead, "/|");
    ends.push_back(slot.produced.load());
    if (i % 3 == 0) continue;
    read_bytes(1, (slot.produced.load() - slot.sent.load()) * 3 / 4);
    const std::uint64_t sent = slot.sent.load();
    const auto waiting = std::ranges::count_if(ends, [&](std::uint64_t end) { return end > sent; });
    ASSERT_EQ(delivery_.of_connection(1).replies, static_cast<std::uint64_t>(waiting)) << i;
  }
  ASSERT_GT(slot.produced.load(), 3 * kSmallSettings.geometry.out_bytes);
}

}  // namespace
}  // namespace bulkhead::xenstore::test
