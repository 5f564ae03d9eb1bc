#include "components/xenstore/quarantine.h"

#include <algorithm>
#include <array>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {

bool Quarantine::current(std::uint64_t word) const {
  const std::uint32_t index = slot_of(word);
  if (index >= connections_.capacity()) return false;
  const Slot& slot = connections_.slot(index);
  if (slot.state.load() == SlotState::kFree) return false;
  switch (work_of(word)) {
    case Work::kExecuting:  // committed requests are behind `parsed`
      return slot.state.load() == SlotState::kOpen &&
             (word & kIdentityMask) == identity(Work::kExecuting, index, slot.parsed.load());
    case Work::kHandling:
      return (word & kIdentityMask) == identity(Work::kHandling, index, slot.serial.load());
    case Work::kNone:
      break;
  }
  return false;
}

// One more died in it. The slot taken is a free one, or else that of the least suspect.
void Quarantine::remember(std::uint64_t word) {
  auto& suspects = custody_.control().suspects;
  const auto same = std::ranges::find_if(suspects, [&](const auto& suspect) {
    return suspect.load() != 0 && (suspect.load() & kIdentityMask) == word;
  });
  if (same != suspects.end()) {
    const std::uint64_t deaths = std::min<std::uint64_t>(deaths_of(same->load()) + 1, 15);
    return same->store(word | deaths << kDeathsShift);
  }
  const auto least = std::ranges::min_element(
      suspects, {}, [](const auto& suspect) { return suspect.load() == 0 ? 0 : deaths_of(suspect.load()); });
  least->store(word | std::uint64_t{1} << kDeathsShift);
}

std::vector<std::uint32_t> Quarantine::inspect(std::vector<Condemned>& condemned) {
  Control& control = custody_.control();
  const std::uint64_t last = control.working.load();
  // Forgotten first: who dies in between makes a death count too little, never twice.
  control.working.store(0);
  kTakeoverForgotten.pass();
  if (last != 0 && current(last)) remember(last);
  kTakeoverRemembered.pass();
  std::vector<std::uint32_t> slots;
  for (auto& suspect : control.suspects) {
    const std::uint64_t word = suspect.load();
    if (word == 0) continue;
    if (!current(word)) {
      suspect.store(0);
      continue;
    }
    slots.push_back(slot_of(word));
    if (deaths_of(word) >= deadly(work_of(word)))
      condemned.push_back({work_of(word), slot_of(word), deaths_of(word)});
  }
  return slots;
}

void Quarantine::acquit(std::uint32_t slot) {
  for (auto& suspect : custody_.control().suspects) {
    if (suspect.load() != 0 && slot_of(suspect.load()) == slot) suspect.store(0);
  }
}

void Quarantine::forget(const Condemned& condemned) {
  for (auto& suspect : custody_.control().suspects) {
    const std::uint64_t word = suspect.load();
    if (word != 0 && work_of(word) == condemned.work && slot_of(word) == condemned.slot) suspect.store(0);
  }
}

std::uint32_t Quarantine::strike(std::uint32_t index) {
  constexpr std::uint64_t kOffsetMask = (std::uint64_t{1} << kCountShift) - 1;
  Slot& slot = connections_.slot(index);
  const std::uint64_t before = slot.strikes.load();
  // Offset plus one: 0 is nobody's.
  const std::uint64_t offset = (slot.parsed.load() + 1) & kOffsetMask;
  if ((before & kOffsetMask) == offset) return static_cast<std::uint32_t>(before >> kCountShift);
  const std::uint64_t count = std::min<std::uint64_t>((before >> kCountShift) + 1, 0xffff);
  slot.strikes.store(count << kCountShift | offset);
  kPoisonStruck.pass();
  return static_cast<std::uint32_t>(count);
}

std::string describe(const Request& request) {
  constexpr std::size_t kMost = 64;
  static constexpr std::array<std::string_view, kTypeCount> kNames{"CONTROL",
                                                                   "DIRECTORY",
                                                                   "READ",
                                                                   "GET_PERMS",
                                                                   "WATCH",
                                                                   "UNWATCH",
                                                                   "TRANSACTION_START",
                                                                   "TRANSACTION_END",
                                                                   "INTRODUCE",
                                                                   "RELEASE",
                                                                   "GET_DOMAIN_PATH",
                                                                   "WRITE",
                                                                   "MKDIR",
                                                                   "RM",
                                                                   "SET_PERMS",
                                                                   "WATCH_EVENT",
                                                                   "ERROR",
                                                                   "IS_DOMAIN_INTRODUCED",
                                                                   "RESUME",
                                                                   "SET_TARGET",
                                                                   "",
                                                                   "RESET_WATCHES",
                                                                   "DIRECTORY_PART"};
  const std::uint32_t type = request.header.type;
  std::string text = type < kNames.size() && !kNames[type].empty() ? std::string(kNames[type])
                                                                   : "type " + std::to_string(type);
  const std::string_view payload = as_text(request.payload);
  text += " \"";
  for (const char c : payload.substr(0, kMost)) text += c >= ' ' && c <= '~' && c != '"' ? c : '.';
  return text + (payload.size() > kMost ? "...\"" : "\"");
}

}  // namespace bulkhead::xenstore
