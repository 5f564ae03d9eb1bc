// When the owner puts a checkpoint into the journal: soon after a change, and often enough while there are
// many.
#pragma once

#include <cstdint>

#include "runtime/clock.h"

namespace bulkhead::xenstore {

class CheckpointSchedule {
 public:
  static constexpr std::uint64_t kBytes = std::uint64_t{128} * 1024;
  static constexpr std::int64_t kDelay = 200 * kMillisecond;

  // `tail` is the journal's. True when what was written since the last checkpoint needs one.
  bool due(std::uint64_t tail, std::int64_t now_ns) {
    if (tail == sealed_) return false;
    if (next_ns_ == 0) next_ns_ = now_ns + kDelay;
    return tail - sealed_ >= kBytes || now_ns >= next_ns_;
  }
  // `tail` is behind the checkpoint.
  void written(std::uint64_t tail) {
    sealed_ = tail;
    next_ns_ = 0;
  }
  // There is no room for one now.
  void postpone(std::int64_t now_ns) { next_ns_ = now_ns + kDelay; }
  // When due() wants to be asked again; 0: when something was written.
  std::int64_t next_ns() const { return next_ns_; }

 private:
  std::uint64_t sealed_ = 0;
  std::int64_t next_ns_ = 0;
};

}  // namespace bulkhead::xenstore
