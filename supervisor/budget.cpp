#include "supervisor/budget.h"

#include <algorithm>

namespace bulkhead::supervisor {

bool RestartBudget::take(std::int64_t now_ns) {
  std::erase_if(used_, [&](std::int64_t time) { return now_ns - time >= window_ns_; });
  if (used_.size() >= budget_) return false;
  used_.push_back(now_ns);
  return true;
}

std::uint32_t RestartBudget::left(std::int64_t now_ns) const {
  const auto used = std::count_if(used_.begin(), used_.end(),
                                  [&](std::int64_t time) { return now_ns - time < window_ns_; });
  return budget_ - static_cast<std::uint32_t>(used);
}

std::int64_t Backoff::next(std::int64_t now_ns) {
  if (serving_since_ns_ >= 0 && now_ns - serving_since_ns_ >= reset_after_ns_) failures_ = 0;
  serving_since_ns_ = -1;
  const std::uint32_t earlier = failures_;
  if (failures_ < UINT32_MAX) ++failures_;
  if (earlier == 0) return 0;
  std::int64_t delay = std::min(initial_ns_, max_ns_);
  // Compared as a difference: doubling first could overflow. A zero delay never grows.
  for (std::uint32_t i = 1; i < earlier && delay > 0; ++i) {
    if (delay >= max_ns_ - delay) return max_ns_;
    delay *= 2;
  }
  return delay;
}

void Backoff::reset() {
  failures_ = 0;
  serving_since_ns_ = -1;
}

}  // namespace bulkhead::supervisor
