// Resource: memory, descriptors and CPU against their limits, and when the trend will reach them.
#pragma once

#include <sys/types.h>

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <optional>
#include <utility>
#include <vector>

#include "monitors/finding.h"

namespace bulkhead::monitors {

struct ResourceSample {
  std::int64_t now_ns = 0;
  std::uint64_t rss_bytes = 0;
  std::uint32_t open_fds = 0;
  std::int64_t cpu_ns = 0;      // since the process began, all threads
  std::uint64_t work_done = 0;  // filled in by the caller: Vitals.work_done (0 for foreign ones)
  std::uint64_t private_bytes =
      0;  // of rss_bytes, what is neither shared memory nor files: RssAnon of proc(5)
};

// From /proc/PID; unset when the process is gone.
std::optional<ResourceSample> read_resources(pid_t pid, std::int64_t now_ns);

struct ResourcePolicy {
  std::uint64_t max_rss = 0;  // 0: no limit
  std::uint64_t max_fds = 0;  // 0: no limit
  double max_cpu = 0;         // CPUs used over the window without any work done; 0: off
  bool counts_work = false;   // the component keeps work_done (native): without it, CPU use is no finding
  std::int64_t window_ns = 60'000'000'000;
  std::int64_t horizon_ns = 30'000'000'000;  // a limit that the trend reaches within this is a finding
};

// One process. Over a limit is kFailed; will be within the horizon is kSuspect; CPU without work is kFailed.
class ResourceMonitor {
 public:
  explicit ResourceMonitor(ResourcePolicy policy) : policy_(policy) {}

  // Each finding once, until its cause is gone again or reset().
  std::vector<Finding> add(const ResourceSample& sample);
  void reset();

  const ResourceSample* latest() const { return samples_.empty() ? nullptr : &samples_.back(); }
  // CPUs used between the last two samples.
  double cpu_fraction() const { return cpu_fraction_; }

 private:
  enum Cause : unsigned char { kRss, kFds, kCpu };
  static constexpr std::size_t kCauses = 3;
  void judge(Cause cause, std::optional<Finding> finding, std::vector<Finding>& out);
  std::optional<Finding> against_limit(Cause cause, std::uint64_t limit) const;
  std::optional<Finding> cpu_without_work() const;

  ResourcePolicy policy_;
  std::deque<ResourceSample> samples_;  // oldest first, within the window, at most kMaxSamples
  double cpu_fraction_ = 0;
  std::array<std::optional<Severity>, kCauses> reported_;
};

// Least squares through the samples of the window; when the line reaches `limit`, in ns from the last sample.
// Unset when it does not rise, or too little is known (fewer than 8 samples, or the fit explains less than 70
// % of the variation).
std::optional<std::int64_t> time_to_limit(const std::vector<std::pair<std::int64_t, double>>& samples,
                                          double limit);

}  // namespace bulkhead::monitors
