#include "runtime/journal.h"

#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <random>
#include <string>
#include <utility>

namespace bulkhead {
namespace {

std::span<const std::byte> bytes(const std::string& text) {
  return std::as_bytes(std::span(text));
}

std::string text(const JournalRecord& record) {
  return {reinterpret_cast<const char*>(record.payload.data()), record.payload.size()};
}

class JournalTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto segment = Journal::create(1);  // the smallest there is
    ASSERT_TRUE(segment.has_value());
    segment_ = std::move(*segment);
  }
  Journal open() const {
    auto journal = Journal::open(segment_.borrow());
    EXPECT_TRUE(journal.has_value());
    return std::move(*journal);
  }
  static std::uint64_t append(Journal& journal, std::uint32_t subject, const std::string& payload) {
    const std::uint64_t tail = journal.prepare(1, subject, {bytes(payload)});
    journal.commit(tail);
    return tail;
  }

  UniqueFd segment_;
};

TEST_F(JournalTest, RecordsComeBackInAnotherMapping) {
  Journal writer = open();
  const Journal reader = open();
  const std::uint64_t second = append(writer, 7, "first");
  const std::uint64_t end = append(writer, 8, "second");
  JournalRecord record;
  ASSERT_TRUE(reader.read(0, record).has_value());
  EXPECT_EQ(record.subject, 7U);
  EXPECT_EQ(text(record), "first");
  EXPECT_EQ(record.next, second);
  ASSERT_TRUE(reader.read(second, record).has_value());
  EXPECT_EQ(text(record), "second");
  EXPECT_EQ(record.next, end);
  EXPECT_EQ(reader.tail(), end);
}

TEST_F(JournalTest, UncommittedRecordIsInvisibleAndReplaced) {
  Journal journal = open();
  journal.prepare(1, 1, {bytes("never true")});
  EXPECT_EQ(journal.tail(), 0U);
  append(journal, 2, "true");
  JournalRecord record;
  ASSERT_TRUE(journal.read(0, record).has_value());
  EXPECT_EQ(text(record), "true");
}

TEST_F(JournalTest, PartsAreOnePayload) {
  Journal journal = open();
  journal.commit(journal.prepare(3, 4, {bytes("ab"), bytes(""), bytes("cde")}));
  JournalRecord record;
  ASSERT_TRUE(journal.read(0, record).has_value());
  EXPECT_EQ(record.kind, 3U);
  EXPECT_EQ(text(record), "abcde");
}

// Many times around the ring with records of all sizes, read back at once and released at random.
TEST_F(JournalTest, WrapsForever) {
  Journal writer = open();
  const Journal reader = open();
  std::mt19937 random(1);
  std::uint64_t read_at = 0;
  JournalRecord record;
  std::vector<std::string> expected;
  while (writer.tail() < 20 * writer.capacity()) {
    const std::string payload(random() % (random() % 50 == 0 ? Journal::kMaxPayload : 500), 'x');
    while (writer.free() < Journal::kMaxRecord) {
      for (const auto& wanted : expected) {
        ASSERT_TRUE(reader.read(read_at, record).has_value());
        ASSERT_EQ(text(record), wanted);
        read_at = record.next;
      }
      expected.clear();
      writer.release(read_at);
    }
    append(writer, 1, payload);
    expected.push_back(payload);
    ASSERT_LE(writer.used(), writer.capacity());
  }
}

// KiB of the journal in this process's page tables, see proc_pid_smaps(5); all mappings of it together.
std::uint64_t mapped_kib() {
  std::ifstream maps("/proc/self/smaps");
  std::uint64_t sum = 0;
  bool ours = false;
  for (std::string line; std::getline(maps, line);) {
    if (line.contains("bulkhead-journal")) ours = true;
    if (!line.starts_with("Rss:")) continue;
    if (std::exchange(ours, false)) sum += std::stoull(line.substr(line.find_first_of("0123456789")));
  }
  return sum;
}

