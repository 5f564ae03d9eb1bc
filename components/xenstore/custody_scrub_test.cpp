// The scrub of custody: each flipped bit is found, whatever else goes on, and what is sound never looks
// damaged.
#include "components/xenstore/custody_scrub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "components/xenstore/service_test_support.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::HasSubstr;

constexpr CustodySettings kRoomy{.geometry = {.max_connections = 4, .in_bytes = 16384, .out_bytes = 1 << 18},
                                 .journal_bytes = 4 << 20,
                                 .snapshot_bytes = 4 << 20};

class CustodyScrubTest : public testing::Test {
 protected:
  CustodyScrubTest() {
    process_.executor.connect(0, 0);
    process_.executor.connect(1, 7);
    for (int i = 0; i < 200; ++i) write(i);
    process_.publish_snapshot();
    for (int i = 0; i < 200; ++i) write(i);
  }
  void write(int i) {
    process_.call(0, kWrite, "/n/" + std::to_string(i) + "|" + std::string(1000, 'v'));
    process_.send(0);
  }
  // As long as two passes over everything take at most; what was found, one line each.
  std::string scrub() {
    std::string text;
    for (int turns = 0; turns < 100; ++turns) {
      now_ = std::max(now_, scrub_.next_turn_ns());
      for (const auto& damage : scrub_.turn(now_)) text += damage.what + "\n";
    }
    return text;
  }

  MemoryCustody store_ = small_custody(kRoomy);
  Incarnation process_{store_};
  CustodyScrub scrub_{process_.custody, process_.connections};
  std::int64_t now_ = kSecond;
};

TEST_F(CustodyScrubTest, FindsNothingWhereNothingIs) {
  process_.call(1, kRead, "/n/1|");
  process_.receive(1, "half");
  process_.connections.seal_input(1);
  EXPECT_EQ(scrub(), "");
  EXPECT_THAT(scrub_.report(now_ + 2 * kSecond), HasSubstr("custody: 2 connections checked, last pass 2."));
  EXPECT_THAT(scrub_.report(now_), HasSubstr("damages found: 0"));
}

TEST_F(CustodyScrubTest, SaysThatItHasNotFinishedAPass) {
  EXPECT_THAT(scrub_.report(now_), HasSubstr("connections checked, last pass not yet complete"));
}

TEST_F(CustodyScrubTest, FindsDamageOfWhatWaits) {
  process_.connections.seal_input(0);
  process_.connections.slot(0).parsed.fetch_sub(1);
  EXPECT_THAT(scrub(), HasSubstr("its input"));
  process_.connections.slot(0).parsed.fetch_add(1);
  process_.call(1, kRead, "/n/1|");
  process_.connections.slot(1).out_crc ^= 1;
  EXPECT_THAT(scrub(), HasSubstr("its output"));
  process_.connections.slot(1).out_crc ^= 1;
  EXPECT_EQ(scrub(), "");
}

TEST_F(CustodyScrubTest, FindsFlippedBitsOfTheJournal) {
  const Mapping journal = store_.map("journal");
  std::mt19937 random(1);
  for (int i = 0; i < 30; ++i) {
    const std::size_t at = 4096 + random() % (process_.custody.journal().tail() - 8);
    journal.data()[at] ^= std::byte{1};
    const std::string found = scrub();
    journal.data()[at] ^= std::byte{1};
    // The bytes that fill a record up to a multiple of eight mean nothing.
    if (found.empty()) {
      EXPECT_EQ(journal.data()[at], std::byte{0}) << at;
    } else {
      EXPECT_THAT(found, HasSubstr("journal damaged at position")) << at;
    }
    EXPECT_EQ(scrub(), "");
  }
}

TEST_F(CustodyScrubTest, FindsFlippedBitsOfThePublishedSnapshot) {
  const Mapping snapshot = store_.map("snapshot-" + std::to_string(process_.custody.control().published & 3));
  const std::size_t length = snapshot.at<SnapshotHead>(0)->length;
  ASSERT_GT(length, 150'000U);  // more than a slice
  std::mt19937 random(2);
  for (int i = 0; i < 100; ++i) {
    const std::size_t at = kSnapshotData + (i < 40 ? static_cast<std::size_t>(i) : random() % length);
    snapshot.data()[at] ^= std::byte{64};
    EXPECT_THAT(scrub(), HasSubstr("the published snapshot is damaged")) << at;
    snapshot.data()[at] ^= std::byte{64};
    EXPECT_EQ(scrub(), "");
  }
}

// Records come, snapshots are replaced, the journal is released, in the middle of passes.
TEST_F(CustodyScrubTest, WhateverChangesMeanwhileIsNoDamage) {
  for (int i = 0; i < 600; ++i) {
    write(i % 250);
    if (i % 13 == 0) process_.publish_snapshot();
    if (i % 29 == 0) process_.custody.journal().release(SnapshotStore(process_.custody).position());
    now_ = std::max(now_, scrub_.next_turn_ns());
    for (const auto& damage : scrub_.turn(now_)) FAIL() << damage.what;
  }
  EXPECT_THAT(scrub_.report(now_), testing::Not(HasSubstr("not yet complete")));
}

}  // namespace
}  // namespace bulkhead::xenstore::test
