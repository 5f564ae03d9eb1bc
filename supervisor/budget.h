// Restart budget (N within a window) and exponential back-off. Pure: the caller passes monotonic time.
#pragma once

#include <cstdint>
#include <deque>

namespace bulkhead::supervisor {

// At most `budget` uses in any `window_ns`.
class RestartBudget {
 public:
  RestartBudget(std::uint32_t budget, std::int64_t window_ns) : budget_(budget), window_ns_(window_ns) {}

  // Uses one. False: exhausted, nothing used.
  bool take(std::int64_t now_ns);
  std::uint32_t left(std::int64_t now_ns) const;
  void reset() { used_.clear(); }

 private:
  std::uint32_t budget_;
  std::int64_t window_ns_;
  std::deque<std::int64_t> used_;  // times, oldest first; never longer than budget_
};

// 0, initial, 2 x initial, 4 x initial, ... up to max: one failure of a healthy component restarts at once, a
// loop slows down. Forgets after `reset_after_ns` of health.
class Backoff {
 public:
  Backoff(std::int64_t initial_ns, std::int64_t max_ns, std::int64_t reset_after_ns)
      : initial_ns_(initial_ns), max_ns_(max_ns), reset_after_ns_(reset_after_ns) {}

  // A failure at `now_ns`: how long to wait before the next attempt.
  std::int64_t next(std::int64_t now_ns);
  // It serves since `now_ns`. Health counts from here until the next failure.
  void served(std::int64_t now_ns) { serving_since_ns_ = now_ns; }
  void reset();
  std::uint32_t failures() const { return failures_; }

 private:
  std::int64_t initial_ns_, max_ns_, reset_after_ns_;
  std::int64_t serving_since_ns_ = -1;  // -1: not serving
  std::uint32_t failures_ = 0;          // in a row
};

}  // namespace bulkhead::supervisor
