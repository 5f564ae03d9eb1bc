#include "supervisor/budget.h"

#include <gtest/gtest.h>

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

TEST(RestartBudget, AllowsNInAnyWindow) {
  RestartBudget budget(3, 10 * kSecond);
  EXPECT_TRUE(budget.take(0));
  EXPECT_TRUE(budget.take(4 * kSecond));
  EXPECT_TRUE(budget.take(9 * kSecond));
  EXPECT_EQ(budget.left(9 * kSecond), 0U);
  EXPECT_FALSE(budget.take(10 * kSecond - 1));
  EXPECT_TRUE(budget.take(10 * kSecond));  // the first one is out of the window, exactly
  EXPECT_FALSE(budget.take(13 * kSecond));
  EXPECT_EQ(budget.left(14 * kSecond), 1U);
}

TEST(RestartBudget, ARefusedUseCostsNothing) {
  RestartBudget budget(1, 10 * kSecond);
  EXPECT_TRUE(budget.take(0));
  EXPECT_FALSE(budget.take(9 * kSecond));
  EXPECT_TRUE(budget.take(10 * kSecond));
}

TEST(RestartBudget, ZeroMeansNever) {
  RestartBudget budget(0, kSecond);
  EXPECT_FALSE(budget.take(0));
  EXPECT_EQ(budget.left(0), 0U);
}

TEST(RestartBudget, ResetForgets) {
  RestartBudget budget(1, kSecond);
  EXPECT_TRUE(budget.take(0));
  budget.reset();
  EXPECT_TRUE(budget.take(1));
}

TEST(Backoff, FirstFailureIsFreeThenDoublesToTheCap) {
  Backoff backoff(kSecond, 5 * kSecond, 60 * kSecond);
  EXPECT_EQ(backoff.next(0), 0);
  EXPECT_EQ(backoff.next(0), kSecond);
  EXPECT_EQ(backoff.next(0), 2 * kSecond);
  EXPECT_EQ(backoff.next(0), 4 * kSecond);
  EXPECT_EQ(backoff.next(0), 5 * kSecond);
  EXPECT_EQ(backoff.next(0), 5 * kSecond);
  EXPECT_EQ(backoff.failures(), 6U);
}

TEST(Backoff, ForgetsAfterSustainedHealthOnly) {
  Backoff backoff(kSecond, 60 * kSecond, 30 * kSecond);
  EXPECT_EQ(backoff.next(0), 0);
  EXPECT_EQ(backoff.next(0), kSecond);
  backoff.served(10 * kSecond);
  EXPECT_EQ(backoff.next(40 * kSecond - 1), 2 * kSecond);  // 30 s less a nanosecond: not yet
  backoff.served(50 * kSecond);
  EXPECT_EQ(backoff.next(80 * kSecond), 0);
}

TEST(Backoff, TimeSpentFailingIsNotHealth) {
  Backoff backoff(kSecond, 60 * kSecond, 30 * kSecond);
  backoff.served(0);
  EXPECT_EQ(backoff.next(100 * kSecond), 0);
  // An hour without serving in between.
  EXPECT_EQ(backoff.next(3700 * kSecond), kSecond);
}

TEST(Backoff, ExtremeValuesDoNotOverflow) {
  Backoff backoff(INT64_MAX / 3, INT64_MAX, kSecond);
  backoff.next(0);
  std::int64_t last = 0;
  for (int i = 0; i < 1000; ++i) {
    const std::int64_t delay = backoff.next(0);
    EXPECT_GE(delay, last);
    last = delay;
  }
  EXPECT_EQ(last, INT64_MAX);
  Backoff none(0, kSecond, kSecond);
  none.next(0);
  EXPECT_EQ(none.next(0), 0);
  EXPECT_EQ(none.next(0), 0);
}

}  // namespace
}  // namespace bulkhead::supervisor
