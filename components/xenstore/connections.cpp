#include "components/xenstore/connections.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstring>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/ring_pieces.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

// Of one send: what is checked before it is sent stays proportional to what is sent.
constexpr std::size_t kMostAtOnce = std::size_t{64} * 1024;

// The bytes of a ring, whose size is a power of two, from `offset` on.
void copy_from_ring(std::span<const std::byte> ring, std::uint64_t offset, std::span<std::byte> to) {
  const auto [first, second] = ring_pieces(ring, offset, to.size());
  std::ranges::copy(second, std::ranges::copy(first, to.begin()).out);
}

}  // namespace

Connections::Connections(const Custody& custody)
    : geometry_(custody.geometry()),
      control_(custody.control()),
      slots_(custody.connections().at<Slot>(0)),
      staged_(geometry_.max_connections),
      scratch_(kMaxPayload) {
  const std::size_t after_slots =
      (std::size_t{geometry_.max_connections} * sizeof(Slot) + 4095) / 4096 * 4096;
  in_ = custody.connections().data() + after_slots;
  out_ = in_ + std::size_t{geometry_.max_connections} * geometry_.in_bytes;
  for (std::uint32_t i = 0; i < slots_used(); ++i) unstage(i);
  count_unsent();
}

void Connections::count_unsent() {
  unsent_of_all_ = 0;
  for (std::uint32_t i = 0; i < slots_used(); ++i) {
    if (slot(i).state.load() != SlotState::kFree) unsent_of_all_ += unsent(i);
  }
}

void Connections::prepare(std::uint32_t index) {
  Slot& s = slot(index);
  for (auto* offset : {&s.received, &s.parsed, &s.produced, &s.sent, &s.in_base, &s.out_base, &s.boundary})
    offset->store(0);
  s.strikes.store(0);
  s.damaged.store(0);
  s.sent_seal.store(0);
  s.rest_seal.store(0);
  s.out_crc.store(0);
  if (index >= control_.slots_used.load()) {
    kSlotPrepared.pass();
    control_.slots_used.store(index + 1);
  }
  s.end_of_input.store(0);
  s.overflowed.store(0);
  s.domid = 0;
  s.ring_port = s.introduction = s.request_base = s.response_base = 0;
  staged_[index] = {};
  marks_.erase(index);
}

std::span<std::byte> Connections::receive_space(std::uint32_t index) {
  Slot& s = slot(index);
  const std::uint64_t received = s.received.load(std::memory_order_relaxed);
  const std::uint64_t parsed = s.parsed.load(std::memory_order_relaxed);
  // An empty buffer starts again at its first byte: warm pages, and messages that do not wrap.
  if (received == parsed) s.in_base.store(received);
  const std::uint64_t at = (received - s.in_base.load(std::memory_order_relaxed)) & (geometry_.in_bytes - 1);
  const std::uint64_t free = geometry_.in_bytes - (received - parsed);
  return {in_buffer(index) + at, std::min<std::uint64_t>(free, geometry_.in_bytes - at)};
}

void Connections::copy_in(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) const {
  copy_from_ring({in_buffer(index), geometry_.in_bytes},
                 offset - slot(index).in_base.load(std::memory_order_relaxed), to);
}

void Connections::copy_out(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) const {
  const std::uint64_t base = slot(index).out_base.load(std::memory_order_relaxed);
  const auto [first, second] =
      ring_pieces(std::span(out_buffer(index), geometry_.out_bytes), offset - base, from.size());
  std::ranges::copy(from.first(first.size()), first.begin());
  std::ranges::copy(from.subspan(first.size()), second.begin());
}

