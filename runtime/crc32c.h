// CRC32C (Castagnoli), the checksum of journal records, snapshots and what waits in custody; computed by the
// CPU's instruction, or by ISA-L if there is none or there is much.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace bulkhead {

// `seed` is the checksum of the bytes before, 0 at the start: crc32c(b, crc32c(a)) == crc32c(a+b).
std::uint32_t crc32c(std::span<const std::byte> bytes, std::uint32_t seed = 0);

}  // namespace bulkhead
