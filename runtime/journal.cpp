#include "runtime/journal.h"

#include <algorithm>
#include <cstring>
#include <new>

#include "runtime/crc32c.h"

namespace bulkhead {
namespace {

constexpr std::uint64_t align_up(std::uint64_t value, std::uint64_t alignment) {
  return (value + alignment - 1) / alignment * alignment;
}

std::unexpected<Error> damaged(std::uint64_t position) {
  return failure(ErrorKind::kInvalid, "journal damaged at position " + std::to_string(position));
}

}  // namespace

Result<UniqueFd> Journal::create(std::size_t bytes) {
  const std::uint64_t capacity = align_up(bytes < 2 * kMaxRecord ? 2 * kMaxRecord : bytes, 4096);
  auto segment = create_memfd("bulkhead-journal", kDataOffset + capacity);
  if (!segment) return segment;
  auto mapping = Mapping::map(segment->borrow(), kDataOffset + capacity);
  if (!mapping) return forward(std::move(mapping));
  auto* header = new (mapping->data()) Header{};
  header->capacity = capacity;
  header->magic = kMagic;
  return segment;
}

Result<Journal> Journal::open(BorrowedFd segment) {
  auto mapping = Mapping::map(segment, kDataOffset);
  if (!mapping) return forward(std::move(mapping), "cannot open the journal");
  const auto* header = mapping->at<Header>(0);
  const std::uint64_t capacity = header->capacity;
  const bool possible = capacity >= kMaxRecord && capacity % kAlignment == 0;
  if (header->magic != kMagic || !possible || capacity != mapping->size() - kDataOffset) {
    return failure(ErrorKind::kInvalid, "cannot open the journal: the segment holds something else");
  }
  return Journal(std::move(*mapping), capacity);
}

std::uint32_t Journal::checksum(const RecordHeader& record, const std::byte* payload) {
  const auto* bytes = reinterpret_cast<const std::byte*>(&record);
  const std::uint32_t crc = crc32c(std::span(bytes + sizeof record.crc, sizeof record - sizeof record.crc));
  return crc32c(std::span(payload, record.length), crc);
}

// A record never wraps: what is left before the end of the ring becomes a padding record if it is too small.
std::uint64_t Journal::pad_to_fit(std::uint64_t position, std::uint64_t size) {
  const std::uint64_t room = capacity_ - position % capacity_;
  if (room >= size) return position;
  if (room >= sizeof(RecordHeader)) {
    RecordHeader padding{0, static_cast<std::uint32_t>(room - sizeof(RecordHeader)), position, 0, 0};
    // The checksum of padding covers its header alone: its payload means nothing.
    const std::uint32_t length = padding.length;
    padding.length = 0;
    padding.crc = checksum(padding, nullptr);
    padding.length = length;
    std::memcpy(at(position), &padding, sizeof padding);
  }
  return position + room;
}

std::uint64_t Journal::prepare(std::uint32_t kind, std::uint32_t subject,
                               std::initializer_list<std::span<const std::byte>> parts) {
  std::size_t length = 0;
  for (const auto& part : parts) length += part.size();
  const std::uint64_t size = align_up(sizeof(RecordHeader) + length, kAlignment);
  const std::uint64_t position = pad_to_fit(tail(), size);
  std::byte* payload = at(position) + sizeof(RecordHeader);
  std::byte* to = payload;
  for (const auto& part : parts) {
    std::memcpy(to, part.data(), part.size());
    to += part.size();
  }
  RecordHeader record{0, static_cast<std::uint32_t>(length), position, kind, subject};
  record.crc = checksum(record, payload);
  std::memcpy(at(position), &record, sizeof record);
  return position + size;
}

void Journal::rest_before(std::uint64_t position) {
  constexpr std::uint64_t kStep = std::uint64_t{256} * 1024;
  if (position < rested_ + kStep) return;
  rest(rested_, position);
  rested_ = position;
}

void Journal::rest(std::uint64_t from, std::uint64_t to) const {
  // A page fault maps its neighbours as well, those behind included.
  constexpr std::uint64_t kNeighbours = std::uint64_t{64} * 1024;
  const std::uint64_t length = std::min(to - (from - std::min(from, kNeighbours)), capacity_);
  const std::uint64_t first = (to - length) % capacity_;
  const std::uint64_t before_wrap = std::min(length, capacity_ - first);
  mapping_.rest(kDataOffset + first, before_wrap);
  mapping_.rest(kDataOffset, length - before_wrap);
}

Status Journal::read(std::uint64_t position, JournalRecord& record) const {
  const std::uint64_t room = capacity_ - position % capacity_;
  const std::uint64_t left = tail() - position;  // no record that counts is longer
  if (room < sizeof(RecordHeader) && room < left) return read(position + room, record);
  if (room < sizeof(RecordHeader)) return damaged(position);
  RecordHeader raw{};
  std::memcpy(&raw, at(position), sizeof raw);
  const bool fits = raw.position == position && raw.length <= room - sizeof raw;
  const bool padding = raw.kind == 0;
  if (fits && !padding && raw.length <= kMaxPayload) {
    record.payload.assign(at(position) + sizeof raw, at(position) + sizeof raw + raw.length);
  }
  // Whatever was copied counts only if the writer had not released it by now.
  if (start() > position) return failure(ErrorKind::kNotFound, "journal position was overwritten");
  if (fits && padding) {
    RecordHeader bare = raw;
    bare.length = 0;
    if (raw.crc == checksum(bare, nullptr) && room < left) return read(position + room, record);
  } else if (fits && raw.length <= kMaxPayload && raw.crc == checksum(raw, record.payload.data())) {
    const std::uint64_t size = align_up(sizeof raw + raw.length, kAlignment);
    if (size > left) return damaged(position);
    record.kind = raw.kind;
    record.subject = raw.subject;
    record.next = position + size;
    return {};
  }
  return damaged(position);
}

std::uint64_t Journal::next_readable(std::uint64_t position, std::uint64_t end) const {
  JournalRecord record;
  for (position = align_up(position, kAlignment); position < end; position += kAlignment) {
    // read() follows padding; here only what stands at this very place counts.
    RecordHeader raw{};
    if (capacity_ - position % capacity_ < sizeof raw) continue;
    std::memcpy(&raw, at(position), sizeof raw);
    if (raw.position == position && raw.kind != 0 && read(position, record)) return position;
  }
  return end;
}

}  // namespace bulkhead
