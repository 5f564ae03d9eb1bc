// What a ring completion says of itself: its user_data, which must mean the same to whoever reads it, the
// instance that submitted the operation or its successor.
#pragma once

#include <cstdint>

namespace bulkhead::xenstore {

enum class Operation : std::uint8_t {
  kIgnored = 0,  // cancellations, no-ops
  kReceive = 1,  // subject: slot; base: Slot::received at submission
  kSend = 2,     // subject: slot; base: Slot::sent at submission
  kAccept = 3,   // subject: slot, which is free until the connection is committed
  kClose = 4,    // subject: slot; base: the connection's serial number
  kWake = 5,
  kContract = 6,
  kWritable = 7,  // the client's socket takes bytes again; subject: slot; base: as for kSend
  kEvents = 8,    // event channels are pending
};

// Bases and incarnations are cut: enough to tell "this operation" from "the one before", since at most one
// operation of a kind is in flight per slot, and each takeover cancels what its predecessors left.
struct Ticket {
  Operation operation;
  std::uint8_t incarnation;  // of the instance that submitted it, modulo 256
  std::uint32_t subject;     // below 2^20
  std::uint32_t base;

  std::uint64_t encode() const {
    return static_cast<std::uint64_t>(operation) << 60 | std::uint64_t{incarnation} << 52 |
           std::uint64_t{subject} << 32 | base;
  }
  static Ticket decode(std::uint64_t user_data) {
    return {static_cast<Operation>(user_data >> 60), static_cast<std::uint8_t>(user_data >> 52),
            static_cast<std::uint32_t>(user_data >> 32 & 0xfffff), static_cast<std::uint32_t>(user_data)};
  }
  bool matches(std::uint64_t current) const { return static_cast<std::uint32_t>(current) == base; }
};

}  // namespace bulkhead::xenstore
