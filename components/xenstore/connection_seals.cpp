// Checksums over the bytes that wait in a connection's buffers, and the positions that say which they are.
#include "components/xenstore/connections.h"
#include "components/xenstore/crash_points.h"
#include "components/xenstore/ring_pieces.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

// A checksum and the offset up to which it goes, in one store.
constexpr std::uint64_t seal_of(std::uint64_t offset, std::uint32_t crc) {
  return std::uint64_t{crc} << 32 | static_cast<std::uint32_t>(offset);
}
constexpr std::uint32_t crc_of(std::uint64_t seal) {
  return static_cast<std::uint32_t>(seal >> 32);
}
constexpr bool is_at(std::uint64_t seal, std::uint64_t offset) {
  return static_cast<std::uint32_t>(seal) == static_cast<std::uint32_t>(offset);
}

// Of `length` bytes of a ring, whose size is a power of two; no more than it has.
std::uint32_t crc_of_ring(std::span<const std::byte> ring, std::uint64_t offset, std::uint64_t length,
                          std::uint32_t crc) {
  const auto [first, second] = ring_pieces(ring, offset, std::min<std::size_t>(length, ring.size()));
  crc = crc32c(first, crc);
  return second.empty() ? crc : crc32c(second, crc);
}

}  // namespace

std::uint32_t Connections::crc_of_output(std::uint32_t index, std::uint64_t from, std::uint64_t to,
                                         std::uint32_t crc) const {
  const std::uint64_t base = slot(index).out_base.load(std::memory_order_relaxed);
  return crc_of_ring({out_buffer(index), geometry_.out_bytes}, from - base, to - from, crc);
}

std::uint32_t Connections::crc_of_input(std::uint32_t index) const {
  const Slot& s = slot(index);
  const std::uint64_t parsed = s.parsed.load(std::memory_order_relaxed);
  const std::uint64_t waits = s.received.load(std::memory_order_relaxed) - parsed;
  if (waits == 0) return 0;
  return crc_of_ring({in_buffer(index), geometry_.in_bytes},
                     parsed - s.in_base.load(std::memory_order_relaxed), waits, 0);
}

// ---- input ----

bool Connections::input_sound(std::uint32_t index) const {
  const Slot& s = slot(index);
  const std::uint64_t received = s.received.load(std::memory_order_relaxed);
  if (received - s.parsed.load(std::memory_order_relaxed) > geometry_.in_bytes) return false;
  const std::uint64_t seal = s.rest_seal.load(std::memory_order_relaxed);
  return seal == 0 || (is_at(seal, received) && crc_of(seal) == crc_of_input(index));
}

bool Connections::open_input(std::uint32_t index) {
  if (!input_sound(index)) return false;
  slot(index).rest_seal.store(0, std::memory_order_release);
  kInputOpened.pass();
  return true;
}

void Connections::seal_input(std::uint32_t index) {
  Slot& s = slot(index);
  s.rest_seal.store(seal_of(s.received.load(std::memory_order_relaxed), crc_of_input(index)),
                    std::memory_order_release);
  kInputSealed.pass();
}

// ---- output ----

void Connections::set_sent(std::uint32_t index, std::uint64_t sent) {
  Slot& s = slot(index);
  const std::uint64_t before = s.sent.load(std::memory_order_relaxed);
  const std::uint64_t seal = s.sent_seal.load(std::memory_order_relaxed);
  // Ahead already: a predecessor died between the two stores.
  if (!is_at(seal, sent)) {
    const bool all = sent == s.produced.load(std::memory_order_relaxed);
    const std::uint32_t crc =
        all ? s.out_crc.load(std::memory_order_relaxed) : crc_of_output(index, before, sent, crc_of(seal));
    s.sent_seal.store(seal_of(sent, crc), std::memory_order_release);
    if (all && !marks_.empty()) marks_.erase(index);
  }
  kSendSealed.pass();
  unsent_of_all_ -= sent - before;
  s.sent.store(sent);
}

