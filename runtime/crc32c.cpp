#include "runtime/crc32c.h"

#include <isa-l/crc.h>

#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <nmmintrin.h>
#endif

namespace bulkhead {
namespace {

#if defined(__x86_64__)
// ISA-L takes some 20 ns to get going, many times what the checksum of a small message takes.
constexpr std::size_t kShort = 256;
// Nothing can run that was called before this was set: it is a plain question to the CPU.
// NOLINTNEXTLINE(bugprone-throwing-static-initialization)
const bool kHasInstruction = __builtin_cpu_supports("sse4.2") != 0;

template <typename Word>
Word take(std::span<const std::byte>& bytes) {
  Word word;
  std::memcpy(&word, bytes.data(), sizeof word);
  bytes = bytes.subspan(sizeof word);
  return word;
}

[[gnu::target("sse4.2")]] std::uint32_t with_instruction(std::span<const std::byte> bytes,
                                                         std::uint32_t crc) {
  std::uint64_t wide = crc;
  while (bytes.size() >= 8) wide = _mm_crc32_u64(wide, take<std::uint64_t>(bytes));
  crc = static_cast<std::uint32_t>(wide);
  if (bytes.size() >= 4) crc = _mm_crc32_u32(crc, take<std::uint32_t>(bytes));
  while (!bytes.empty()) crc = _mm_crc32_u8(crc, take<std::uint8_t>(bytes));
  return crc;
}
#endif

}  // namespace

std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed) {
  std::uint32_t crc = ~seed;
#if defined(__x86_64__)
  if (bytes.size() <= kShort && kHasInstruction) return ~with_instruction(bytes, crc);
#endif
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
