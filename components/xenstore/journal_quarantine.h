// Poison of another kind: a journal record that its owner executed well and that kills whoever executes it
// again: the standby that follows, or an owner in its take-over. Each leaves in custody which record it is
// about to execute; who finds that two have died in the same one, and none has survived it since, does not
// execute it.
#pragma once

#include <array>
#include <atomic>
#include <cstdint>

#include "components/xenstore/custody.h"

namespace bulkhead::xenstore {

class JournalQuarantine {
 public:
  // A standby and an owner that takes over may follow at the same time.
  enum class Role : std::uint8_t { kStandby = 0, kOwner = 1 };
  // So many deaths are no coincidence.
  static constexpr std::uint32_t kDeadly = 2;

  explicit JournalQuarantine(Custody& custody) : custody_(&custody) {}

  // From now on in this role: what the last one in it died of is remembered. (An owner that was no standby
  // before, since nothing lived, is the heir of both.)
  void begin(Role role);

  // The record at `position` is about to be executed. One store.
  void executing(std::uint64_t position) const { now(position + 1); }
  // None is. What ends this process from here on is not the journal's fault.
  void idle() const { now(0); }
  // How many have died of the record at `position` since somebody survived it.
  std::uint32_t deaths_at(std::uint64_t position) const;
  bool deadly(std::uint64_t position) const { return deaths_at(position) >= kDeadly; }
  // It was executed, and we live.
  void survived(std::uint64_t position) const;

 private:
  // Control::deadly_records: deaths (8 bits), position + 1.
  static constexpr unsigned kDeathsShift = 56;
  static constexpr std::uint64_t kRecordMask = (std::uint64_t{1} << kDeathsShift) - 1;

  std::atomic<std::uint64_t>& word(Role role) const {
    return custody_->control().following[static_cast<std::size_t>(role)];
  }
  // The compiler must not move what is announced to before its announcement; a killed process's stores arrive
  // in their order.
  void now(std::uint64_t record) const {
    word(role_).store(record, std::memory_order_relaxed);
    std::atomic_signal_fence(std::memory_order_seq_cst);
  }
  void inspect(Role role) const;
  void remember(std::uint64_t record) const;
  void forget_released() const;

  Custody* custody_;
  Role role_ = Role::kStandby;
  bool begun_ = false;
};

}  // namespace bulkhead::xenstore
