// Facts of the xenstore wire protocol: sizes, message types, error names. Source: xen/io/xs_wire.h.
#pragma once

#include <cstddef>
#include <cstdint>

namespace bulkhead::xenstore {

inline constexpr std::size_t kHeaderSize = 16;
inline constexpr std::size_t kMaxPayload = 4096;
inline constexpr std::size_t kMaxAbsolutePath = 3072;
inline constexpr std::size_t kMaxRelativePath = 2048;

enum MessageType : std::uint32_t {
  kControl = 0,
  kDirectory = 1,
  kRead = 2,
  kGetPerms = 3,
  kWatch = 4,
  kUnwatch = 5,
  kTransactionStart = 6,
  kTransactionEnd = 7,
  kIntroduce = 8,
  kRelease = 9,
  kGetDomainPath = 10,
  kWrite = 11,
  kMkdir = 12,
  kRm = 13,
  kSetPerms = 14,
  kWatchEvent = 15,
  kError = 16,
  kIsDomainIntroduced = 17,
  kResume = 18,
  kSetTarget = 19,
  kResetWatches = 21,
  kDirectoryPart = 22,
  kTypeCount = 23,
};

}  // namespace bulkhead::xenstore
