// The commit: true with one store, and finished by whoever comes next, wherever its owner died.
#include "components/xenstore/commit.h"

#include <gtest/gtest.h>

#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

struct Values {
  SlotState state;
  std::uint64_t parsed;
  std::uint64_t produced;
  friend bool operator==(const Values&, const Values&) = default;
};

// All that a commit may change.
struct Picture {
  std::vector<Values> slots;
  std::uint64_t journal_tail;
  std::uint64_t next_serial;
  friend bool operator==(const Picture&, const Picture&) = default;
};

class CommitTest : public testing::Test {
 protected:
  CommitTest() {
    for (std::uint32_t i = 0; i < 4; ++i) {
      Slot& slot = connections_.slot(i);
      slot.state = SlotState::kOpen;
      slot.received = 1000 + i;
      slot.parsed = 100 + i;
      slot.produced = 200 + i;
      slot.sent = 150 + i;
    }
    custody_.journal().commit(64);
    custody_.control().next_serial = 5;
  }

  Picture picture() const {
    Picture result{{}, custody_.journal().tail(), custody_.control().next_serial};
    for (std::uint32_t i = 0; i < 4; ++i) {
      const Slot& slot = connections_.slot(i);
      result.slots.push_back({slot.state, slot.parsed, slot.produced});
    }
    return result;
  }
  static Picture picture_of_second() {
    return {{{SlotState::kOpen, 100, 200},
             {SlotState::kOpen, 181, 271},
             {SlotState::kClosing, 102, 202},
             {SlotState::kOpen, 103, 293}},
            128,
            6};
  }
  // A commit of three connections, and the stores that apply it, in the order in which they are made.
  static std::vector<CommitEntry> second() {
    return {
        {1, SlotState::kOpen, 181, 271}, {3, SlotState::kOpen, 103, 293}, {2, SlotState::kClosing, 102, 202}};
  }
  std::vector<std::function<void()>> stores_of_second() {
    std::vector<std::function<void()>> stores;
    stores.emplace_back([this] { custody_.journal().commit(128); });
    for (const CommitEntry& entry : second()) {
      Slot& slot = connections_.slot(entry.slot);
      stores.emplace_back([&slot, entry] { slot.parsed = entry.parsed; });
      stores.emplace_back([&slot, entry] { slot.produced = entry.produced; });
      stores.emplace_back([&slot, entry] { slot.state = entry.state; });
    }
    stores.emplace_back([this] { custody_.control().next_serial = 6; });
    return stores;
  }
  // What an owner writes before the commit is true.
  void prepare_second() {
    CommitRecord& record = custody_.commit_record(custody_.control().committed + 1);
    const auto entries = second();
    record = {128, 6, static_cast<std::uint32_t>(entries.size()), 0};
    std::memcpy(reinterpret_cast<std::byte*>(&record) + sizeof record, entries.data(),
                entries.size() * sizeof(CommitEntry));
    record.crc = Commit::checksum(custody_.control().committed + 1, record);
  }
  // As a new process does it, with mappings of its own.
  void redo_in_successor() {
    Custody custody = Custody::open(store_).value();
    Connections connections(custody);
    EXPECT_TRUE(Commit(custody, connections).redo());
  }

  MemoryCustody store_ = small_custody();
  Custody custody_ = Custody::open(store_).value();
  Connections connections_{custody_};
  Commit commit_{custody_, connections_};
};

TEST_F(CommitTest, ChangesExactlyWhatItNames) {
  commit_.make(second(), 128, 6);
  EXPECT_EQ(picture(), picture_of_second());
  EXPECT_EQ(custody_.control().committed, 1U);
  EXPECT_EQ(custody_.control().applied, 1U);
  EXPECT_EQ(connections_.slot(1).received, 1001U);
  EXPECT_EQ(connections_.slot(1).sent, 151U);
}

TEST_F(CommitTest, RecordsAlternate) {
  const std::vector<CommitEntry> one{{0, SlotState::kOpen, 110, 210}};
  const std::vector<CommitEntry> two{{0, SlotState::kOpen, 120, 220}, {1, SlotState::kOpen, 121, 221}};
  commit_.make(one, 72, 5);
  const CommitRecord& odd = custody_.commit_record(1);
  EXPECT_EQ(odd.journal_tail, 72U);
  commit_.make(two, 80, 6);
  const CommitRecord& even = custody_.commit_record(2);
  ASSERT_NE(&odd, &even);
  EXPECT_EQ(odd.journal_tail, 72U);  // the one before is still whole while the next is written
  EXPECT_EQ(odd.entries, 1U);
  EXPECT_EQ(even.journal_tail, 80U);
  EXPECT_EQ(even.entries, 2U);
  EXPECT_EQ(&custody_.commit_record(3), &odd);
  EXPECT_EQ(picture().slots[0], (Values{SlotState::kOpen, 120, 220}));
}

TEST_F(CommitTest, AllConnectionsInOneCommit) {
  for (std::uint64_t round = 1; round <= 3; ++round) {
    std::vector<CommitEntry> entries;
    for (std::uint32_t i = 0; i < 4; ++i)
      entries.push_back({3 - i, SlotState::kOpen, round * 1000 + i, round * 2000 + i});
    commit_.make(entries, 64 + 8 * round, 5 + round);
    for (std::uint32_t i = 0; i < 4; ++i) {
      EXPECT_EQ(connections_.slot(3 - i).parsed, round * 1000 + i);
      EXPECT_EQ(connections_.slot(3 - i).produced, round * 2000 + i);
    }
  }
}

