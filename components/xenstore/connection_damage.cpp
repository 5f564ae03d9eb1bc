// What cannot be true of a connection in custody, and how one that is damaged is made harmless.
#include "components/xenstore/connections.h"
#include "components/xenstore/crash_points.h"

namespace bulkhead::xenstore {

std::string_view Connections::implausible(std::uint32_t index) const {
  const Slot& s = slot(index);
  // Differences of unsigned numbers: also what is the wrong way round is more than a buffer.
  const auto ahead = [](const auto& later, const auto& earlier) { return later.load() - earlier.load(); };
  if (s.damaged.load() != 0) return "was found to be damaged";
  if (s.state.load() > SlotState::kClosing) return "its state is none that exists";
  if (s.serial.load() == 0 || s.serial.load() >= control_.next_serial.load()) {
    return "its serial number was never given";
  }
  if (s.state.load() != SlotState::kOpen) return {};
  if (ahead(s.received, s.parsed) > geometry_.in_bytes) return "its input positions contradict each other";
  if (ahead(s.produced, s.sent) > geometry_.out_bytes) return "its output positions contradict each other";
  const bool guest = s.domid != 0;
  if (guest ? ahead(s.produced, s.boundary) > geometry_.out_bytes || s.boundary.load() > s.sent.load()
            : s.boundary.load() != 0) {
    return "its message boundary is impossible";
  }
  if (s.in_base.load() > s.parsed.load() || s.out_base.load() > s.sent.load()) {
    return "its buffers begin after what they hold";
  }
  if (s.end_of_input.load() > 1 || s.overflowed.load() > 1) return "its flags are none that exist";
  return {};
}

void Connections::write_off(std::uint32_t index) {
  Slot& s = slot(index);
  s.damaged.store(1);
  s.received.store(s.parsed.load());
  const std::uint64_t produced = s.produced.load();
  s.sent.store(produced);
  s.boundary.store(s.domid == 0 ? 0 : produced);
  s.in_base.store(s.parsed.load());
  s.out_base.store(produced);
  seal_empty_output(index);
  s.rest_seal.store(0);
  unstage(index);
  kDamageWrittenOff.pass();
}

// The byte in the middle of what waits; null: nothing does.
std::byte* Connections::victim_of(std::uint32_t index, Place place) const {
  Slot& s = slot(index);
  const auto in_ring = [](std::byte* ring, std::uint32_t size, const auto& base, const auto& from,
                          const auto& to) {
    const std::uint64_t waits = to.load() - from.load();
    return waits == 0 ? nullptr : ring + ((from.load() + waits / 2 - base.load()) & (size - 1));
  };
  switch (place) {
    case Place::kInput:
      return in_ring(in_buffer(index), geometry_.in_bytes, s.in_base, s.parsed, s.received);
    case Place::kOutput:
      return in_ring(out_buffer(index), geometry_.out_bytes, s.out_base, s.sent, s.produced);
    case Place::kPositions:
      return reinterpret_cast<std::byte*>(&s.sent);
  }
  return nullptr;
}

bool Connections::flip_bit(Place place) {
  std::byte* victim = nullptr;
  std::uint64_t newest = 0;
  for (std::uint32_t i = 0; i < slots_used(); ++i) {
    const Slot& s = slot(i);
    if (s.state.load() != SlotState::kOpen || s.serial.load() < newest) continue;
    if (std::byte* const found = victim_of(i, place)) {
      victim = found;
      newest = s.serial.load();
    }
  }
  if (victim != nullptr) *victim ^= std::byte{16};
  return victim != nullptr;
}

bool Connections::repair_slots_used(std::uint32_t at_least) {
  const std::uint32_t used = control_.slots_used.load();
  if (used >= at_least && used <= geometry_.max_connections) return false;
  control_.slots_used.store(geometry_.max_connections);  // a slot that was never used is a free one
  return true;
}

}  // namespace bulkhead::xenstore
