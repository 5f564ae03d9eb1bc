// The lossy step: whatever is damaged, what can be read is served, what is lost is said, and nothing else is
// touched.
#include "components/xenstore/salvage.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/service_test_support.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

class SalvageTest : public testing::Test {
 protected:
  SalvageTest() {
    owner_.emplace(store_);
    owner_->executor.connect(0, 0);
    owner_->executor.connect(1, 0);
  }
  void write(std::string_view path, std::string_view value) {
    positions_[std::string(path)] = owner_->custody.journal().tail();
    owner_->call(0, kWrite, std::string(path) + "|" + std::string(value));
    owner_->send(0);
  }
  void snapshot() {
    owner_->publish_snapshot();
    owner_->custody.journal().release(owner_->replica.position());
  }
  // Damages the record that wrote `path`.
  void damage(const std::string& path) {
    store_.map("journal").data()[4096 + positions_[path] + 30] ^= std::byte{1};
  }
  void damage_snapshot(std::size_t slot) {
    store_.map("snapshot-" + std::to_string(slot)).data()[kSnapshotData + 60] ^= std::byte{1};
  }
  // Everybody is dead; the next one cannot start and salvages.
  Salvaged salvage_now() {
    owner_.reset();
    Incarnation next(store_);
    EXPECT_TRUE(next.executor.redo());
    auto followed = next.replica.follow(kAll);
    EXPECT_FALSE(followed) << "nothing was damaged";
    auto salvaged = salvage(next.custody, next.replica);
    EXPECT_TRUE(salvaged) << salvaged.error().message();
    return salvaged ? *salvaged : Salvaged{};
  }
  // What a start after that finds: everything can be read, the connections are on their way out.
  Replica& restart() {
    after_.emplace(store_);
    after_->take_over();
    EXPECT_TRUE(after_->replica.engine().check());
    EXPECT_EQ(after_->replica.position(), after_->custody.journal().tail());
    for (std::uint32_t i = 0; i < after_->connections.capacity(); ++i) {
      EXPECT_NE(after_->connections.slot(i).state.load(), SlotState::kOpen);
    }
    return after_->replica;
  }

  MemoryCustody store_ = small_custody();
  std::optional<Incarnation> owner_;
  std::optional<Incarnation> after_;
  std::map<std::string, std::uint64_t> positions_;
};

constexpr const char* kNoEntry = "reply:16:ENOENT";

TEST_F(SalvageTest, ADamagedRecordCostsWhatCameAfterIt) {
  write("/a", "1");
  write("/b", "2");
  write("/c", "3");
  write("/d", "4");
  damage("/c");
  const Salvaged salvaged = salvage_now();
  EXPECT_EQ(salvaged.kept_until, positions_["/c"]);
  EXPECT_EQ(salvaged.lost_records, 2U);
  EXPECT_THAT(salvaged.note, HasSubstr("up to position " + std::to_string(positions_["/c"])));
  Replica& replica = restart();
  EXPECT_EQ(read_from(replica.engine(), "/a"), "reply:2:1");
  EXPECT_EQ(read_from(replica.engine(), "/b"), "reply:2:2");
  EXPECT_THAT(read_from(replica.engine(), "/c"), HasSubstr(kNoEntry));
  EXPECT_THAT(read_from(replica.engine(), "/d"), HasSubstr(kNoEntry));
  EXPECT_EQ(after_->custody.control().lost_records.load(), 2U);
  // Life goes on: a client, a write, a follower.
  for (std::uint32_t i = 0; i < 4; ++i) after_->connections.slot(i).state.store(SlotState::kFree);
  after_->executor.connect(0, 0);
  after_->call(0, kWrite, "/e|5");
  Incarnation follower(store_);
  EXPECT_FALSE(follower.replica.follow(kAll).value());
  EXPECT_EQ(follower.replica.engine().fingerprint(), replica.engine().fingerprint());
}

TEST_F(SalvageTest, ADamagedSnapshotFallsBackToAnOlderOne) {
  write("/a", "1");
  snapshot();
  const std::uint64_t first = owner_->custody.control().published.load() & 3;
  write("/b", "2");
  owner_->publish_snapshot();
  const std::uint64_t second = owner_->custody.control().published.load() & 3;
  write("/c", "3");
  ASSERT_NE(first, second);
  damage_snapshot(second);
  const Salvaged salvaged = salvage_now();
  EXPECT_EQ(salvaged.lost_records, 0U);  // the journal still reaches back to the first one
  EXPECT_THAT(salvaged.note, HasSubstr("wrong CRC"));
  Replica& replica = restart();
  for (const char* path : {"/a", "/b", "/c"})
    EXPECT_THAT(read_from(replica.engine(), path), HasSubstr("reply:2:")) << path;
}

