// Takes little-endian fields off the front of bytes that somebody else wrote.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string_view>

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::core {

static_assert(std::endian::native == std::endian::little, "fields are read in memory order");

// Running out of bytes yields zeros and is remembered. What it returns lives as long as the bytes.
class FieldReader {
 public:
  explicit FieldReader(std::span<const std::byte> bytes) : rest_(bytes) {}

  template <typename Number>
  Number number() {
    Number value{};
    std::span<const std::byte> from = take(sizeof value);
    if (!from.empty()) std::memcpy(&value, from.data(), sizeof value);
    return value;
  }
  // Empty if there are not that many.
  std::span<const std::byte> take(std::size_t count) {
    if (count > rest_.size()) {
      short_ = true;
      return {};
    }
    std::span<const std::byte> taken = rest_.first(count);
    rest_ = rest_.subspan(count);
    return taken;
  }
  // With their number in front.
  std::span<const std::byte> bytes() { return take(number<std::uint32_t>()); }
  std::string_view text() { return as_text(bytes()); }

  bool ran_out() const { return short_; }
  // All fields were there, and nothing is left.
  bool complete() const { return !short_ && rest_.empty(); }
  std::size_t left() const { return rest_.size(); }

 private:
  std::span<const std::byte> rest_;
  bool short_ = false;
};

}  // namespace bulkhead::xenstore::core
