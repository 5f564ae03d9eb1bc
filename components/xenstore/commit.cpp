#include "components/xenstore/commit.h"

#include <algorithm>

#include "components/xenstore/crash_points.h"

namespace bulkhead::xenstore {
namespace {

CommitEntry* entries_of(CommitRecord& record) {
  return reinterpret_cast<CommitEntry*>(&record + 1);
}
const CommitEntry* entries_of(const CommitRecord& record) {
  return reinterpret_cast<const CommitEntry*>(&record + 1);
}

}  // namespace

void Commit::make(std::span<const CommitEntry> entries, std::uint64_t journal_tail,
                  std::uint64_t next_serial) {
  Control& control = custody_.control();
  const std::uint64_t number = control.committed.load(std::memory_order_relaxed) + 1;
  CommitRecord& record = custody_.commit_record(number);
  record.journal_tail = journal_tail;
  record.next_serial = next_serial;
  record.entries = static_cast<std::uint32_t>(entries.size());
  std::ranges::copy(entries, entries_of(record));
  kCommitPrepared.pass();
  control.committed.store(number, std::memory_order_release);
  kCommitted.pass();
  apply(record);
  kCommitApplied.pass();
  control.applied.store(number, std::memory_order_release);
}

void Commit::apply(const CommitRecord& record) {
  custody_.journal().commit(record.journal_tail);
  const CommitEntry* entries = entries_of(record);
  for (std::uint32_t i = 0; i < record.entries; ++i) {
    const CommitEntry& entry = entries[i];
    Slot& slot = connections_.slot(entry.slot);
    slot.parsed.store(entry.parsed, std::memory_order_release);
    kCommitHalfApplied.pass();
    connections_.set_produced(entry.slot, entry.produced);
    slot.state.store(entry.state, std::memory_order_release);
    connections_.unstage(entry.slot);
  }
  custody_.control().next_serial.store(record.next_serial, std::memory_order_release);
}

void Commit::redo() {
  Control& control = custody_.control();
  const std::uint64_t number = control.committed.load();
  if (control.applied.load() == number) return;
  apply(custody_.commit_record(number));
  control.applied.store(number);
}

}  // namespace bulkhead::xenstore
