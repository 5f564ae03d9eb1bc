// Which clients have something to do, in which order: those that have just asked for something come first;
// those that used up a slice and want more take turns behind them.
#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

namespace bulkhead::xenstore {

class RunQueue {
 public:
  explicit RunQueue(std::uint32_t capacity) : queued_(capacity) {}

  // Has something to do; nothing if it is queued already.
  void add(std::uint32_t slot) {
    if (std::exchange(queued_[slot], char{1}) != 0) return;
    fresh_.push_back(slot);
  }
  // Had its slice and wants more.
  void add_behind(std::uint32_t slot) {
    if (std::exchange(queued_[slot], char{1}) != 0) return;
    waiting_.push_back(slot);
  }

  bool empty() const { return fresh_.empty() && waiting_.empty(); }
  bool anyone_waiting() const { return !waiting_.empty(); }

  // All that are fresh now; those added from here on belong to the next batch.
  std::vector<std::uint32_t> take_fresh() {
    for (const std::uint32_t slot : fresh_) queued_[slot] = 0;
    return std::exchange(fresh_, {});
  }
  std::optional<std::uint32_t> take_waiting() {
    if (waiting_.empty()) return std::nullopt;
    const std::uint32_t slot = waiting_.front();
    waiting_.pop_front();
    queued_[slot] = 0;
    return slot;
  }

 private:
  std::vector<char> queued_;
  std::vector<std::uint32_t> fresh_;
  std::deque<std::uint32_t> waiting_;
};

}  // namespace bulkhead::xenstore
