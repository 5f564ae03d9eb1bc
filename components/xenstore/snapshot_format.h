// Building blocks of the snapshot format: record types, little-endian fields, checked reading.
// docs/formats/snapshot.md.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>
#include <vector>

#include "components/xenstore/field_reader.h"
#include "components/xenstore/protocol.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore::core {

static_assert(std::endian::native == std::endian::little, "snapshots are written in memory order");

inline constexpr std::string_view kSnapshotMagic = "BHXSSNAP";
inline constexpr std::uint32_t kSnapshotVersion = 3;

enum class RecordType : std::uint32_t {
  kCounters = 1,
  kDomain = 2,
  kSpecialPermissions = 3,
  kConnection = 4,
  kWatch = 5,
  kTree = 6,
  kNode = 7,
  kRemoval = 8,
  kTreeEnd = 9,
  kTransaction = 10,
  kAccess = 11,
  kEnd = 12,
};
// A reader skips a record of unknown type that has this bit, and refuses any other.
inline constexpr std::uint32_t kOptionalRecord = 0x80000000;

inline constexpr std::uint32_t kNoTree = 0xFFFFFFFF;
inline constexpr std::size_t kRecordHead = 8;  // type, length
inline constexpr std::size_t kRecordTail = 4;  // CRC32C over head and payload
// Above any record the writer makes: two messages' worth.
inline constexpr std::size_t kMaxRecord = 65536;

// Cuts the file's head off. kInvalid: damaged, or of another version.
Status check_file_header(std::span<const std::byte>& bytes);
// Cuts the next record off: its type and payload. kInvalid: damaged.
Result<std::pair<std::uint32_t, std::span<const std::byte>>> next_record(std::span<const std::byte>& bytes);

// Appends records to a buffer.
class RecordWriter {
 public:
  explicit RecordWriter(std::vector<std::byte>& out) : out_(out) {}

  void begin(RecordType type) {
    start_ = out_.size();
    number(static_cast<std::uint32_t>(type));
    number(std::uint32_t{0});
  }
  template <typename Number>
  RecordWriter& number(Number value) {
    static_assert(std::is_unsigned_v<Number>);
    return raw(std::as_bytes(std::span(&value, 1)));
  }
  RecordWriter& raw(std::span<const std::byte> bytes) {
    out_.insert(out_.end(), bytes.begin(), bytes.end());
    return *this;
  }
  // With its length in front.
  RecordWriter& bytes(std::span<const std::byte> bytes) {
    return number(static_cast<std::uint32_t>(bytes.size())).raw(bytes);
  }
  RecordWriter& text(std::string_view text) { return bytes(as_bytes(text)); }
  void end() {
    auto length = static_cast<std::uint32_t>(out_.size() - start_ - kRecordHead);
    std::memcpy(out_.data() + start_ + sizeof length, &length, sizeof length);
    number(crc32c(std::span(out_).subspan(start_)));
  }

 private:
  std::vector<std::byte>& out_;
  std::size_t start_ = 0;
};

}  // namespace bulkhead::xenstore::core
