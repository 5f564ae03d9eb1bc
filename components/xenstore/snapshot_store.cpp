#include "components/xenstore/snapshot_store.h"

#include <pthread.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <functional>
#include <utility>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/snapshot_format.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

constexpr int kLoadAttempts = 100;

SnapshotHead* head_of(const Mapping& segment) {
  return segment.at<SnapshotHead>(0);
}

pthread_mutex_t* lock_of(const Mapping& segment) {
  static_assert(sizeof(pthread_mutex_t) <= sizeof(SnapshotHead::writer_lock));
  return reinterpret_cast<pthread_mutex_t*>(head_of(segment)->writer_lock);
}

std::uint64_t seal_of(std::uint64_t position, std::uint64_t length) {
  const std::array<std::uint64_t, 2> fields{position, length};
  return kHeadSealed | crc32c(std::as_bytes(std::span(fields)));
}

bool try_lock(const Mapping& segment) {
  const int rc = ::pthread_mutex_trylock(lock_of(segment));
  // The previous writer died in the middle: what it wrote was never published, so there is nothing to mend.
  if (rc == EOWNERDEAD) ::pthread_mutex_consistent(lock_of(segment));
  return rc == 0 || rc == EOWNERDEAD;
}

}  // namespace

Result<UniqueFd> SnapshotStore::create_segment(std::size_t bytes) {
  auto segment = create_memfd("xenstore-snapshot", kSnapshotData + bytes);
  if (!segment) return segment;
  auto mapping = Mapping::map(segment->borrow(), kSnapshotData + bytes);
  if (!mapping) return forward(std::move(mapping));
  pthread_mutexattr_t attributes;
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const int error = ::pthread_mutex_init(lock_of(*mapping), &attributes);
  ::pthread_mutexattr_destroy(&attributes);
  if (error != 0) return os_failure("cannot make a snapshot lock", error);
  return segment;
}

// Looks again if another snapshot was published meanwhile: ours may then be one that is being written, and
// the journal must not be released up to a position that is never published.
std::uint64_t SnapshotStore::of_published(std::uint64_t SnapshotHead::* field) const {
  for (;;) {
    const std::uint64_t published = custody_.control().published.load();
    const std::uint64_t value = published == 0 ? 0 : head_of(custody_.snapshot(published & 3))->*field;
    if (custody_.control().published.load() == published) return value;
  }
}

std::uint64_t SnapshotStore::position() const {
  return of_published(&SnapshotHead::journal_position);
}

std::uint64_t SnapshotStore::length() const {
  return of_published(&SnapshotHead::length);
}

Result<std::optional<SnapshotStore::Loaded>> SnapshotStore::load(const std::function<void()>& pause) const {
  for (int attempt = 0; attempt < kLoadAttempts; ++attempt) {
    const std::uint64_t published = custody_.control().published.load();
    if (published == 0) return std::optional<Loaded>();
    if ((published & 3) >= kSnapshotSlots) return failure(ErrorKind::kInvalid, "there is no such snapshot");
    auto loaded = load_slot(published & 3, pause);
    if (loaded) return std::optional(std::move(*loaded));
    if (loaded.error().kind() != ErrorKind::kNotFound) return forward(std::move(loaded));
  }
  return failure(ErrorKind::kExhausted,
                 "cannot load the snapshot: it is replaced faster than it can be read");
}

Result<SnapshotStore::Loaded> SnapshotStore::load_slot(std::size_t slot,
                                                       const std::function<void()>& pause) const {
  const Mapping& segment = custody_.snapshot(slot);
  const SnapshotHead* head = head_of(segment);
  const std::uint64_t version = head->version.load();
  const std::uint64_t position = head->journal_position;
  const std::uint64_t length = head->length;
  const std::uint64_t seal = head->seal;
  if (version % 2 != 0) return failure(ErrorKind::kNotFound, "the snapshot is being replaced");
  const bool intact =
      length <= segment.size() - kSnapshotData && (seal == 0 || seal == seal_of(position, length));
  std::vector<std::byte> bytes;
  if (intact) bytes.assign(segment.data() + kSnapshotData, segment.data() + kSnapshotData + length);
  segment.rest(kSnapshotData, length);
  if (head->version.load() != version) return failure(ErrorKind::kNotFound, "the snapshot was replaced");
  if (!intact) return failure(ErrorKind::kInvalid, "cannot load the snapshot: its head is damaged");
  auto engine = read_snapshot(bytes, pause);
  if (!engine) return forward(std::move(engine), "cannot load the snapshot");
  return Loaded{position, std::move(*engine)};
}

