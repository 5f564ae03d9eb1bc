#include "components/xenstore/custody_scrub.h"

#include <algorithm>

#include "components/xenstore/snapshot_store.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::uint32_t kSlots = 512;                    // of a slice; most are idle, some 50 ns each
constexpr std::size_t kBytes = std::size_t{128} * 1024;  // of a slice; some 10 us
constexpr std::size_t kOfOne =
    std::size_t{64} * 1024;                          // of one connection; the rest is checked when it is sent
constexpr std::int64_t kPass = 800 * kMillisecond;   // over all connections
constexpr std::int64_t kStoragePass = 30 * kSecond;  // over journal and snapshot
constexpr std::int64_t kLongestInterval = 400 * kMillisecond;
constexpr std::int64_t kShortestInterval = 5 * kMillisecond;

std::string seconds_since(std::int64_t then_ns, std::int64_t now_ns) {
  if (then_ns == 0) return "not yet complete";
  const std::int64_t tenths = (now_ns - then_ns) / (kSecond / 10);
  return std::to_string(tenths / 10) + "." + std::to_string(tenths % 10) + " s ago";
}

}  // namespace

void CustodyScrub::Passes::end(std::int64_t now_ns) {
  ended_ns = now_ns;
  things = so_far;
  so_far = 0;
}

void CustodyScrub::Passes::next_in(std::int64_t interval_ns, std::int64_t now_ns) {
  next_ns = now_ns + std::clamp(interval_ns, kShortestInterval, kLongestInterval);
}

std::vector<CustodyScrub::Damage> CustodyScrub::turn(std::int64_t now_ns) {
  std::vector<Damage> found;
  if (now_ns >= connection_passes_.next_ns) {
    check_connections(now_ns, found);
    connection_passes_.next_in(kPass / (connections_.slots_used() / kSlots + 1), now_ns);
  }
  if (now_ns >= storage_passes_.next_ns) {
    check_storage(now_ns, found);
    const std::uint64_t bytes = custody_.journal().used() + SnapshotStore(custody_).length();
    storage_passes_.next_in(kStoragePass / static_cast<std::int64_t>(bytes / kBytes + 1), now_ns);
  }
  damages_ += found.size();
  return found;
}

void CustodyScrub::check_connections(std::int64_t now_ns, std::vector<Damage>& found) {
  std::size_t bytes = 0;
  for (std::uint32_t done = 0; done < kSlots && bytes < kBytes; ++done, ++slot_) {
    if (slot_ >= connections_.slots_used()) {
      slot_ = 0;
      return connection_passes_.end(now_ns);
    }
    if (connections_.slot(slot_).state.load(std::memory_order_relaxed) != SlotState::kOpen) continue;
    ++connection_passes_.so_far;
    const std::size_t waits = std::min<std::uint64_t>(connections_.unsent(slot_), kOfOne);
    bytes += waits;
    if (!connections_.input_sound(slot_)) {
      found.push_back({Damage::Where::kConnection, slot_, "its input"});
    } else if (!connections_.output_sound(slot_, waits)) {
      found.push_back({Damage::Where::kConnection, slot_, "its output"});
    }
  }
}

// First the journal, as it is when the pass begins, then the snapshot.
void CustodyScrub::check_storage(std::int64_t now_ns, std::vector<Damage>& found) {
  if (!in_snapshot_) {
    in_snapshot_ = check_journal(found);
    return;
  }
  if (!check_snapshot(found)) return;
  in_snapshot_ = false;
  published_ = journal_end_ = 0;
  storage_passes_.end(now_ns);
}

// True at its end.
bool CustodyScrub::check_journal(std::vector<Damage>& found) {
  Journal& journal = custody_.journal();
  if (journal_end_ == 0) journal_end_ = journal.tail();
  journal_at_ = std::max(journal_at_, journal.start());
  const std::uint64_t first = journal_at_;
  while (journal_at_ < journal_end_ && journal_at_ - first < kBytes) {
    if (const Status read = journal.read(journal_at_, record_); !read) {
      found.push_back({Damage::Where::kJournal, 0, read.error().message()});
      journal_at_ = journal_end_;  // nothing behind it can be used
      break;
    }
    journal_at_ = record_.next;
  }
  storage_passes_.so_far += journal_at_ - first;
  journal.rest(first, journal_at_);
  if (journal_at_ < journal_end_) return false;
  journal_at_ = 0;
  return true;
}

// Likewise. One that was replaced meanwhile is checked in the next pass.
bool CustodyScrub::check_snapshot(std::vector<Damage>& found) {
  const std::uint64_t published = custody_.control().published.load();
  if (published == 0) return true;
  if (published_ == 0) {
    published_ = published;
    snapshot_at_ = 0;
  }
  if (published != published_) return true;
  const std::uint64_t first = snapshot_at_;
  const Result<bool> more = SnapshotStore(custody_).verify_some(snapshot_at_, kBytes);
  storage_passes_.so_far += snapshot_at_ - first;
  if (custody_.control().published.load() != published) return true;
  if (!more) found.push_back({Damage::Where::kSnapshot, 0, more.error().message()});
  return !more || !*more;
}

std::string CustodyScrub::report(std::int64_t now_ns) const {
  return "custody: " + std::to_string(connection_passes_.things) + " connections checked, last pass " +
         seconds_since(connection_passes_.ended_ns, now_ns) +
         "; journal and snapshot: " + std::to_string(storage_passes_.things) + " bytes checked, last pass " +
         seconds_since(storage_passes_.ended_ns, now_ns) + "; damages found: " + std::to_string(damages_);
}

}  // namespace bulkhead::xenstore
