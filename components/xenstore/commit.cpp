#include "components/xenstore/commit.h"

#include <unistd.h>

#include <algorithm>
#include <csignal>

#include "components/xenstore/crash_points.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

CommitEntry* entries_of(CommitRecord& record) {
  return reinterpret_cast<CommitEntry*>(&record + 1);
}
const CommitEntry* entries_of(const CommitRecord& record) {
  return reinterpret_cast<const CommitEntry*>(&record + 1);
}

}  // namespace

std::uint32_t Commit::checksum(std::uint64_t number, const CommitRecord& record) {
  const auto entries = std::as_bytes(std::span(entries_of(record), record.entries));
  const auto head = std::as_bytes(std::span(&record, 1)).first(offsetof(CommitRecord, crc));
  return crc32c(entries, crc32c(head, static_cast<std::uint32_t>(number)));
}

bool Commit::intact(std::uint64_t number) const {
  const CommitRecord& record = custody_.commit_record(number);
  return record.entries <= connections_.capacity() && record.crc == checksum(number, record);
}

void Commit::make(std::span<const CommitEntry> entries, std::uint64_t journal_tail,
                  std::uint64_t next_serial) {
  Control& control = custody_.control();
  const std::uint64_t number = control.committed.load(std::memory_order_relaxed) + 1;
  CommitRecord& record = custody_.commit_record(number);
  record.journal_tail = journal_tail;
  record.next_serial = next_serial;
  record.entries = static_cast<std::uint32_t>(entries.size());
  std::ranges::copy(entries, entries_of(record));
  record.crc = checksum(number, record);
  kCommitPrepared.pass();
  control.committed.store(number, std::memory_order_release);
  if (next_is_damaged.load(std::memory_order_relaxed)) [[unlikely]]
    die_damaged(record);
  kCommitted.pass();
  apply(record);
  kCommitApplied.pass();
  control.applied.store(number, std::memory_order_release);
}

void Commit::die_damaged(CommitRecord& record) {
  record.next_serial ^= 1;
  ::kill(::getpid(), SIGKILL);
}

void Commit::apply(const CommitRecord& record) {
  custody_.journal().commit(record.journal_tail);
  const CommitEntry* entries = entries_of(record);
  for (std::uint32_t i = 0; i < record.entries; ++i) {
    const CommitEntry& entry = entries[i];
    Slot& slot = connections_.slot(entry.slot);
    slot.parsed.store(entry.parsed, std::memory_order_release);
    kCommitHalfApplied.pass();
    connections_.set_produced(entry.slot, entry.produced, entry.out_crc);
    slot.state.store(entry.state, std::memory_order_release);
    connections_.unstage(entry.slot);
  }
  custody_.control().next_serial.store(record.next_serial, std::memory_order_release);
}

Status Commit::redo() {
  Control& control = custody_.control();
  const std::uint64_t number = control.committed.load();
  if (control.applied.load() == number) return {};
  if (!intact(number)) {
    return failure(ErrorKind::kInvalid, "the record of commit " + std::to_string(number) + " is damaged");
  }
  apply(custody_.commit_record(number));
  control.applied.store(number);
  return {};
}

void Commit::distrust() {
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    if (connections_.slot(i).state.load() != SlotState::kFree) connections_.slot(i).damaged.store(1);
  }
  kDamageMarked.pass();
  Control& control = custody_.control();
  control.applied.store(control.committed.load());
}

}  // namespace bulkhead::xenstore
