// A stretch of a ring buffer as what it is in memory.
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead::xenstore {

// `length` bytes, at most all, of a ring whose size is a power of two, from stream offset `offset` on (0: the
// ring's first byte). The second piece is empty unless they wrap.
template <typename Byte>
std::array<std::span<Byte>, 2> ring_pieces(std::span<Byte> ring, std::uint64_t offset, std::size_t length) {
  const std::size_t at = offset & (ring.size() - 1);
  const std::size_t first = std::min(length, ring.size() - at);
  return {ring.subspan(at, first), ring.first(length - first)};
}

}  // namespace bulkhead::xenstore
