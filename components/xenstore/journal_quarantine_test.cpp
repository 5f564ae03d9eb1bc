// Records that kill whoever executes them again: two deaths are enough, innocent ones are acquitted, and what
// is left out is one record.
#include "components/xenstore/journal_quarantine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/salvage.h"
#include "components/xenstore/service_test_support.h"

namespace bulkhead::xenstore::test {
namespace {

using Role = JournalQuarantine::Role;
using testing::HasSubstr;

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

class JournalQuarantineTest : public testing::Test {
 protected:
  JournalQuarantineTest() {
    owner_->executor.connect(0, 0);
    owner_->call(0, kWrite, "/a|1");
  }
  // The owner executes it, and every follower will die of it.
  void poison() {
    arm(true);
    position_ = owner_->custody.journal().tail();
    owner_->call(0, kWrite, "/poison/follow|x");
  }
  void arm(bool on) {
    owner_->custody.control().poison_until_ns.store(on ? std::numeric_limits<std::int64_t>::max() : 0);
  }
  // One that starts, follows, and dies of the poison.
  void dies_of_it(Role role = Role::kStandby) {
    EXPECT_TRUE(dies(
        [&] {
          Incarnation next(store_);
          next.replica.quarantine().begin(role);
          (void)next.replica.follow(kAll);
        },
        SIGABRT));
  }
  void dies_at(const char* point) {
    EXPECT_TRUE(dies([&] {
      Incarnation next(store_);
      EXPECT_TRUE(CrashPoint::arm(point));
      next.replica.quarantine().begin(Role::kStandby);
      (void)next.replica.follow(kAll);
    }));
  }
  // What the next one finds that starts in this role.
  std::uint32_t deaths(Role role = Role::kStandby) {
    Incarnation next(store_);
    next.replica.quarantine().begin(role);
    return next.replica.quarantine().deaths_at(position_);
  }

