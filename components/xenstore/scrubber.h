// When to look for damage: a pass over the whole tree every half second while it is small, every second at
// the most, in slices that hold nobody up.
#pragma once

#include <cstdint>

#include "components/xenstore/engine.h"
#include "components/xenstore/tree_scrub.h"

namespace bulkhead::xenstore {

class Scrubber {
 public:
  // Checks what is due at `now_ns` (monotonic). kFailed: damage, and where.
  Status turn(const Engine& engine, std::int64_t now_ns);
  // When turn() wants to run again.
  std::int64_t next_turn_ns() const { return next_ns_; }
  std::uint64_t passes() const { return passes_; }

 private:
  void begin(const Engine& engine, std::int64_t now_ns);

  core::TreeScrub scrub_;
  bool running_ = false;
  std::int64_t begun_ns_ = 0;
  std::int64_t period_ns_ = 0;    // of this pass
  std::int64_t interval_ns_ = 0;  // between its slices
  std::uint64_t nodes_ = 0;       // when it began
  std::int64_t next_ns_ = 0;
  std::uint64_t passes_ = 0;
};

}  // namespace bulkhead::xenstore
