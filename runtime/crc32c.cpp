#include "runtime/crc32c.h"

#include <isa-l/crc.h>

#include <limits>

namespace bulkhead {

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
  constexpr std::size_t kMax = std::numeric_limits<int>::max();
  while (!bytes.empty()) {
    const auto part = bytes.first(bytes.size() < kMax ? bytes.size() : kMax);
    // ISA-L's prototype takes a non-const pointer but only reads.
    auto* data = const_cast<unsigned char*>(reinterpret_cast<const unsigned char*>(part.data()));
    crc = crc32_iscsi(data, static_cast<int>(part.size()), crc);
    bytes = bytes.subspan(part.size());
  }
  return ~crc;
}

}  // namespace bulkhead
