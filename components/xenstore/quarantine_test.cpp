// Who dies of what: the words an owner leaves in custody, and what its successors make of them.
#include "components/xenstore/quarantine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

class QuarantineTest : public testing::Test {
 protected:
  QuarantineTest() {
    process_.executor.connect(0, 0);
    process_.executor.connect(1, 5);
    process_.receive(0, message(kRead, "/a|"));
    process_.receive(1, message(kWrite, "/b|c"));
  }

  // A successor looks at what its predecessor left.
  std::vector<Quarantine::Condemned> successor() {
    std::vector<Quarantine::Condemned> condemned;
    suspects_ = Quarantine(process_.custody, process_.connections).inspect(condemned);
    return condemned;
  }

  MemoryCustody store_ = small_custody();
  Incarnation process_{store_};
  Quarantine quarantine_{process_.custody, process_.connections};
  std::vector<std::uint32_t> suspects_;
};

TEST_F(QuarantineTest, NobodyIsSuspectedForADeathInIdleness) {
  quarantine_.executing(1);
  quarantine_.idle();
  EXPECT_THAT(successor(), IsEmpty());
  EXPECT_THAT(suspects_, IsEmpty());
}

TEST_F(QuarantineTest, TwoDeathsInOneRequestCondemnIt) {
  quarantine_.executing(1);
  EXPECT_THAT(successor(), IsEmpty());
  EXPECT_THAT(suspects_, ElementsAre(1));
  quarantine_.executing(1);
  const auto condemned = successor();
  ASSERT_EQ(condemned.size(), 1U);
  EXPECT_EQ(condemned[0].work, Quarantine::Work::kExecuting);
  EXPECT_EQ(condemned[0].slot, 1U);
  EXPECT_EQ(condemned[0].deaths, 2U);
}

TEST_F(QuarantineTest, AnExecutedRequestIsNoSuspect) {
  quarantine_.executing(1);
  process_.execute_next(1);
  EXPECT_THAT(successor(), IsEmpty());
  EXPECT_THAT(suspects_, IsEmpty());
}

TEST_F(QuarantineTest, ASuspectThatWasExecutedIsForgotten) {
  quarantine_.executing(1);
  successor();
  process_.execute_next(1);
  quarantine_.executing(0);
  successor();
  EXPECT_THAT(suspects_, ElementsAre(0));
}

// A death elsewhere in between does not clear a suspect that nobody has touched since.
TEST_F(QuarantineTest, ADeathElsewhereDoesNotAcquit) {
  quarantine_.executing(1);
  successor();
  quarantine_.executing(0);
  successor();
  quarantine_.executing(1);
  EXPECT_EQ(successor().size(), 1U);
}

TEST_F(QuarantineTest, TheNextRequestOfTheSameClientIsAnotherOne) {
  quarantine_.executing(0);
  successor();
  process_.execute_next(0);
  process_.receive(0, message(kRead, "/a|"));
  quarantine_.executing(0);
  EXPECT_THAT(successor(), IsEmpty());
}

TEST_F(QuarantineTest, AConnectionIsCondemnedLaterThanARequest) {
  for (int deaths = 1; deaths <= 2; ++deaths) {
    quarantine_.handling(1);
    EXPECT_THAT(successor(), IsEmpty()) << deaths;
  }
  quarantine_.handling(1);
  const auto condemned = successor();
  ASSERT_EQ(condemned.size(), 1U);
  EXPECT_EQ(condemned[0].work, Quarantine::Work::kHandling);
}

TEST_F(QuarantineTest, AnAcquittedSuspectBeginsAgain) {
  quarantine_.handling(1);
  successor();
  quarantine_.handling(1);
  successor();
  quarantine_.acquit(1);
  quarantine_.handling(1);
  EXPECT_THAT(successor(), IsEmpty());
}

TEST_F(QuarantineTest, WhoeverGetsTheSlotNextHasDoneNothing) {
  quarantine_.handling(1);
  successor();
  process_.executor.disconnect(1);
  process_.connections.slot(1).state.store(SlotState::kFree);
  EXPECT_THAT(successor(), IsEmpty());
  EXPECT_THAT(suspects_, IsEmpty());
  process_.executor.connect(1, 5);
  for (int i = 0; i < 2; ++i) {
    quarantine_.handling(1);
    EXPECT_THAT(successor(), IsEmpty());
  }
}

TEST_F(QuarantineTest, MoreSuspectsThanThereIsRoomForAreBounded) {
  for (int round = 0; round < 3 * static_cast<int>(kSuspects); ++round) {
    quarantine_.executing(static_cast<std::uint32_t>(round % 2));
    successor();
  }
  EXPECT_LE(suspects_.size(), kSuspects);
}

TEST_F(QuarantineTest, AWordOfGarbageIsNobodys) {
  for (const std::uint64_t word : {~std::uint64_t{0}, std::uint64_t{1} << 59, std::uint64_t{0xfffff} << 38}) {
    process_.custody.control().working.store(word);
    EXPECT_THAT(successor(), IsEmpty());
    EXPECT_THAT(suspects_, IsEmpty());
  }
}

TEST_F(QuarantineTest, StrikesAreCountedOncePerRequest) {
  EXPECT_EQ(quarantine_.strike(1), 1U);
  EXPECT_EQ(quarantine_.strike(1), 1U) << "the same request again, by a successor";
  process_.execute_next(1);
  EXPECT_EQ(quarantine_.strike(1), 2U);
  EXPECT_EQ(quarantine_.strike(0), 1U);
}

// Killed between forgetting and remembering: a death too little. Killed after: never one too much.
TEST_F(QuarantineTest, DyingInTheInspectionNeverCountsADeathTwice) {
  for (const char* point : {"takeover-forgotten", "takeover-remembered"}) {
    process_.custody.control().suspects[0].store(0);
    quarantine_.executing(1);
    EXPECT_TRUE(dies([&] {
      CrashPoint::arm(point);
      successor();
    }));
    EXPECT_THAT(successor(), IsEmpty()) << point;
  }
}

TEST(QuarantineDescribe, ShowsTypeAndTheBeginningOfThePayload) {
  const auto describe_payload = [](std::uint32_t type, std::string_view payload) {
    return describe(Request{{type, 1, 0, static_cast<std::uint32_t>(payload.size())}, as_bytes(payload)});
  };
  EXPECT_EQ(describe_payload(kWrite, std::string_view("/a\0v\n\"", 6)), "WRITE \"/a.v..\"");
  EXPECT_EQ(describe_payload(4711, ""), "type 4711 \"\"");
  EXPECT_EQ(describe_payload(kRead, std::string(100, 'x')), "READ \"" + std::string(64, 'x') + "...\"");
}

}  // namespace
}  // namespace bulkhead::xenstore::test