// The same as WrapsForever, of a larger one, by a writer and a reader that keep little of it mapped.
TEST_F(JournalTest, WhatIsDoneWithIsMappedNoMoreAndAllThereAllTheSame) {
  segment_ = std::move(*Journal::create(std::size_t{4} << 20));
  Journal writer = open();
  Journal reader = open();
  std::mt19937 random(2);
  JournalRecord record;
  std::uint64_t read_at = 0;
  std::uint64_t look_at = 0;
  while (writer.tail() < 3 * writer.capacity()) {
    const std::string payload(random() % 3000, static_cast<char>('a' + random() % 26));
    append(writer, 1, payload);
    writer.rest_before(writer.tail());
    if (random() % 1000 == 0) writer.rest_before(writer.tail() / 2);  // not in order: nothing happens
    ASSERT_TRUE(reader.read(read_at, record).has_value());
    ASSERT_EQ(text(record), payload);
    read_at = record.next;
    reader.rest_before(read_at);
    writer.release(read_at);
    if (writer.tail() < look_at) continue;  // it takes its time
    look_at = writer.tail() + (std::uint64_t{1} << 20);
    ASSERT_LE(mapped_kib(), 2U * 1024);
  }
}

TEST_F(JournalTest, ReleasedRecordIsNotFound) {
  Journal journal = open();
  const std::uint64_t second = append(journal, 1, "gone");
  append(journal, 1, "here");
  journal.release(second);
  JournalRecord record;
  const auto read = journal.read(0, record);
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().kind(), ErrorKind::kNotFound);
}

TEST_F(JournalTest, EveryFlippedBitIsFound) {
  Journal journal = open();
  append(journal, 1, "payload");
  auto mapping = Mapping::map(segment_.borrow(), 1);
  ASSERT_TRUE(mapping.has_value());
  std::byte* data = mapping->data() + 4096;
  JournalRecord record;
  for (std::size_t bit = 0; bit < (24 + 7) * 8; ++bit) {
    data[bit / 8] ^= std::byte{1} << (bit % 8);
    const auto read = journal.read(0, record);
    EXPECT_FALSE(read.has_value()) << "bit " << bit;
    data[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  EXPECT_TRUE(journal.read(0, record).has_value());
}

TEST_F(JournalTest, ForeignSegmentIsRefused) {
  auto other = create_memfd("other", 8192);
  ASSERT_TRUE(other.has_value());
  EXPECT_FALSE(Journal::open(other->borrow()).has_value());
}

// Its checksum is right, but whoever committed this tail has not committed this record.
TEST_F(JournalTest, RecordBeyondTheTailIsDamage) {
  Journal journal = open();
  const std::uint64_t tail = append(journal, 1, "payload");
  journal.commit(tail - 8);
  JournalRecord record;
  const auto read = journal.read(0, record);
  ASSERT_FALSE(read.has_value());
  EXPECT_EQ(read.error().kind(), ErrorKind::kInvalid);
  journal.commit(tail);
  EXPECT_TRUE(journal.read(0, record).has_value());
}

// No record fits, or none is aligned: reading would never come to an end.
TEST_F(JournalTest, ImpossibleCapacityIsRefused) {
  for (const std::uint64_t capacity : {std::uint64_t{8}, std::uint64_t{4096}, Journal::kMaxRecord + 1}) {
    auto segment = create_memfd("journal", 4096 + capacity);
    ASSERT_TRUE(segment.has_value());
    auto mapping = Mapping::map(segment->borrow(), 1);
    ASSERT_TRUE(mapping.has_value());
    *mapping->at<std::uint64_t>(0) = 0x316c6e4a'6b6c7542;
    *mapping->at<std::uint64_t>(8) = capacity;
    EXPECT_FALSE(Journal::open(segment->borrow()).has_value()) << capacity;
  }
}

}  // namespace
}  // namespace bulkhead
