// Snapshots: what they keep, that slices do not disturb, and that no damage gets further than an error.
#include "components/xenstore/snapshot.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/snapshot_format.h"
#include "components/xenstore/tree.h"

namespace bulkhead::xenstore::test {
namespace {

// A store with something of everything.
void populate(Store& s) {
  s.call(0, kIntroduce, "1|11|12|");
  s.call(0, kIntroduce, "2|21|22|");
  s.call(0, kSetTarget, "1|2|");
  s.call(0, kSetPerms, "@releaseDomain|n0|r1|");
  s.call(0, kControl, "quota|set|nodes|77|");
  s.call(0, kSetQuota, "2|nodes|5|");
  s.call(0, kSetQuota, "2|soft-memory|0|");
  s.call(0, kSetFeature, "3|0|");
  s.call(0, kWatch, "@releaseDomain|w|1|");
  s.call(0, kWatch, "device|relative|");
  s.write(0, "/a/b/c", "value");
  s.call(0, kSetPerms, "/a/b|n1|r2|w3|");
  s.call(1, kWatch, "/a|w|2|");
  for (int i = 0; i < 100; ++i) s.write(0, "/many/n" + std::to_string(i), std::to_string(i));
  std::uint32_t t = s.begin(0);
  s.write(0, "/a/b/c", "changed", t);
  s.call(0, kRm, "/many/n50|", t);
  s.write(0, "/new/deep", "x", t);
  s.read(0, "/nothing", t);
  s.begin(0);
  s.write(0, "/many/n1", "later");
  s.begin(1);
}

TEST(Snapshot, OfADamagedStateSaysSo) {
  Store s;
  populate(s);
  std::vector<std::byte> bytes;
  SnapshotWriter sound(s.engine);
  while (sound.step(1000, bytes)) {
  }
  EXPECT_EQ(sound.damage(), "");
  s.engine.flip_bit();
  SnapshotWriter writer(s.engine);
  while (writer.step(1000, bytes)) {
  }
  EXPECT_NE(writer.damage(), "");
}

TEST(Snapshot, KeepsEverything) {
  Store s;
  populate(s);
  std::vector<std::byte> bytes = write_snapshot(s.engine);
  auto restored = read_snapshot(bytes);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(restored->check());
  EXPECT_EQ(restored->digest(), s.engine.digest());
  EXPECT_EQ(restored->limits(), s.engine.limits());
  EXPECT_EQ(write_snapshot(*restored), bytes);

  Store other;
  other.engine = std::move(*restored);
  EXPECT_EQ(other.read(0, "/a/b/c", 1), "changed");
  EXPECT_EQ(other.read(0, "/many/n50", 1), "ENOENT");
  EXPECT_EQ(other.read(0, "/many/n1", 2), "1");
  EXPECT_EQ(other.read(0, "/many/n1"), "later");
  EXPECT_EQ(other.end(0, 1), s.end(0, 1));
  EXPECT_EQ(other.said, s.said);
  EXPECT_EQ(other.begin(0), 3U);
  EXPECT_EQ(other.call(0, kGetPerms, "/a/b|"), "n1|r2|w3|");
  EXPECT_EQ(other.call(0, kGetQuota, "2|nodes|"), "5|");
  EXPECT_EQ(other.call(0, kGetQuota, "2|soft-memory|"), "0|");
  EXPECT_EQ(other.call(0, kGetQuota, "1|nodes|"), "77|");
  EXPECT_EQ(other.call(3, kGetFeature, ""), "0|");
  EXPECT_EQ(other.call(0, kRelease, "2|"), s.call(0, kRelease, "2|"));
  EXPECT_EQ(other.said, s.said);
}

TEST(Snapshot, TransactionsCostTheirDifferenceOnly) {
  Store s;
  for (int i = 0; i < 2000; ++i) s.write(0, "/many/n" + std::to_string(i), std::string(100, 'x'));
  std::size_t alone = write_snapshot(s.engine).size();
  for (int i = 0; i < 50; ++i) {
    std::uint32_t t = s.begin(0);
    s.write(0, "/many/n" + std::to_string(i), "mine", t);
    s.write(0, "/other", std::to_string(i));
  }
  EXPECT_LT(write_snapshot(s.engine).size(), alone + 100000);
}

TEST(Snapshot, DeepTreesNeedNoStack) {
  Store s;
  std::string path;
  for (int i = 0; i < 1020; ++i) path += "/a";
  ASSERT_EQ(s.write(0, path, "deep"), "OK|");
  auto restored = read_snapshot(write_snapshot(s.engine));
  ASSERT_TRUE(restored);
  EXPECT_EQ(restored->node_count(), s.engine.node_count());
}

TEST(Snapshot, AWriterOutlivesItsEngine) {
  auto s = std::make_unique<Store>();
  populate(*s);
  std::vector<std::byte> bytes = write_snapshot(s->engine);
  SnapshotWriter writer(s->engine);
  s.reset();
  std::vector<std::byte> late;
  while (writer.step(1, late)) {
  }
  EXPECT_EQ(late, bytes);
}

TEST(Snapshot, AStepKeepsToItsBudget) {
  Store s;
  for (int i = 0; i < 5000; ++i) s.write(0, "/many/n" + std::to_string(i), "");
  SnapshotWriter writer(s.engine);
  std::vector<std::byte> bytes;
  for (bool more = true; more;) {
    std::size_t before = bytes.size();
    more = writer.step(500, bytes);
    ASSERT_LE(bytes.size() - before, 500U + 4096U);
  }
}

TEST(Snapshot, EveryTruncationIsRefused) {
  Store s;
  populate(s);
  std::vector<std::byte> bytes = write_snapshot(s.engine);
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    auto restored = read_snapshot(std::span(bytes).first(size));
    ASSERT_FALSE(restored) << size;
    EXPECT_EQ(restored.error().kind(), ErrorKind::kInvalid);
  }
  bytes.push_back(std::byte{0});
  EXPECT_FALSE(read_snapshot(bytes));
}

TEST(Snapshot, EveryFlippedBitIsRefused) {
  Store s;
  s.write(0, "/a", "v");
  s.call(0, kWatch, "/a|t|");
  s.write(0, "/b", "w", s.begin(0));
  std::vector<std::byte> bytes = write_snapshot(s.engine);
  for (std::size_t bit = 0; bit < bytes.size() * 8; ++bit) {
    bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
    ASSERT_FALSE(read_snapshot(bytes)) << bit;
    bytes[bit / 8] ^= static_cast<std::byte>(1U << (bit % 8));
  }
  EXPECT_TRUE(read_snapshot(bytes));
}

// Makes every record's CRC right again, so that the fields themselves have to be distrusted.
void forge_checksums(std::vector<std::byte>& bytes) {
  std::size_t at = core::kSnapshotMagic.size() + 8;
  while (at + core::kRecordHead + core::kRecordTail <= bytes.size()) {
    std::uint32_t length;
    std::memcpy(&length, bytes.data() + at + 4, sizeof length);
    std::size_t size = core::kRecordHead + length;
    if (length > core::kMaxRecord || at + size + core::kRecordTail > bytes.size()) return;
    std::uint32_t crc = crc32c(std::span(bytes).subspan(at, size));
    std::memcpy(bytes.data() + at + size, &crc, sizeof crc);
    at += size + core::kRecordTail;
  }
}

// A forged snapshot may be read or refused, and what was read must survive being used, whatever it says.
TEST(Snapshot, ForgedFieldsNeverCrash) {
  Store s;
  populate(s);
  const std::vector<std::byte> good = write_snapshot(s.engine);
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 20000; ++round) {
    std::vector<std::byte> bytes = good;
    for (std::size_t changes = 1 + random() % 3; changes > 0; --changes) {
      std::size_t at = 20 + random() % (bytes.size() - 20);
      bytes[at] = random() % 2 == 0 ? static_cast<std::byte>(random()) : bytes[at] ^ std::byte{1};
    }
    forge_checksums(bytes);
    auto restored = read_snapshot(bytes);
    if (!restored) continue;
    ++accepted;
    Store other;
    other.engine = std::move(*restored);
    other.end(0, 1);
    other.end(1, 1);
    other.write(0, "/a/b/c/d", "x");
    other.call(0, kRm, "/many|");
    other.call(0, kRelease, "1|");
    other.list(0, "/");
    Status sound = other.engine.check();  // either verdict is right, if it comes
    EXPECT_TRUE(sound || !sound.error().message().empty());
    EXPECT_FALSE(write_snapshot(other.engine).empty());
  }
  EXPECT_GT(accepted, 100);
}

