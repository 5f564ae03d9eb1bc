#include "runtime/crash_point.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "runtime/instance_faults.h"

namespace bulkhead {
namespace {

CrashPoint test_point{"test-point"};

TEST(CrashPointTest, IsHarmlessUntilArmed) {
  for (int i = 0; i < 1000; ++i) test_point.pass();
  EXPECT_TRUE(std::ranges::count(CrashPoint::names(), "test-point") == 1);
  EXPECT_FALSE(CrashPoint::arm("no-such-point"));
}

TEST(CrashPointDeathTest, DiesAtTheCountedPass) {
  const auto die_at_third = [] {
    CrashPoint::arm("test-point", 3);
    test_point.pass();
    test_point.pass();
    std::fprintf(stderr, "alive after two");
    test_point.pass();
    std::fprintf(stderr, "alive after three");
  };
  EXPECT_EXIT(die_at_third(), ::testing::KilledBySignal(SIGKILL), "alive after two$");
}

TEST(InstanceFaultsTest, EndsAtItsLease) {
  InstanceFaults faults([] {});
  contract::v1::FaultOrder order;
  order.set_id(1);
  order.set_kind("slow");
  order.set_argument("5ms");
  order.set_expires_monotonic_ns(1000);
  ASSERT_TRUE(faults.begin(order).has_value());
  EXPECT_EQ(faults.request_delay_ns(), 5'000'000);
  faults.turn(999);
  EXPECT_EQ(faults.request_delay_ns(), 5'000'000);
  faults.turn(1000);
  EXPECT_EQ(faults.request_delay_ns(), 0);
  EXPECT_EQ(faults.next_turn_ns(1000), 0);
}

TEST(InstanceFaultsTest, EndsWhenCleared) {
  InstanceFaults faults([] {});
  contract::v1::FaultOrder order;
  order.set_id(9);
  order.set_kind("drop-heartbeat");
  order.set_expires_monotonic_ns(INT64_MAX);
  ASSERT_TRUE(faults.begin(order).has_value());
  EXPECT_TRUE(faults.heartbeat_dropped());
  faults.end(9);
  EXPECT_FALSE(faults.heartbeat_dropped());
}

TEST(InstanceFaultsTest, RefusesWhatItDoesNotKnow) {
  InstanceFaults faults([] {});
  contract::v1::FaultOrder order;
  order.set_kind("slow");
  order.set_argument("5 parsecs");
  EXPECT_FALSE(faults.begin(order).has_value());
  order.set_kind("crash-at");
  order.set_argument("nowhere");
  EXPECT_EQ(faults.begin(order).error().kind(), ErrorKind::kNotFound);
  order.set_kind("gremlins");
  EXPECT_FALSE(faults.begin(order).has_value());
}

TEST(UnitsTest, DurationsAndSizes) {
  EXPECT_EQ(parse_duration("50ms").value(), 50'000'000);
  EXPECT_EQ(parse_duration("2min").value(), 120'000'000'000);
  EXPECT_EQ(parse_bytes("64KiB").value(), 65536);
  EXPECT_EQ(parse_bytes("12").value(), 12);
  for (const char* bad : {"", "ms", "-1ms", "5 ms", "5m", "99999999999999999999s", "9999999999999s"}) {
    EXPECT_FALSE(parse_duration(bad).has_value()) << bad;
  }
}

}  // namespace
}  // namespace bulkhead
