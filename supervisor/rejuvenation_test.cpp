#include "supervisor/rejuvenation.h"

#include <gtest/gtest.h>

#include <set>

#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::uint64_t kMebi = std::uint64_t{1} << 20;
constexpr std::int64_t kHour = 3600 * kSecond;

RejuvenateConfig config(std::int64_t every_ns, std::uint64_t growth) {
  RejuvenateConfig made;
  made.every_ns = every_ns;
  made.growth = growth;
  return made;
}

TEST(Rejuvenation, IsOffUnlessAskedFor) {
  const RejuvenateConfig off = config(0, 0);
  const Rejuvenation rejuvenation(off);
  EXPECT_FALSE(rejuvenation.due_ns(5, "thing", 1));
  EXPECT_FALSE(rejuvenation.growth_reason(kMebi, 1000 * kMebi));
}

TEST(Rejuvenation, AgeCountsFromTheStartAndIsSpreadOut) {
  const RejuvenateConfig daily = config(24 * kHour, 0);
  const Rejuvenation rejuvenation(daily);
  std::set<std::int64_t> times;
  for (std::uint64_t instance = 1; instance <= 20; ++instance) {
    const auto due = rejuvenation.due_ns(kHour, "thing", instance);
    ASSERT_TRUE(due);
    EXPECT_GE(*due, 25 * kHour);
    EXPECT_LE(*due, 25 * kHour + 24 * kHour / 10);
    // Whoever asks, whenever: nothing but its arguments counts.
    EXPECT_EQ(Rejuvenation(daily).due_ns(kHour, "thing", instance), due);
    times.insert(*due);
  }
  EXPECT_GT(times.size(), 15U);
  EXPECT_NE(rejuvenation.due_ns(kHour, "thing", 1), rejuvenation.due_ns(kHour, "other", 1));
}

TEST(Rejuvenation, GrowthIsAgainstTheProcesssOwnBeginning) {
  const RejuvenateConfig growth = config(0, 64 * kMebi);
  const Rejuvenation rejuvenation(growth);
  EXPECT_FALSE(rejuvenation.growth_reason(0, 1000 * kMebi)) << "not known yet";
  EXPECT_FALSE(rejuvenation.growth_reason(100 * kMebi, 164 * kMebi));
  EXPECT_FALSE(rejuvenation.growth_reason(100 * kMebi, 50 * kMebi));
  const auto reason = rejuvenation.growth_reason(100 * kMebi, 165 * kMebi);
  ASSERT_TRUE(reason);
  EXPECT_EQ(*reason, "165 MiB of private memory, 100 MiB when it became active");
}

TEST(Rejuvenation, WhatDoesNotHelpIsDoneLessOften) {
  const RejuvenateConfig growth = config(0, 10 * kMebi);
  Rejuvenation rejuvenation(growth);
  // The successor is as large: the state has grown.
  rejuvenation.replaced(10 * kMebi, 21 * kMebi, 21 * kMebi);
  EXPECT_EQ(rejuvenation.factor(), 2U);
  EXPECT_FALSE(rejuvenation.growth_reason(21 * kMebi, 41 * kMebi));
  EXPECT_TRUE(rejuvenation.growth_reason(21 * kMebi, 42 * kMebi));
  rejuvenation.replaced(21 * kMebi, 42 * kMebi, 40 * kMebi);
  EXPECT_EQ(rejuvenation.factor(), 4U);
  for (int i = 0; i < 20; ++i) rejuvenation.replaced(1, 100 * kMebi, 100 * kMebi);
  EXPECT_EQ(rejuvenation.factor(), Rejuvenation::kMaxFactor);
  // It was a leak after all.
  rejuvenation.replaced(10 * kMebi, 100 * kMebi, 12 * kMebi);
  EXPECT_EQ(rejuvenation.factor(), 1U);
}

TEST(Rejuvenation, AFormerCoresFactorIsTakenWithinBounds) {
  const RejuvenateConfig growth = config(0, 10 * kMebi);
  Rejuvenation rejuvenation(growth);
  rejuvenation.restore(0);
  EXPECT_EQ(rejuvenation.factor(), 1U);
  rejuvenation.restore(1000);
  EXPECT_EQ(rejuvenation.factor(), Rejuvenation::kMaxFactor);
}

}  // namespace
}  // namespace bulkhead::supervisor