  MemoryCustody store_ = small_custody();
  std::optional<Incarnation> owner_{store_};
  std::uint64_t position_ = 0;
};

TEST_F(JournalQuarantineTest, TheThirdOneWaitsForASnapshotPastIt) {
  poison();
  dies_of_it();
  dies_of_it();
  Incarnation third(store_);
  third.replica.quarantine().begin(Role::kStandby);
  for (int i = 0; i < 2; ++i) {
    auto followed = third.replica.follow(kAll);
    ASSERT_FALSE(followed);
    EXPECT_EQ(followed.error().kind(), ErrorKind::kRefused);
    EXPECT_THAT(followed.error().message(), HasSubstr("WRITE \"/poison/follow.x\" of domain 0"));
    EXPECT_EQ(third.replica.position(), position_);
  }
  owner_->publish_snapshot();
  owner_->call(0, kWrite, "/b|2");
  EXPECT_FALSE(third.replica.follow(kAll).value());
  EXPECT_EQ(third.replica.loads(), 1U);
  EXPECT_EQ(third.replica.engine().fingerprint(), owner_->replica.engine().fingerprint());
  EXPECT_EQ(deaths(), 2U) << "the journal still begins before it";
  owner_->custody.journal().release(SnapshotStore(owner_->custody).position());
  EXPECT_EQ(deaths(), 0U) << "nobody will ever execute it again";
}

TEST_F(JournalQuarantineTest, WhatWasSurvivedIsInnocent) {
  poison();
  dies_of_it();
  EXPECT_EQ(deaths(), 1U);
  arm(false);
  Incarnation survivor(store_);
  survivor.replica.quarantine().begin(Role::kStandby);
  EXPECT_FALSE(survivor.replica.follow(kAll).value());
  EXPECT_EQ(deaths(), 0U);
  arm(true);
  dies_of_it();
  dies_of_it();  // not refused: the death before does not count
  EXPECT_EQ(deaths(), 2U);
}

TEST_F(JournalQuarantineTest, AnOwnerTakesNoLivingStandbyForADeadOne) {
  poison();
  Incarnation heir(store_);
  heir.replica.quarantine().begin(Role::kStandby);
  Incarnation standby(store_);
  standby.replica.quarantine().begin(Role::kStandby);
  standby.replica.quarantine().executing(position_);  // it lives
  heir.replica.quarantine().begin(Role::kOwner);
  EXPECT_EQ(heir.replica.quarantine().deaths_at(position_), 0U);
  standby.replica.quarantine().idle();
  dies_of_it(Role::kOwner);
  heir.replica.quarantine().begin(Role::kStandby);
  EXPECT_EQ(heir.replica.quarantine().deaths_at(position_), 0U);
  heir.replica.quarantine().begin(Role::kOwner);
  EXPECT_EQ(heir.replica.quarantine().deaths_at(position_), 1U);
}

TEST_F(JournalQuarantineTest, WhoStartsWhenNobodyLivesIsTheHeirOfBoth) {
  poison();
  dies_of_it(Role::kStandby);
  EXPECT_EQ(deaths(Role::kOwner), 1U);
}

TEST_F(JournalQuarantineTest, SeveralAreRemembered) {
  JournalQuarantine quarantine(owner_->custody);
  for (std::uint64_t position = 0; position < kDeadlyRecords; ++position) {
    for (int death = 0; death < 2; ++death) {
      quarantine.executing(position * 100);
      JournalQuarantine(owner_->custody).begin(Role::kStandby);
    }
  }
  for (std::uint64_t position = 0; position < kDeadlyRecords; ++position)
    EXPECT_TRUE(quarantine.deadly(position * 100)) << position;
  EXPECT_FALSE(quarantine.deadly(1));
  // One more takes the place of one of them.
  quarantine.executing(7);
  quarantine.begin(Role::kStandby);
  EXPECT_EQ(quarantine.deaths_at(7), 1U);
}

// Dying at any of these counts a death too little or one of an innocent record, which the next one acquits.
TEST_F(JournalQuarantineTest, DyingInItsBooks) {
  poison();
  dies_of_it();
  dies_at("follow-forgotten");
  EXPECT_EQ(deaths(), 0U);
  dies_of_it();
  dies_at("follow-remembered");
  EXPECT_EQ(deaths(), 1U) << "once, not twice";
  arm(false);
  dies_at("followed");  // at the first record
  Incarnation survivor(store_);
  survivor.replica.quarantine().begin(Role::kStandby);
  EXPECT_EQ(survivor.replica.quarantine().deaths_at(0), 1U);
  EXPECT_FALSE(survivor.replica.follow(kAll).value());
  EXPECT_EQ(survivor.replica.quarantine().deaths_at(0), 0U);
  EXPECT_EQ(deaths(), 0U);
}

// Nobody is left who could write a snapshot: one record is given up, and all others stay.
TEST_F(JournalQuarantineTest, ASalvageLeavesOutThisOneAlone) {
  for (const char* point : {"", "salvaged", "salvage-published"}) {
    SCOPED_TRACE(point);
    store_ = small_custody();
    owner_.emplace(store_);
    owner_->executor.connect(0, 0);
    owner_->call(0, kWrite, "/a|1");
    poison();
    owner_->executor.checkpoint(1);
    owner_->call(0, kWrite, "/b|2");
    dies_of_it(Role::kOwner);
    dies_of_it(Role::kOwner);
    const auto salvages = [&] {
      Incarnation next(store_);
      EXPECT_TRUE(next.executor.redo());
      next.replica.quarantine().begin(Role::kOwner);
      if (*point != '\0') {
        EXPECT_TRUE(CrashPoint::arm(point));
      }
      ASSERT_FALSE(next.replica.follow(kAll));
      auto salvaged = salvage(next.custody, next.replica);
      ASSERT_TRUE(salvaged) << salvaged.error().message();
      EXPECT_EQ(salvaged->lost_records, 1U);
      EXPECT_THAT(salvaged->note, HasSubstr("left out (2 in a row died"));
      EXPECT_THAT(salvaged->note, HasSubstr("/poison/follow"));
    };
    EXPECT_EQ(dies(salvages), *point != '\0');
    if (std::string_view(point) == "salvaged") {
      point = "";
      EXPECT_FALSE(dies(salvages));
    }
    Incarnation after(store_);
    after.take_over();
    EXPECT_TRUE(after.replica.engine().check());
    EXPECT_EQ(read_from(after.replica.engine(), "/a"), "reply:2:1");
    EXPECT_EQ(read_from(after.replica.engine(), "/b"), "reply:2:2");
    EXPECT_THAT(read_from(after.replica.engine(), "/poison/follow"), HasSubstr("ENOENT"));
    EXPECT_EQ(after.custody.control().lost_records.load(), 1U);
    EXPECT_EQ(after.custody.control().lost_from.load(), position_);
  }
}

}  // namespace
}  // namespace bulkhead::xenstore::test
