#include "supervisor/standby_failures.h"

#include <gtest/gtest.h>

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kSecond = 1'000'000'000;

class StandbyFailuresTest : public ::testing::Test {
 protected:
  // A path that cannot be written: kept in memory.
  IncidentLog log_{IncidentStore("/proc/nowhere/incidents.db", {1'000'000'000'000, 100}, 1)};
  StandbyFailures failures_{log_, 60 * kSecond};

  bool failed(const std::string& evidence, std::int64_t seconds) {
    return failures_.failed("thing", Cause("exit", evidence, seconds * kSecond, seconds * kSecond),
                            seconds * kSecond);
  }
  v1::ListIncidentsResponse stored() { return log_.store().list({}); }
};

TEST_F(StandbyFailuresTest, IsOpenUntilAStandbyIsReady) {
  EXPECT_TRUE(failed("standby: exit status 3", 1));
  EXPECT_EQ(stored().incidents(0).outcome(), "open");
  failures_.ready();
  EXPECT_EQ(stored().incidents(0).outcome(), "recovered");
  EXPECT_EQ(stored().incidents(0).blackout_us(), 0);
}

TEST_F(StandbyFailuresTest, ACrashLoopIsOneIncidentThatCounts) {
  for (int i = 1; i <= 50; ++i) EXPECT_EQ(failed("standby: exit status 3", i * 30), i == 1);
  EXPECT_EQ(stored().incidents_size(), 1);
  EXPECT_EQ(stored().incidents(0).outcome(), "open");
  EXPECT_EQ(stored().incidents(0).evidence(), "standby: exit status 3 (50 times)");
}

TEST_F(StandbyFailuresTest, TheSameAgainWithinTheWindowIsTheSameIncident) {
  failed("standby: killed by signal 9", 1);
  failures_.ready();
  EXPECT_FALSE(failed("standby: killed by signal 9", 50));
  EXPECT_EQ(stored().incidents_size(), 1);
  EXPECT_EQ(stored().incidents(0).outcome(), "open");
  failures_.ready();
  EXPECT_EQ(stored().incidents(0).evidence(), "standby: killed by signal 9 (2 times)");
  EXPECT_TRUE(failed("standby: exit status 1", 60));  // something else
  failures_.ready();
  EXPECT_TRUE(failed("standby: exit status 1", 121));  // long after
  EXPECT_EQ(stored().incidents_size(), 3);
}

TEST_F(StandbyFailuresTest, OtherFailuresMeanwhileAreEvidence) {
  failed("standby: a", 1);
  failed("standby: a", 2);
  EXPECT_FALSE(failed("standby: b", 3));
  EXPECT_EQ(stored().incidents(0).evidence(), "standby: a (2 times); standby: b");
  for (int i = 0; i < 10'000; ++i) failed("standby: " + std::to_string(i), 4);
  EXPECT_LT(stored().incidents(0).evidence().size(), 2000U);
  failures_.given_up("isolated");
  EXPECT_EQ(stored().incidents(0).outcome(), "isolated");
}

TEST_F(StandbyFailuresTest, GoesOnInTheNextCore) {
  failed("standby: a", 1);
  StandbyFailures successor(log_, 60 * kSecond);
  successor.restore(failures_.record());
  EXPECT_FALSE(successor.failed("thing", Cause("exit", "standby: a", kSecond, kSecond), 2 * kSecond));
  successor.ready();
  EXPECT_EQ(stored().incidents_size(), 1);
  EXPECT_EQ(stored().incidents(0).evidence(), "standby: a (2 times)");
  EXPECT_EQ(stored().incidents(0).outcome(), "recovered");
}

}  // namespace
}  // namespace bulkhead::supervisor
