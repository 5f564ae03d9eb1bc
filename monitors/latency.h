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

  // kSuspect once, until it has been normal again.
  std::optional<Finding> add(std::int64_t round_trip_ns, std::int64_t now_ns);
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
  bool reported_ = false;
};

}  // namespace bulkhead::monitors
