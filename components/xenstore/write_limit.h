// Keeps guests from starving the toolstack: while domain 0 has a transaction open, each guest changes the
// tree at a bounded rate, so that the transaction finds a moment without a conflict. Upstream's write rate
// limit is the model (Xen's tools/xenstored: 200 writes a second, bursts of 10); here it binds only while
// domain 0 needs it.
#pragma once

#include <algorithm>
#include <cstdint>
#include <unordered_map>

#include "runtime/clock.h"

namespace bulkhead::xenstore {

class WriteLimit {
 public:
  struct Policy {
    std::int64_t per_second = 200;  // 0: no limit
    std::int64_t burst = 10;
  };

  explicit WriteLimit(Policy policy) : policy_(policy) {}

  // A guest wants to change something: 0 if it may (which is counted), otherwise when to ask again (monotonic
  // ns).
  std::int64_t admit(std::uint32_t domid, std::int64_t now_ns) {
    if (policy_.per_second == 0) return 0;
    const std::int64_t each = kSecond / policy_.per_second;
    // The time at which its credit would be full again, if it did nothing.
    std::int64_t& full_at = full_at_[domid];
    full_at = std::max(full_at, now_ns);
    const std::int64_t allowed_until = now_ns + (policy_.burst - 1) * each;
    if (full_at > allowed_until) return now_ns + (full_at - allowed_until);
    full_at += each;
    return 0;
  }
  void forget(std::uint32_t domid) { full_at_.erase(domid); }

 private:
  Policy policy_;
  std::unordered_map<std::uint32_t, std::int64_t> full_at_;
};

}  // namespace bulkhead::xenstore