TEST_F(SalvageTest, AnOlderSnapshotTheJournalDoesNotReachIsBetterThanNothing) {
  write("/a", "1");
  snapshot();
  const std::uint64_t kept = owner_->replica.position();
  write("/b", "2");
  snapshot();
  write("/c", "3");
  damage_snapshot(owner_->custody.control().published.load() & 3);
  const Salvaged salvaged = salvage_now();
  EXPECT_EQ(salvaged.kept_until, kept);
  EXPECT_GE(salvaged.lost_records, 1U);
  Replica& replica = restart();
  EXPECT_EQ(read_from(replica.engine(), "/a"), "reply:2:1");
  EXPECT_THAT(read_from(replica.engine(), "/b"), HasSubstr(kNoEntry));
  EXPECT_THAT(read_from(replica.engine(), "/c"), HasSubstr(kNoEntry));
}

TEST_F(SalvageTest, WithoutASnapshotAnEmptyStoreAndWhatTheJournalGives) {
  write("/a", "1");
  snapshot();
  write("/b", "2");
  damage_snapshot(owner_->custody.control().published.load() & 3);
  const Salvaged salvaged = salvage_now();
  EXPECT_GE(salvaged.lost_records, 1U);
  EXPECT_THAT(salvaged.note, HasSubstr("an empty store"));
  Replica& replica = restart();
  EXPECT_THAT(read_from(replica.engine(), "/a"), HasSubstr(kNoEntry));
  EXPECT_EQ(read_from(replica.engine(), "/b"), "reply:2:2");
}

TEST_F(SalvageTest, ASnapshotPastTheDamageNeedsNoSalvage) {
  write("/a", "1");
  write("/b", "2");
  owner_->publish_snapshot();  // the journal has not been shortened yet
  write("/c", "3");
  damage("/a");
  owner_.reset();
  Replica& replica = after_.emplace(store_).replica;
  after_->take_over();
  EXPECT_EQ(replica.loads(), 1U);
  for (const char* path : {"/a", "/b", "/c"})
    EXPECT_THAT(read_from(replica.engine(), path), HasSubstr("reply:2:")) << path;
}

TEST_F(SalvageTest, EveryBitOfTheNewestSnapshotsHead) {
  write("/a", "1");
  snapshot();
  write("/b", "2");
  const std::string segment = "snapshot-" + std::to_string(owner_->custody.control().published.load() & 3);
  const Mapping mapping = store_.map(segment);
  for (std::size_t bit = 0; bit < std::size_t{8} * 16; ++bit) {  // position and length
    std::byte& byte = mapping.data()[8 + bit / 8];
    byte ^= std::byte{1} << (bit % 8);
    Replica fresh(owner_->custody);
    EXPECT_FALSE(fresh.follow(kAll)) << bit;
    byte ^= std::byte{1} << (bit % 8);
  }
}

// Dies at either point, and the next one, which knows nothing of it, dies there again; then one gets through.
TEST_F(SalvageTest, DyingInItLosesNothingMore) {
  for (const char* point : {"salvaged", "salvage-published"}) {
    SCOPED_TRACE(point);
    MemoryCustody store = small_custody();
    std::uint64_t damaged = 0;
    {
      Incarnation owner(store);
      owner.executor.connect(0, 0);
      owner.call(0, kWrite, "/a|1");
      owner.publish_snapshot();
      owner.custody.journal().release(owner.replica.position());
      owner.call(0, kWrite, "/b|2");
      damaged = owner.custody.journal().tail();
      owner.call(0, kWrite, "/c|3");
    }
    store.map("journal").data()[4096 + damaged + 30] ^= std::byte{1};
    const auto life = [&](bool die) {
      Incarnation next(store);
      if (die) {
        EXPECT_TRUE(CrashPoint::arm(point));
      }
      EXPECT_TRUE(next.executor.redo());
      if (auto followed = next.replica.follow(kAll); followed) return;  // a predecessor got that far
      ASSERT_TRUE(salvage(next.custody, next.replica));
    };
    EXPECT_TRUE(dies([&] { life(true); }));
    dies([&] { life(true); });
    EXPECT_FALSE(dies([&] { life(false); }));
    Incarnation after(store);
    EXPECT_TRUE(after.executor.redo());
    ASSERT_TRUE(after.replica.follow(kAll));
    EXPECT_EQ(read_from(after.replica.engine(), "/a"), "reply:2:1");
    EXPECT_EQ(read_from(after.replica.engine(), "/b"), "reply:2:2");
    EXPECT_THAT(read_from(after.replica.engine(), "/c"), HasSubstr(kNoEntry));
    EXPECT_EQ(after.custody.control().lost_records.load(), 1U);
  }
}

}  // namespace
}  // namespace bulkhead::xenstore::test
