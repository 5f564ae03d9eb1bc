#include "monitors/latency.h"

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "runtime/clock.h"

namespace bulkhead::monitors {

namespace {

template <std::size_t N>
std::int64_t median(std::array<std::int64_t, N> values, std::size_t count) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(count / 2);
  std::nth_element(values.begin(), middle, values.begin() + static_cast<std::ptrdiff_t>(count));
  return *middle;
}

}  // namespace

std::optional<Finding> LatencyMonitor::add(std::int64_t round_trip_ns, std::int64_t now_ns,
                                           std::uint64_t work_done) {
  const std::int64_t elapsed = now_ns - std::exchange(last_ns_, now_ns);
  const std::uint64_t before = std::exchange(last_work_, work_done);
  const std::uint64_t done = work_done > before ? work_done - before : 0;
  // What leaves the recent ring has become the past; slow times do not, or the baseline would follow the
  // failure.
  if (recent_count_ >= kRecent && slow_since_ns_ == 0)
    baseline_[baseline_count_++ % kBaseline] = recent_[recent_count_ % kRecent];
  recent_[recent_count_++ % kRecent] = round_trip_ns;
  constexpr std::size_t kEnough = 16;
  if (policy_.factor <= 0 || recent_count_ < kRecent || baseline_count_ < kEnough) return std::nullopt;

  const std::int64_t recent = median(recent_, kRecent);
  const std::int64_t usual = median(baseline_, std::min(baseline_count_, kBaseline));
  const bool busy = done > 0 && elapsed / static_cast<std::int64_t>(done) <= usual;
  const bool late =
      recent >= policy_.floor_ns && static_cast<double>(recent) > policy_.factor * static_cast<double>(usual);
  if (late && busy) forget_recent();  // these times say nothing of what is usual
  if (!late || busy) {
    slow_since_ns_ = 0;
    reported_ = false;
    return std::nullopt;
  }
  if (slow_since_ns_ == 0) slow_since_ns_ = now_ns;
  if (reported_) return std::nullopt;
  reported_ = true;
  return Finding{"latency", Severity::kSuspect,
                 "slow: answers take " + std::to_string(recent / kMicrosecond) + " us, usually " +
                     std::to_string(usual / kMicrosecond) + " us",
                 slow_since_ns_, now_ns};
}

}  // namespace bulkhead::monitors
