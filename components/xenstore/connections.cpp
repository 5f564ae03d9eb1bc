#include "components/xenstore/connections.h"

#include <algorithm>
#include <cstring>

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {

Connections::Connections(const Custody& custody)
    : geometry_(custody.geometry()),
      slots_(custody.connections().at<Slot>(0)),
      staged_(geometry_.max_connections),
      scratch_(kMaxPayload) {
  const std::size_t after_slots =
      (std::size_t{geometry_.max_connections} * sizeof(Slot) + 4095) / 4096 * 4096;
  in_ = custody.connections().data() + after_slots;
  out_ = in_ + std::size_t{geometry_.max_connections} * geometry_.in_bytes;
  for (std::uint32_t i = 0; i < geometry_.max_connections; ++i) unstage(i);
}

void Connections::prepare(std::uint32_t index) {
  Slot& s = slot(index);
  for (auto* offset : {&s.received, &s.parsed, &s.produced, &s.sent, &s.in_base, &s.out_base})
    offset->store(0);
  s.end_of_input.store(0);
  s.overflowed.store(0);
  s.domid = 0;
  staged_[index] = 0;
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
  const std::uint64_t base = slot(index).in_base.load(std::memory_order_relaxed);
  const std::size_t at = (offset - base) & (geometry_.in_bytes - 1);
  const std::size_t first = std::min<std::size_t>(to.size(), geometry_.in_bytes - at);
  std::memcpy(to.data(), in_buffer(index) + at, first);
  std::memcpy(to.data() + first, in_buffer(index), to.size() - first);
}

void Connections::copy_out(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) const {
  if (from.empty()) return;  // an empty payload may have no address, which memcpy() does not allow
  const std::uint64_t base = slot(index).out_base.load(std::memory_order_relaxed);
  const std::size_t at = (offset - base) & (geometry_.out_bytes - 1);
  const std::size_t first = std::min<std::size_t>(from.size(), geometry_.out_bytes - at);
  std::memcpy(out_buffer(index) + at, from.data(), first);
  std::memcpy(out_buffer(index), from.data() + first, from.size() - first);
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
  const std::uint64_t sent = slot(index).sent.load(std::memory_order_relaxed);
  return static_cast<std::uint32_t>(geometry_.out_bytes - (staged_[index] - sent));
}

bool Connections::stage(std::uint32_t index, const Header& header, std::span<const std::byte> payload) {
  const std::size_t size = sizeof header + payload.size();
  if (room(index) < size) return false;
  Slot& s = slot(index);
  std::uint64_t& end = staged_[index];
  // Likewise for output; nothing is in flight when everything has been sent.
  if (end == s.sent.load(std::memory_order_relaxed)) s.out_base.store(end);
  copy_out(index, end, std::as_bytes(std::span(&header, 1)));
  copy_out(index, end + sizeof header, payload);
  end += size;
  return true;
}

std::span<const std::byte> Connections::send_source(std::uint32_t index) const {
  const Slot& s = slot(index);
  const std::uint64_t sent = s.sent.load(std::memory_order_relaxed);
  const std::size_t at = (sent - s.out_base.load(std::memory_order_relaxed)) & (geometry_.out_bytes - 1);
  const std::uint64_t pending = s.produced.load(std::memory_order_relaxed) - sent;
  return {out_buffer(index) + at, std::min<std::size_t>(pending, geometry_.out_bytes - at)};
}

bool Connections::output_pending(std::uint32_t index) const {
  const Slot& s = slot(index);
  return s.produced.load(std::memory_order_relaxed) != s.sent.load(std::memory_order_relaxed);
}

}  // namespace bulkhead::xenstore