// The counters at the front of the first record.
TEST(Snapshot, CountersThatWouldWrapAreRefused) {
  Store s;
  for (const std::size_t at : {24U, 32U}) {
    std::vector<std::byte> bytes = write_snapshot(s.engine);
    for (std::size_t i = 0; i < 8; ++i) bytes[at + i] = std::byte{0xff};
    forge_checksums(bytes);
    EXPECT_FALSE(read_snapshot(bytes)) << at;
  }
}

// A forged snapshot of nothing but "/", with this value.
std::vector<std::byte> snapshot_of_root(std::string_view value) {
  const core::Permission nobody{.domid = 0, .rights = 0, .ignored = 0};
  const core::Ref<core::Node> root = core::Node::make("", as_bytes(value));
  root->permissions = core::PermissionSet::make({&nobody, 1});
  std::vector<std::byte> bytes = write_snapshot(Engine());
  std::uint32_t length = 0;
  std::memcpy(&length, bytes.data() + 20, sizeof length);
  bytes.resize(16 + core::kRecordHead + length + core::kRecordTail);  // the counters stay
  core::RecordWriter record(bytes);
  record.begin(core::RecordType::kTree);
  record.number(std::uint32_t{0}).number(core::kNoTree).number(std::uint64_t{1}).end();
  record.begin(core::RecordType::kNode);
  record.number(std::uint64_t{1}).number(std::uint64_t{1}).text("/").number(std::uint32_t{1});
  record.number(nobody.domid).number(nobody.rights).number(nobody.ignored).text(value).end();
  record.begin(core::RecordType::kTreeEnd);
  record.number(std::uint64_t{1}).number(core::node_hash("/", *root)).end();
  record.begin(core::RecordType::kEnd);
  record.end();
  return bytes;
}

