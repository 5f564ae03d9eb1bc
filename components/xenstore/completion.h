// What a ring completion says of itself: its user_data, which must mean the same to whoever reads it, the
// instance that submitted the operation or its successor.
#pragma once

#include <cstdint>

namespace bulkhead::xenstore {

enum class Operation : std::uint8_t {
  kIgnored = 0,  // cancellations, no-ops
  kReceive = 1,  // subject: slot; base: Slot::received at submission
  kSend = 2,     // subject: slot; base: Slot::sent at submission
  kAccept = 3,   // subject: slot; base: the serial number the connection will get
  kClose = 4,    // subject: slot; base: the connection's serial number
  kWake = 5,     // base: the incarnation whose descriptor it is
  kContract = 6,
};

// Bases are cut to 40 bits: enough to tell "this operation" from "the one before" at one operation of a kind
// in flight per slot.
struct Ticket {
  static constexpr std::uint64_t kBaseMask = (std::uint64_t{1} << 40) - 1;

  Operation operation;
  std::uint32_t subject;  // below 2^20
  std::uint64_t base;

  std::uint64_t encode() const {
    return static_cast<std::uint64_t>(operation) << 60 | std::uint64_t{subject} << 40 | (base & kBaseMask);
  }
  static Ticket decode(std::uint64_t user_data) {
    return {static_cast<Operation>(user_data >> 60), static_cast<std::uint32_t>(user_data >> 40 & 0xfffff),
            user_data & kBaseMask};
  }
  bool matches(std::uint64_t current) const { return (current & kBaseMask) == base; }
};

}  // namespace bulkhead::xenstore
