// Numbers of the migration stream's records. docs/formats/xenstore-migration.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <string_view>

namespace bulkhead::xenstore::migration {

static_assert(std::endian::native == std::endian::little, "streams are written in memory order");

inline constexpr std::string_view kIdent = "xenstore";
inline constexpr std::uint32_t kBigEndian =
    1;  // of the flags; those and the version are big-endian themselves

enum class RecordType : std::uint32_t {
  kEnd = 0,
  kGlobal = 1,
  kConnection = 2,
  kWatch = 3,
  kTransaction = 4,
  kNode = 5,
  kGlobalQuotas = 6,
  kDomain = 7,
  kDeepWatch = 8,  // WATCH_DATA_EXTENDED
};

inline constexpr std::uint16_t kRingType = 0;
inline constexpr std::uint16_t kSocketType = 1;
inline constexpr std::uint16_t kHasUniqueId = 1;    // of a connection's additional fields
inline constexpr std::uint16_t kNoTarget = 0x7FF4;  // DOMID_INVALID (xen/include/public/xen.h)
inline constexpr std::uint16_t kAnyDepth = 0xFFFF;
inline constexpr std::uint8_t kStale = 1;           // of a permission's flags
inline constexpr std::size_t kConnectionHead = 24;  // bytes of a connection before its data

constexpr std::size_t aligned(std::size_t size) {
  constexpr std::size_t kAlignment = 8;
  return (size + kAlignment - 1) / kAlignment * kAlignment;
}

}  // namespace bulkhead::xenstore::migration
