#include "components/xenstore/journal_quarantine.h"

#include <algorithm>

#include "components/xenstore/crash_points.h"

namespace bulkhead::xenstore {

void JournalQuarantine::begin(Role role) {
  forget_released();
  if (role == Role::kOwner && !begun_) inspect(Role::kStandby);
  inspect(role);
  role_ = role;
  begun_ = true;
}

// Nobody will execute what the journal holds no more. (What a snapshot covers may still be executed.)
void JournalQuarantine::forget_released() const {
  const std::uint64_t start = custody_->journal().start();
  for (auto& deadly : custody_->control().deadly_records) {
    if (const std::uint64_t record = deadly.load() & kRecordMask; record != 0 && record - 1 < start)
      deadly.store(0);
  }
}

void JournalQuarantine::inspect(Role role) const {
  const std::uint64_t last = word(role).load();
  if (last == 0) return;
  // Forgotten first: who dies in between makes a death count too little, never twice.
  word(role).store(0);
  kFollowForgotten.pass();
  remember(last);
  kFollowRemembered.pass();
}

// The place taken is a free one, or else that of the least deadly.
void JournalQuarantine::remember(std::uint64_t record) const {
  constexpr std::uint64_t kMostDeaths = 255;
  auto& records = custody_->control().deadly_records;
  const auto same = std::ranges::find_if(
      records, [&](const auto& deadly) { return (deadly.load() & kRecordMask) == record; });
  if (same != records.end()) {
    const std::uint64_t deaths = std::min((same->load() >> kDeathsShift) + 1, kMostDeaths);
    return same->store(deaths << kDeathsShift | record);
  }
  const auto least =
      std::ranges::min_element(records, {}, [](const auto& deadly) { return deadly.load() >> kDeathsShift; });
  least->store(std::uint64_t{1} << kDeathsShift | record);
}

std::uint32_t JournalQuarantine::deaths_at(std::uint64_t position) const {
  for (const auto& deadly : custody_->control().deadly_records) {
    const std::uint64_t word = deadly.load(std::memory_order_relaxed);
    if ((word & kRecordMask) == position + 1) return static_cast<std::uint32_t>(word >> kDeathsShift);
  }
  return 0;
}

void JournalQuarantine::survived(std::uint64_t position) const {
  for (auto& deadly : custody_->control().deadly_records) {
    if ((deadly.load(std::memory_order_relaxed) & kRecordMask) == position + 1) deadly.store(0);
  }
}

}  // namespace bulkhead::xenstore