TEST_F(CommitTest, PreparedOnlyNeverHappened) {
  const Picture before = picture();
  prepare_second();
  redo_in_successor();
  EXPECT_EQ(picture(), before);
  EXPECT_EQ(custody_.control().applied, 0U);
}

// The parameter: how many of the stores that apply it were made before the owner died.
class CommitDeath : public CommitTest, public testing::WithParamInterface<std::size_t> {};
constexpr std::size_t kStores = 11;

TEST_P(CommitDeath, IsFinishedByWhoeverComesNext) {
  const auto stores = stores_of_second();
  ASSERT_EQ(stores.size(), kStores);
  prepare_second();
  custody_.control().committed = 1;
  for (std::size_t i = 0; i < GetParam(); ++i) stores[i]();
  for (int successor = 0; successor < 3; ++successor) {
    redo_in_successor();
    EXPECT_EQ(picture(), picture_of_second());
    EXPECT_EQ(custody_.control().committed, 1U);
    EXPECT_EQ(custody_.control().applied, 1U);
  }
}
INSTANTIATE_TEST_SUITE_P(AfterStores, CommitDeath, testing::Range(std::size_t{0}, kStores + 1));

// The successor may die at any store of the redoing itself; so may its own.
TEST_F(CommitTest, RedoingMayBeInterruptedAnywhere) {
  prepare_second();
  custody_.control().committed = 1;
  const auto stores = stores_of_second();
  for (std::size_t died = 0; died <= stores.size(); ++died) {
    for (std::size_t i = 0; i < died; ++i) stores[i]();
  }
  redo_in_successor();
  EXPECT_EQ(picture(), picture_of_second());
}

// Values of a finished commit are old values: what came after it must not be taken back.
TEST_F(CommitTest, FinishedIsNotRedone) {
  commit_.make(second(), 128, 6);
  connections_.slot(2).state = SlotState::kFree;  // its close completed
  connections_.slot(1).produced = 300;
  const Picture later = picture();
  redo_in_successor();
  EXPECT_EQ(picture(), later);
}

// Whatever bit of it flips, nobody is moved by it.
TEST_F(CommitTest, ADamagedRecordIsNotApplied) {
  prepare_second();
  custody_.control().committed = 1;
  const Picture before = picture();
  CommitRecord& record = custody_.commit_record(1);
  const std::size_t bytes = sizeof record + second().size() * sizeof(CommitEntry);
  auto* const first = reinterpret_cast<std::byte*>(&record);
  for (std::size_t bit = 0; bit < 8 * bytes; ++bit) {
    first[bit / 8] ^= std::byte{1} << (bit % 8);
    const Status redone = commit_.redo();
    ASSERT_FALSE(redone) << bit;
    EXPECT_EQ(redone.error().kind(), ErrorKind::kInvalid);
    ASSERT_EQ(picture(), before) << bit;
    first[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  EXPECT_TRUE(commit_.redo());
  EXPECT_EQ(picture(), picture_of_second());
}

// Nor is an intact record under a number that is not its own.
TEST_F(CommitTest, ADamagedNumberAppliesNothing) {
  commit_.make(second(), 128, 6);
  for (int bit = 0; bit < 32; ++bit) {
    custody_.control().committed = 1U ^ (std::uint64_t{1} << bit);
    EXPECT_FALSE(commit_.redo()) << bit;
  }
  EXPECT_EQ(picture(), picture_of_second());
}

TEST_F(CommitTest, ACommitThatCannotBeReadCostsEveryConnection) {
  commit_.make(second(), 128, 6);
  connections_.slot(0).state = SlotState::kFree;
  custody_.control().slots_used = 4;
  custody_.control().committed = 2;
  custody_.commit_record(2).entries = 1;
  for (int successor = 0; successor < 2; ++successor) {
    // The first one dies in between: the second finds the same.
    const bool died = dies([&] {
      if (successor == 0) CrashPoint::arm("damage-marked");
      EXPECT_FALSE(commit_.redo());
      commit_.distrust();
    });
    EXPECT_EQ(died, successor == 0);
    for (std::uint32_t i = 0; i < 4; ++i) EXPECT_EQ(connections_.slot(i).damaged, i == 0 ? 0U : 1U);
  }
  EXPECT_TRUE(commit_.redo());
  EXPECT_EQ(picture().slots[1], picture_of_second().slots[1]);
  commit_.make(std::vector<CommitEntry>{{1, SlotState::kOpen, 500, 600}}, 136, 7);
  EXPECT_EQ(picture().slots[1], (Values{SlotState::kOpen, 500, 600}));
}

TEST_F(CommitTest, GoesOnAfterRedo) {
  prepare_second();
  custody_.control().committed = 1;
  EXPECT_TRUE(commit_.redo());
  commit_.make(std::vector<CommitEntry>{{0, SlotState::kOpen, 500, 600}}, 136, 7);
  EXPECT_EQ(custody_.control().committed, 2U);
  EXPECT_EQ(custody_.control().applied, 2U);
  EXPECT_EQ(picture().slots[0], (Values{SlotState::kOpen, 500, 600}));
  EXPECT_EQ(picture().slots[1], picture_of_second().slots[1]);
  EXPECT_EQ(custody_.journal().tail(), 136U);
}

}  // namespace
}  // namespace bulkhead::xenstore::test