void Connections::finish_sent(std::uint32_t index, std::uint32_t most) {
  const Slot& s = slot(index);
  const std::uint64_t sent = s.sent.load();
  const auto ahead = static_cast<std::uint32_t>(s.sent_seal.load()) - static_cast<std::uint32_t>(sent);
  if (ahead != 0 && ahead <= most && sent + ahead <= s.produced.load()) set_sent(index, sent + ahead);
}

void Connections::mark_output(std::uint32_t index) {
  const std::uint64_t sent = slot(index).sent.load(std::memory_order_relaxed);
  auto& marks = marks_[index];
  marks.erase(marks.begin(), std::ranges::find_if(marks, [&](const Staged& m) { return m.end > sent; }));
  const Staged& now = staged_[index];
  if (marks.empty() || now.end - marks.back().end >= kMarkEvery) marks.push_back(now);
}

void Connections::restore(std::uint32_t index, std::span<const std::byte> input,
                          std::span<const std::byte> output, std::uint32_t sent) {
  Slot& s = slot(index);
  std::ranges::copy(input, in_buffer(index));
  s.received.store(input.size());
  std::ranges::copy(output, out_buffer(index));
  s.sent_seal.store(seal_of(sent, crc32c(output.first(sent))));
  s.sent.store(sent);
  s.out_crc.store(crc32c(output));
  s.produced.store(output.size());
  unstage(index);
  seal_input(index);
}

// Whatever it was: all of it counts as sent.
void Connections::seal_empty_output(std::uint32_t index) {
  Slot& s = slot(index);
  s.sent_seal.store(seal_of(s.sent.load(), s.out_crc.load()));
  marks_.erase(index);
}

// The first point at or after `offset` up to which the checksum is known.
Connections::Staged Connections::mark_from(std::uint32_t index, std::uint64_t offset) const {
  const Slot& s = slot(index);
  const Staged end{s.produced.load(std::memory_order_relaxed), s.out_crc.load(std::memory_order_relaxed)};
  if (marks_.empty()) return end;
  const auto marks = marks_.find(index);
  if (marks == marks_.end()) return end;
  const auto found = std::ranges::lower_bound(marks->second, offset, {}, &Staged::end);
  return found == marks->second.end() || found->end > end.end ? end : *found;
}

bool Connections::output_positions_sound(std::uint32_t index) const {
  const Slot& s = slot(index);
  const std::uint64_t sent = s.sent.load(std::memory_order_relaxed);
  const std::uint64_t produced = s.produced.load(std::memory_order_relaxed);
  return is_at(s.sent_seal.load(std::memory_order_relaxed), sent) && produced == staged_[index].end &&
         produced - sent <= geometry_.out_bytes && s.boundary.load(std::memory_order_relaxed) <= sent;
}

bool Connections::output_sound(std::uint32_t index, std::size_t length) const {
  if (!output_positions_sound(index)) return false;
  const Slot& s = slot(index);
  const std::uint64_t sent = s.sent.load(std::memory_order_relaxed);
  const Staged until = mark_from(index, sent + length);
  return crc_of_output(index, sent, until.end, crc_of(s.sent_seal.load(std::memory_order_relaxed))) ==
         until.crc;
}

bool Connections::adopt_output(std::uint32_t index) {
  const Slot& s = slot(index);
  marks_.erase(index);
  if (!output_sound(index, 0)) return false;
  const std::uint64_t produced = s.produced.load();
  Staged at{s.sent.load(), crc_of(s.sent_seal.load())};
  while (produced - at.end > kMarkEvery) {
    at.crc = crc_of_output(index, at.end, at.end + kMarkEvery, at.crc);
    at.end += kMarkEvery;
    marks_[index].push_back(at);
  }
  return true;
}

}  // namespace bulkhead::xenstore
