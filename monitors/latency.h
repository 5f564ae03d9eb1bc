// Latency: a component that answers, but much more slowly than it used to (fail-slow).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <optional>

#include "monitors/finding.h"

namespace bulkhead::monitors {

struct LatencyPolicy {
  double factor = 20;                 // slower than its own baseline; 0: off
  std::int64_t floor_ns = 5'000'000;  // never a finding below this
};

// Compares the median of the last 5 round trips with the median of the 64 before them.
class LatencyMonitor {
 public:
  explicit LatencyMonitor(LatencyPolicy policy) : policy_(policy) {}

  // kSuspect once, until it has been normal again. `work_done`: requests the process has completed so far;
  // one that completes them as fast as it usually answers one is busy, not slow, however long a newcomer
  // waits.
  std::optional<Finding> add(std::int64_t round_trip_ns, std::int64_t now_ns, std::uint64_t work_done = 0);
  // A new process has no history of its own; its predecessor's baseline stays valid for it.
  void forget_recent() { recent_count_ = 0; }

 private:
  static constexpr std::size_t kRecent = 5;
  static constexpr std::size_t kBaseline = 64;

  LatencyPolicy policy_;
  std::array<std::int64_t, kRecent> recent_{};      // ring
  std::array<std::int64_t, kBaseline> baseline_{};  // ring
  std::size_t recent_count_ = 0;
  std::size_t baseline_count_ = 0;
  std::int64_t slow_since_ns_ = 0;
  std::int64_t last_ns_ = 0;     // of the last add()
  std::uint64_t last_work_ = 0;  // its work_done
  bool reported_ = false;
};

}  // namespace bulkhead::monitors
