#include "supervisor/outage.h"

#include <gtest/gtest.h>

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kMs = 1'000'000;

class OutageTest : public ::testing::Test {
 protected:
  // A path that cannot be written: kept in memory.
  IncidentLog log_{IncidentStore("/proc/nowhere/incidents.db", {1'000'000'000'000, 100}, 1)};
  Outage outage_{log_};
  v1::Incident stored() { return log_.store().list({}).incidents(0); }
};

Cause cause(std::int64_t failed, std::int64_t found) {
  Cause result("exit", "killed by signal 9", failed, found);
  result.incarnation = 4;
  return result;
}

TEST_F(OutageTest, MeasuresFromFailureToService) {
  outage_.begin("thing", cause(100 * kMs, 101 * kMs));
  EXPECT_TRUE(outage_.is_open());
  EXPECT_EQ(stored().outcome(), "open");
  EXPECT_EQ(stored().detection_us(), 1000);
  EXPECT_EQ(stored().blackout_us(), -1);
  EXPECT_EQ(stored().incarnation(), 4U);
  outage_.step("hand over: the standby continues", "rebuild");
  bulkhead::contract::v1::Active active;
  active.set_replayed(3);
  active.set_blamed_client("dom5");
  outage_.taken_over(active);
  outage_.end("recovered", 103 * kMs);
  EXPECT_FALSE(outage_.is_open());
  EXPECT_EQ(stored().blackout_us(), 3000);
  EXPECT_EQ(stored().outcome(), "recovered");
  EXPECT_EQ(stored().steps_size(), 1);
  EXPECT_EQ(stored().next_step(), "rebuild");
  EXPECT_EQ(stored().replayed(), 3U);
  EXPECT_EQ(stored().blamed_client(), "dom5");
}

TEST_F(OutageTest, UnknownTimesStayUnknown) {
  outage_.begin("thing", cause(0, 101 * kMs));
  outage_.end("recovered", 103 * kMs);
  EXPECT_EQ(stored().detection_us(), -1);
  EXPECT_EQ(stored().blackout_us(), -1);
}

TEST_F(OutageTest, SecondFailureBelongsToTheSameIncident) {
  outage_.begin("thing", cause(100 * kMs, 101 * kMs));
  Cause second = cause(105 * kMs, 106 * kMs);
  second.evidence = "the successor too";
  outage_.begin("thing", second);
  outage_.end("isolated", 0);
  EXPECT_EQ(log_.store().list({}).incidents_size(), 1);
  EXPECT_EQ(stored().evidence(), "killed by signal 9; the successor too");
  EXPECT_EQ(stored().blackout_us(), -1);
}

TEST_F(OutageTest, GoesOnInTheNextCore) {
  outage_.begin("thing", cause(100 * kMs, 101 * kMs));
  Outage successor(log_);
  successor.restore(outage_.record());
  EXPECT_TRUE(successor.is_open());
  successor.end("recovered", 110 * kMs);
  EXPECT_EQ(log_.store().list({}).incidents_size(), 1);
  EXPECT_EQ(stored().blackout_us(), 10'000);
}

TEST_F(OutageTest, OneThatWasClosedStaysClosed) {
  outage_.begin("thing", cause(100 * kMs, 101 * kMs));
  const manifest::v1::Outage written = outage_.record();
  outage_.end("recovered", 103 * kMs);
  Outage successor(log_);
  successor.restore(written);
  EXPECT_FALSE(successor.is_open());
  successor.begin("thing", cause(200 * kMs, 201 * kMs));
  EXPECT_EQ(log_.store().list({}).incidents_size(), 2);
}

// A planned hand over: the owner answered for as long as it had not yielded.
TEST_F(OutageTest, BlackoutBeginsWhenServiceEnds) {
  outage_.begin("thing", cause(100 * kMs, 100 * kMs));
  outage_.dark_since(102 * kMs);
  Outage successor(log_);
  successor.restore(outage_.record());
  successor.end("recovered", 103 * kMs);
  EXPECT_EQ(stored().detection_us(), 0);
  EXPECT_EQ(stored().blackout_us(), 1000);
}

TEST_F(OutageTest, KnowsItsCauseInTheNextCore) {
  Cause first = cause(100 * kMs, 101 * kMs);
  first.deliberate = true;
  first.fault = "hang";
  outage_.begin("thing", first);
  const Cause again = outage_.cause();
  EXPECT_EQ(again.finding, first.finding);
  EXPECT_EQ(again.evidence, first.evidence);
  EXPECT_EQ(again.failed_ns, first.failed_ns);
  EXPECT_EQ(again.found_ns, first.found_ns);
  EXPECT_EQ(again.incarnation, first.incarnation);
  EXPECT_TRUE(again.deliberate);
  EXPECT_EQ(again.fault, "hang");
}

TEST_F(OutageTest, EvidenceIsBounded) {
  outage_.begin("thing", cause(1, 2));
  for (int i = 0; i < 10'000; ++i) outage_.add_evidence("again and again");
  EXPECT_LT(outage_.incident().evidence().size(), 2000U);
}

}  // namespace
}  // namespace bulkhead::supervisor
