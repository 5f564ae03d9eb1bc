// The journal: a ring of checksummed records in a shared segment. One writer (the owner of the lease)
// appends; any instance reads along. A position is a byte offset since the journal began and never wraps.
// Format: docs/formats/journal.md.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/memfd.h"
#include "runtime/result.h"

namespace bulkhead {

struct JournalRecord {
  std::uint32_t kind = 0;     // the component's own meaning; 0 is reserved for padding
  std::uint32_t subject = 0;  // likewise
  std::vector<std::byte> payload;
  std::uint64_t next = 0;  // the position after this record
};

class Journal {
 public:
  static constexpr std::size_t kMaxPayload = std::size_t{64} * 1024;
  // Room that must be free for an append of any size to succeed, padding included.
  static constexpr std::uint64_t kMaxRecord = 2 * (kMaxPayload + 64);

  // A segment able to hold at least `bytes` of records.
  static Result<UniqueFd> create(std::size_t bytes);
  static Result<Journal> open(BorrowedFd segment);

  std::uint64_t start() const { return header()->start.load(std::memory_order_acquire); }
  std::uint64_t tail() const { return header()->tail.load(std::memory_order_acquire); }
  std::uint64_t capacity() const { return capacity_; }
  std::uint64_t used() const { return tail() - start(); }
  std::uint64_t free() const { return capacity_ - used(); }

  // Writer: puts a record behind the tail, invisible until commit(). Returns the tail to commit. Calling it
  // again without a commit overwrites. The payload is the concatenation of `parts`; free() must be at least
  // kMaxRecord.
  std::uint64_t prepare(std::uint32_t kind, std::uint32_t subject,
                        std::initializer_list<std::span<const std::byte>> parts);
  // Writer: one store. Safe to repeat.
  void commit(std::uint64_t new_tail) { header()->tail.store(new_tail, std::memory_order_release); }
  // Writer: records before `position` may be overwritten from now on.
  void release(std::uint64_t position) { header()->start.store(position); }

  // This process has no more use for records before `position`: their pages may leave its page tables. Cheap
  // to call often.
  void rest_before(std::uint64_t position);
  // Likewise of what was read between the two.
  void rest(std::uint64_t from, std::uint64_t to) const;

  // Reader: the record at `position` (start() <= position < tail()), copied. kNotFound: overwritten
  // meanwhile, load a newer snapshot. kInvalid: damaged.
  Status read(std::uint64_t position, JournalRecord& record) const;
  // The first position from `position` on, and before `end`, at which a whole record stands; `end` if there
  // is none. For counting what lies behind damage: whatever rests on a record that cannot be read must not be
  // used.
  std::uint64_t next_readable(std::uint64_t position, std::uint64_t end) const;

 private:
  struct Header {
    std::uint64_t magic;
    std::uint64_t capacity;
    alignas(64) std::atomic<std::uint64_t> start;
    alignas(64) std::atomic<std::uint64_t> tail;
  };
  struct RecordHeader {
    std::uint32_t crc;  // CRC32C of everything after this field
    std::uint32_t length;
    std::uint64_t position;
    std::uint32_t kind;
    std::uint32_t subject;
  };
  static constexpr std::uint64_t kMagic = 0x316c6e4a'6b6c7542;  // "BulkJnl1"
  static constexpr std::size_t kDataOffset = 4096;
  static constexpr std::uint64_t kAlignment = 8;

  Journal(Mapping mapping, std::uint64_t capacity) : mapping_(std::move(mapping)), capacity_(capacity) {}
  Header* header() const { return mapping_.at<Header>(0); }
  std::byte* at(std::uint64_t position) const { return mapping_.data() + kDataOffset + position % capacity_; }
  std::uint64_t pad_to_fit(std::uint64_t position, std::uint64_t size);
  static std::uint32_t checksum(const RecordHeader& record, const std::byte* payload);

  Mapping mapping_;
  std::uint64_t capacity_;
  std::uint64_t rested_ = 0;  // position
};

}  // namespace bulkhead