Connections::Input Connections::next_message(std::uint32_t index, Request& request) {
  const Slot& s = slot(index);
  const std::uint64_t parsed = s.parsed.load(std::memory_order_relaxed);
  const std::uint64_t available = s.received.load(std::memory_order_relaxed) - parsed;
  if (available < sizeof(Header)) return Input::kIncomplete;
  copy_in(index, parsed, std::as_writable_bytes(std::span(&request.header, 1)));
  if (request.header.length > kMaxPayload) return Input::kOversized;
  if (available < sizeof(Header) + request.header.length) return Input::kIncomplete;
  const std::uint64_t body = parsed + sizeof(Header);
  const std::size_t at = (body - s.in_base.load(std::memory_order_relaxed)) & (geometry_.in_bytes - 1);
  if (at + request.header.length <= geometry_.in_bytes) {
    request.payload = {in_buffer(index) + at, request.header.length};
  } else {
    copy_in(index, body, std::span(scratch_).first(request.header.length));
    request.payload = std::span(scratch_).first(request.header.length);
  }
  return Input::kMessage;
}

std::uint32_t Connections::room(std::uint32_t index) const {
  const Slot& s = slot(index);
  const auto& kept = s.domid == 0 ? s.sent : s.boundary;
  return static_cast<std::uint32_t>(geometry_.out_bytes -
                                    (staged_[index].end - kept.load(std::memory_order_relaxed)));
}

void Connections::set_produced(std::uint32_t index, std::uint64_t produced, std::uint32_t crc) {
  Slot& s = slot(index);
  s.out_crc.store(crc, std::memory_order_relaxed);
  unsent_of_all_ += produced - s.produced.load(std::memory_order_relaxed);
  s.produced.store(produced, std::memory_order_release);
}

Header Connections::output_header(std::uint32_t index, std::uint64_t offset) const {
  Header header{};
  copy_from_ring({out_buffer(index), geometry_.out_bytes},
                 offset - slot(index).out_base.load(std::memory_order_relaxed),
                 std::as_writable_bytes(std::span(&header, 1)));
  return header;
}

void Connections::shrink_output(std::uint32_t index) const {
  // The rest of what was used since the buffer last began at its first byte stays: it is warm.
  constexpr std::uint64_t kKept = std::uint64_t{64} * 1024;
  constexpr std::uint64_t kWorthIt = std::uint64_t{320} * 1024;
  const Slot& s = slot(index);
  const std::uint64_t used = s.produced.load() - s.out_base.load();
  if (used < kWorthIt || geometry_.out_bytes <= kKept) return;
  (void)::madvise(out_buffer(index) + kKept, geometry_.out_bytes - kKept, MADV_REMOVE);
}

bool Connections::stage(std::uint32_t index, const Header& header, std::span<const std::byte> payload) {
  const std::size_t size = sizeof header + payload.size();
  if (room(index) < size) return false;
  Slot& s = slot(index);
  auto& [end, crc] = staged_[index];
  // Likewise for output; nothing is in flight when everything has been sent. (A boundary behind `sent` would
  // point into bytes that are gone; when everything has been sent it is there as well.)
  const bool kept = s.domid != 0 && s.boundary.load(std::memory_order_relaxed) != end;
  if (end == s.sent.load(std::memory_order_relaxed) && !kept) s.out_base.store(end);
  copy_out(index, end, std::as_bytes(std::span(&header, 1)));
  copy_out(index, end + sizeof header, payload);
  crc = crc32c(payload, crc32c(std::as_bytes(std::span(&header, 1)), crc));
  end += size;
  if (end - s.sent.load(std::memory_order_relaxed) > kMarkEvery) mark_output(index);
  return true;
}

std::span<const std::byte> Connections::send_source(std::uint32_t index) const {
  const Slot& s = slot(index);
  const std::uint64_t sent = s.sent.load(std::memory_order_relaxed);
  const std::size_t at = (sent - s.out_base.load(std::memory_order_relaxed)) & (geometry_.out_bytes - 1);
  const std::uint64_t pending = s.produced.load(std::memory_order_relaxed) - sent;
  return {out_buffer(index) + at, std::min({std::size_t{pending}, geometry_.out_bytes - at, kMostAtOnce})};
}

bool Connections::output_pending(std::uint32_t index) const {
  const Slot& s = slot(index);
  return s.produced.load(std::memory_order_relaxed) != s.sent.load(std::memory_order_relaxed);
}

}  // namespace bulkhead::xenstore