Result<bool> SnapshotStore::verify_some(std::uint64_t& at, std::size_t budget) const {
  const auto damaged = [] { return failure(ErrorKind::kInvalid, "the published snapshot is damaged"); };
  const std::uint64_t published = custody_.control().published.load();
  if (published == 0) return false;
  if ((published & 3) >= kSnapshotSlots) return damaged();
  const Mapping& segment = custody_.snapshot(published & 3);
  const SnapshotHead* head = head_of(segment);
  const std::uint64_t length = head->length;
  if (length > segment.size() - kSnapshotData ||
      (head->seal != 0 && head->seal != seal_of(head->journal_position, length))) {
    return damaged();
  }
  const std::uint64_t first = std::min(at, length);
  std::span<const std::byte> left{segment.data() + kSnapshotData + first, length - first};
  bool sound = first > 0 || core::check_file_header(left);
  for (at = length - left.size(); sound && at < length && at - first < budget; at = length - left.size()) {
    sound = core::next_record(left).has_value();
  }
  segment.rest(kSnapshotData + first, at - first);
  if (!sound) return damaged();
  return at < length;
}

std::vector<std::size_t> SnapshotStore::complete() const {
  std::vector<std::size_t> slots;
  for (std::size_t slot = 0; slot < kSnapshotSlots; ++slot) {
    const std::uint64_t version = head_of(custody_.snapshot(slot))->version.load();
    if (version != 0 && version % 2 == 0) slots.push_back(slot);
  }
  std::ranges::sort(slots, std::greater(),
                    [&](std::size_t slot) { return head_of(custody_.snapshot(slot))->journal_position; });
  return slots;
}

void SnapshotStore::republish(std::optional<std::size_t> slot) const {
  auto& published = custody_.control().published;
  published.store(slot ? ((published.load() >> 2) + 1) << 2 | *slot : 0);
}

std::optional<SnapshotWriting> SnapshotWriting::begin(Custody& custody, const Engine& engine,
                                                      std::uint64_t position) {
  for (std::size_t slot = 0; slot < kSnapshotSlots; ++slot) {
    const Mapping& segment = custody.snapshot(slot);
    if (!try_lock(segment)) continue;
    // Looked at under the lock: nobody else can publish this segment now.
    const std::uint64_t published = custody.control().published.load();
    if (published != 0 && (published & 3) == slot) {
      ::pthread_mutex_unlock(lock_of(segment));
      continue;
    }
    return SnapshotWriting(custody, slot, engine, position);
  }
  return std::nullopt;
}

SnapshotWriting::SnapshotWriting(Custody& custody, std::size_t slot, const Engine& engine,
                                 std::uint64_t position)
    : custody_(&custody), slot_(slot), position_(position), writer_(engine) {
  auto& version = head_of(custody.snapshot(slot))->version;
  version.store(version.load() | 1);
  kSnapshotBegun.pass();
}

SnapshotWriting::SnapshotWriting(SnapshotWriting&& other) noexcept
    : custody_(std::exchange(other.custody_, nullptr)),
      slot_(other.slot_),
      position_(other.position_),
      written_(other.written_),
      writer_(std::move(other.writer_)),
      slice_(std::move(other.slice_)) {}

SnapshotWriting& SnapshotWriting::operator=(SnapshotWriting&& other) noexcept {
  if (this == &other) return *this;
  unlock();
  custody_ = std::exchange(other.custody_, nullptr);
  slot_ = other.slot_;
  position_ = other.position_;
  written_ = other.written_;
  writer_ = std::move(other.writer_);
  slice_ = std::move(other.slice_);
  return *this;
}

SnapshotWriting::~SnapshotWriting() {
  unlock();
}

void SnapshotWriting::unlock() {
  if (custody_ != nullptr) ::pthread_mutex_unlock(lock_of(custody_->snapshot(slot_)));
}

Result<bool> SnapshotWriting::step(std::size_t budget) {
  const Mapping& segment = custody_->snapshot(slot_);
  slice_.clear();
  const bool more = writer_.step(budget, slice_);
  if (!writer_.damage().empty()) {
    return failure(ErrorKind::kFailed, "no snapshot of a damaged state: " + writer_.damage());
  }
  if (slice_.size() > segment.size() - kSnapshotData - written_) {
    custody_->control().state_too_large.store(1);
    return failure(ErrorKind::kExhausted, "the state does not fit into a snapshot of " +
                                              std::to_string(segment.size() - kSnapshotData) +
                                              " bytes: raise snapshot_bytes");
  }
  std::memcpy(segment.data() + kSnapshotData + written_, slice_.data(), slice_.size());
  segment.rest(kSnapshotData + written_, slice_.size());
  written_ += slice_.size();
  if (!more) publish();
  return more;
}

void SnapshotWriting::publish() {
  SnapshotHead* head = head_of(custody_->snapshot(slot_));
  head->journal_position = position_;
  head->length = written_;
  head->seal = seal_of(position_, written_);
  head->version.store(head->version.load() + 1);
  custody_->control().state_too_large.store(0);
  kSnapshotWritten.pass();
  auto& published = custody_->control().published;
  std::uint64_t current = published.load();
  do {
    // Another writer was faster with a newer state: ours is not needed.
    if (current != 0 && head_of(custody_->snapshot(current & 3))->journal_position >= position_) return;
  } while (!published.compare_exchange_weak(current, ((current >> 2) + 1) << 2 | slot_));
  custody_->control().snapshot_wanted.store(0);
  kSnapshotPublished.pass();
}

}  // namespace bulkhead::xenstore
