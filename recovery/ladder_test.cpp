#include "recovery/ladder.h"

#include <gtest/gtest.h>

namespace bulkhead::recovery {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

LadderPolicy native() {
  LadderPolicy policy;
  policy[Rung::kHandOver] = {true, 3};
  policy[Rung::kRebuild] = {true, 2};
  policy.window_ns = 60 * kSecond;
  return policy;
}

const Situation kWithStandby{.standby_present = true, .same_request = false, .deliberate = false};
const Situation kAlone{};

TEST(Ladder, HandsOverWhileThereIsAStandbyAndBudget) {
  const auto policy = native();
  History history;
  for (int i = 0; i < 3; ++i)
    EXPECT_EQ(take_step(policy, history, kWithStandby, i * kSecond).rung, Rung::kHandOver);
  EXPECT_EQ(take_step(policy, history, kWithStandby, 3 * kSecond).rung, Rung::kRebuild);
}

TEST(Ladder, GoesUpRungByRungToIsolation) {
  const auto policy = native();
  History history;
  const Rung expected[] = {Rung::kHandOver, Rung::kHandOver, Rung::kHandOver, Rung::kRebuild,
                           Rung::kRebuild,  Rung::kIsolate,  Rung::kIsolate};
  for (const Rung rung : expected) EXPECT_EQ(take_step(policy, history, kWithStandby, 0).rung, rung);
}

TEST(Ladder, WithoutAStandbyItRebuilds) {
  const auto policy = native();
  History history;
  EXPECT_EQ(take_step(policy, history, kAlone, 0).rung, Rung::kRebuild);
  EXPECT_EQ(take_step(policy, history, kAlone, 0).rung, Rung::kRebuild);
  EXPECT_EQ(take_step(policy, history, kAlone, 0).rung, Rung::kIsolate);
  // A standby that appears meanwhile still has its own budget.
  EXPECT_EQ(take_step(policy, history, kWithStandby, 0).rung, Rung::kHandOver);
}

TEST(Ladder, BudgetComesBackWithTime) {
  const auto policy = native();
  History history;
  take_step(policy, history, kAlone, 0);
  take_step(policy, history, kAlone, 30 * kSecond);
  EXPECT_EQ(next_step(policy, history, kAlone, 60 * kSecond - 1).rung, Rung::kIsolate);
  EXPECT_EQ(next_step(policy, history, kAlone, 60 * kSecond).rung, Rung::kRebuild);
}

TEST(Ladder, HealthClearsTheHistory) {
  const auto policy = native();
  History history;
  for (int i = 0; i < 6; ++i) take_step(policy, history, kWithStandby, 0);
  EXPECT_EQ(next_step(policy, history, kWithStandby, 1).rung, Rung::kIsolate);
  history.clear();
  EXPECT_EQ(next_step(policy, history, kWithStandby, 1).rung, Rung::kHandOver);
}

TEST(Ladder, DeliberateFailuresCostNothing) {
  const auto policy = native();
  History history;
  Situation fault = kWithStandby;
  fault.deliberate = true;
  for (int i = 0; i < 1000; ++i) EXPECT_EQ(take_step(policy, history, fault, i).rung, Rung::kHandOver);
  EXPECT_EQ(history.uses(Rung::kHandOver, 1000, policy.window_ns), 0U);
  // Not even when the budget is used up by real ones.
  for (int i = 0; i < 6; ++i) take_step(policy, history, kWithStandby, 1000);
  EXPECT_EQ(next_step(policy, history, fault, 1000).rung, Rung::kHandOver);
}

TEST(Ladder, SkipsWhatIsNotOffered) {
  LadderPolicy foreign;
  foreign[Rung::kRebuild] = {true, 1};
  foreign.window_ns = kSecond;
  History history;
  EXPECT_EQ(take_step(foreign, history, kWithStandby, 0).rung, Rung::kRebuild);
  EXPECT_EQ(take_step(foreign, history, kWithStandby, 0).rung, Rung::kIsolate);
  const LadderPolicy nothing;
  EXPECT_EQ(next_step(nothing, History{}, kWithStandby, 0).rung, Rung::kIsolate);
}

TEST(Ladder, QuarantinesARequestThatKillsInsteadOfHandingItOn) {
  auto policy = native();
  policy[Rung::kQuarantine] = {true, 1};
  History history;
  Situation poisoned = kWithStandby;
  poisoned.same_request = true;
  EXPECT_EQ(take_step(policy, history, kWithStandby, 0).rung, Rung::kHandOver);
  EXPECT_EQ(take_step(policy, history, poisoned, 0).rung, Rung::kQuarantine);
  // Quarantine is used up: the ordinary order again.
  EXPECT_EQ(take_step(policy, history, poisoned, 0).rung, Rung::kHandOver);
  // Not offered: no detour.
  EXPECT_EQ(next_step(native(), History{}, poisoned, 0).rung, Rung::kHandOver);
}

TEST(Ladder, GivesSomethingUpOnlyAfterARebuildThatFoundCustodyDamaged) {
  auto policy = native();
  policy[Rung::kReconcile] = {true, 1};
  History history;
  Situation damaged;
  damaged.custody_damaged = true;
  EXPECT_EQ(take_step(policy, history, damaged, 0).rung, Rung::kRebuild);
  EXPECT_EQ(take_step(policy, history, damaged, 0).rung, Rung::kReconcile);
  // Once: what is damaged again at once is not to be given up bit by bit.
  EXPECT_EQ(take_step(policy, history, damaged, 0).rung, Rung::kRebuild);
  EXPECT_EQ(take_step(policy, history, damaged, 0).rung, Rung::kIsolate);
  // Never for any other reason, and never if not offered.
  History other;
  for (const Rung rung : {Rung::kRebuild, Rung::kRebuild, Rung::kIsolate})
    EXPECT_EQ(take_step(policy, other, kAlone, 0).rung, rung);
  EXPECT_EQ(take_step(native(), history, damaged, 0).rung, Rung::kIsolate);
}

TEST(Ladder, SaysWhatHappensNext) {
  const auto policy = native();
  History history;
  take_step(policy, history, kWithStandby, 0);
  const Step second = take_step(policy, history, kWithStandby, 0);
  EXPECT_EQ(second.why, "the standby continues; 2 of 3 within 60 s");
  EXPECT_EQ(second.if_recurs, "hand over: the standby continues");
  const Step third = take_step(policy, history, kWithStandby, 0);
  EXPECT_EQ(third.if_recurs, "rebuild: start again from custody");
  take_step(policy, history, kWithStandby, 0);
  const Step last = take_step(policy, history, kWithStandby, 0);
  EXPECT_EQ(last.rung, Rung::kRebuild);
  EXPECT_EQ(last.if_recurs, "isolate: stop trying; a person is needed");
}

TEST(Ladder, NextStepChangesNothingAndHistoryStaysBounded) {
  const auto policy = native();
  History history;
  for (int i = 0; i < 10; ++i) EXPECT_EQ(next_step(policy, history, kWithStandby, 0).rung, Rung::kHandOver);
  for (int i = 0; i < 100000; ++i) history.record(Rung::kHandOver, i, policy);
  EXPECT_EQ(history.uses(Rung::kHandOver, 100000, policy.window_ns), 3U);
}

}  // namespace
}  // namespace bulkhead::recovery
