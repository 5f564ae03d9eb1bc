// Poison: a request, or the mere state of a connection, that kills one owner after another. Each owner leaves
// in custody what it is about to touch; a successor that finds the same thing twice in a row does not touch
// it a third time.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "components/xenstore/connections.h"
#include "components/xenstore/custody.h"

namespace bulkhead::xenstore {

class Quarantine {
 public:
  enum class Work : std::uint8_t {
    kNone = 0,
    kExecuting = 1,  // the request at the front of a connection's input
    kHandling = 2,   // anything else of a connection: its bytes that come and go
  };
  // Something in which owners have died one after another.
  struct Condemned {
    Work work;
    std::uint32_t slot;
    std::uint32_t deaths;
  };
  // So many deaths in a row are no coincidence. Cutting off a client is worse than refusing a request, and a
  // connection is not a single deed like a request: it takes one more.
  static constexpr std::uint32_t deadly(Work work) { return work == Work::kExecuting ? 2 : 3; }

  Quarantine(Custody& custody, Connections& connections) : custody_(custody), connections_(connections) {}

  // Takeover, after the predecessor's commit was finished and before anything else is touched: what it died
  // of is remembered. Returns the slots of suspects, which must be tried first, so that who is innocent is
  // cleared before the next death, and adds to `condemned` what must not be touched again.
  std::vector<std::uint32_t> inspect(std::vector<Condemned>& condemned);

  // From now on, until told otherwise. One store each.
  void executing(std::uint32_t slot) const {
    now(identity(Work::kExecuting, slot, connections_.slot(slot).parsed.load(std::memory_order_relaxed)));
  }
  void handling(std::uint32_t slot) const {
    now(identity(Work::kHandling, slot, connections_.slot(slot).serial.load(std::memory_order_relaxed)));
  }
  // Nothing of any client's.
  void idle() const { now(0); }
  // A suspect's slot went through everything and we live: it is none any more.
  void acquit(std::uint32_t slot);
  // It has been dealt with.
  void forget(const Condemned& condemned);

  // The request at the front of the slot's input was refused as poison, once more or the same again: how many
  // of this connection's were. Call before the refusal is committed.
  std::uint32_t strike(std::uint32_t slot);
  // How many were.
  std::uint32_t strikes(std::uint32_t slot) const {
    return static_cast<std::uint32_t>(connections_.slot(slot).strikes.load() >> kCountShift);
  }
  // As a slot keeps so many.
  static constexpr std::uint64_t as_strikes(std::uint32_t count) {
    return std::uint64_t{count} << kCountShift;
  }

 private:
  static constexpr unsigned kCountShift = 48;
  // A word: deaths (4 bits), work (2), slot (20), the low bits of the request's offset or the connection's
  // serial.
  static constexpr unsigned kPositionBits = 38;
  static constexpr std::uint64_t kPositionMask = (std::uint64_t{1} << kPositionBits) - 1;
  static constexpr unsigned kWorkShift = kPositionBits + 20;
  static constexpr unsigned kDeathsShift = 60;
  static constexpr std::uint64_t kIdentityMask = (std::uint64_t{1} << kDeathsShift) - 1;

  static std::uint64_t identity(Work work, std::uint32_t slot, std::uint64_t position) {
    return static_cast<std::uint64_t>(work) << kWorkShift | std::uint64_t{slot} << kPositionBits |
           (position & kPositionMask);
  }
  static Work work_of(std::uint64_t word) { return static_cast<Work>(word >> kWorkShift & 3); }
  static std::uint32_t slot_of(std::uint64_t word) {
    return static_cast<std::uint32_t>(word >> kPositionBits & 0xfffff);
  }
  static std::uint32_t deaths_of(std::uint64_t word) {
    return static_cast<std::uint32_t>(word >> kDeathsShift);
  }

  // The compiler must not move what is announced to before its announcement; a killed process's stores arrive
  // in their order.
  void now(std::uint64_t word) const {
    custody_.control().working.store(word, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  bool current(std::uint64_t word) const;
  void remember(std::uint64_t identity);

  Custody& custody_;
  Connections& connections_;
};

// What an operator reads of a request: its type and the printable beginning of its payload.
std::string describe(const Request& request);

}  // namespace bulkhead::xenstore