// A client could be told such a value only in a reply that is longer than any message.
TEST(Snapshot, ValueLongerThanAMessageIsRefused) {
  EXPECT_TRUE(read_snapshot(snapshot_of_root(std::string(kMaxPayload, 'v'))));
  EXPECT_FALSE(read_snapshot(snapshot_of_root(std::string(kMaxPayload + 1, 'v'))));
}

TEST(Snapshot, GarbageIsRefused) {
  std::mt19937 random(8);
  for (int round = 0; round < 1000; ++round) {
    std::vector<std::byte> bytes(random() % 400);
    for (std::byte& b : bytes) b = static_cast<std::byte>(random());
    EXPECT_FALSE(read_snapshot(bytes));
  }
}

TEST(Snapshot, UnknownRecordsAreSkippedIfOptionalAndRefusedIfNot) {
  Store s;
  std::vector<std::byte> good = write_snapshot(s.engine);
  for (std::uint32_t type : {99U | core::kOptionalRecord, 99U}) {
    std::vector<std::byte> added;
    core::RecordWriter record(added);
    record.begin(static_cast<core::RecordType>(type));
    record.text("from the future");
    record.end();
    std::vector<std::byte> bytes = good;
    std::size_t before_end = bytes.size() - core::kRecordHead - core::kRecordTail;
    bytes.insert(bytes.begin() + static_cast<std::ptrdiff_t>(before_end), added.begin(), added.end());
    EXPECT_EQ(read_snapshot(bytes).has_value(), (type & core::kOptionalRecord) != 0);
  }
}

}  // namespace
}  // namespace bulkhead::xenstore::test
