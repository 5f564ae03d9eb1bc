#include "components/xenstore/scrubber.h"

#include <algorithm>

#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::int64_t kShortestPass = 400 * kMillisecond;
constexpr std::int64_t kLongestPass = 900 * kMillisecond;
constexpr std::int64_t kPerNode = 2 * kMicrosecond;  // a larger tree's pass is longer, up to the longest
constexpr std::int64_t kShortestInterval = kMillisecond;
constexpr std::uint64_t kSlice = 256;    // nodes; some 30 us
constexpr std::uint64_t kAtMost = 2048;  // after having been kept from it

}  // namespace

void Scrubber::begin(const Engine& engine, std::int64_t now_ns) {
  running_ = true;
  begun_ns_ = now_ns;
  nodes_ = engine.node_count();
  const auto nodes = static_cast<std::int64_t>(nodes_);
  period_ns_ = std::clamp(nodes * kPerNode, kShortestPass, kLongestPass);
  interval_ns_ = std::max(period_ns_ * static_cast<std::int64_t>(kSlice) / std::max<std::int64_t>(nodes, 1),
                          kShortestInterval);
}

Status Scrubber::turn(const Engine& engine, std::int64_t now_ns) {
  if (now_ns < next_ns_) return {};
  if (!running_) begin(engine, now_ns);
  // One interval ahead of the clock, so that a pass is over in time.
  const double part =
      static_cast<double>(now_ns - begun_ns_ + interval_ns_) / static_cast<double>(period_ns_);
  const auto due = static_cast<std::uint64_t>(std::min(part, 1.0) * static_cast<double>(nodes_)) + 1;
  const std::uint64_t checked = scrub_.checked();
  const bool fresh = now_ns == begun_ns_;
  const std::uint64_t missing = fresh ? due : due - std::min(due, checked);
  auto done = engine.scrub(scrub_, std::clamp(missing, kSlice, kAtMost));
  if (!done) return forward(std::move(done));
  next_ns_ = now_ns + interval_ns_;
  if (!*done) return {};
  ++passes_;
  running_ = false;
  next_ns_ = std::max(begun_ns_ + period_ns_, now_ns);
  return {};
}

}  // namespace bulkhead::xenstore
