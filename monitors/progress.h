// Progress: work is pending and none is done for a deadline. Idleness is healthy, and so is a process that is
// ready to run but gets no CPU; both are told from a hang by what the kernel says the process does.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "monitors/finding.h"
#include "monitors/process_activity.h"

namespace bulkhead::monitors {

struct ProgressPolicy {
  std::int64_t deadline_ns = 50'000'000;
  std::int64_t check_interval_ns = 10'000'000;
  // However starved, after this many deadlines without progress it is a finding.
  std::int64_t max_extension = 100;
};

// A copy of an instance's vitals page (runtime/vitals.h). Its writer is not trusted: a time in the future
// counts as now.
struct WorkCounters {
  std::uint64_t pong = 0;
  std::uint64_t work_done = 0;
  std::int64_t oldest_pending_ns = 0;  // 0: none
};

// One instance. Call check() every policy.check_interval.
class ProgressMonitor {
 public:
  using Look = std::function<std::optional<ProcessActivity>()>;

  // `ping` is the count in the vitals page (0 for a new instance; a re-adopted one has some).
  ProgressMonitor(ProgressPolicy policy, std::uint64_t ping) : policy_(policy), ping_(ping) {}

  struct Verdict {
    // Set: store this in Vitals.ping (and the time in ping_ns) and ring the instance's wake descriptor.
    std::optional<std::uint64_t> send_ping;
    std::optional<Finding> finding;
    // For people: why an overdue instance is given more time ("starved: ..."). Empty when all is well.
    std::string leniency;
  };
  // `due_ns` is when this check should have run, `now_ns` when it does: a late core blames nobody. `look`
  // reads the process's activity; it is called only when something is pending for more than one interval. No
  // finding is repeated before reset().
  Verdict check(std::int64_t now_ns, std::int64_t due_ns, const WorkCounters& counters, const Look& look);

  // Forgets what is pending: the instance was told to wait, or an injected fault explains its silence.
  void reset();

 private:
  struct Suspicion {
    ProcessActivity baseline;  // taken when something was first seen pending for a whole interval
    ProcessActivity last;
    int idle_samples = 0;  // in a row after the baseline: asleep without having used any CPU
  };

  void note_progress(std::int64_t now_ns, const WorkCounters& counters);
  std::int64_t pending_since(std::int64_t now_ns, const WorkCounters& counters) const;
  void suspect(const ProcessActivity& activity);
  std::optional<std::string> judge(std::int64_t overdue_ns, const ProcessActivity& activity,
                                   std::string& leniency) const;

  ProgressPolicy policy_;
  std::uint64_t ping_;
  std::int64_t ping_sent_ns_ = 0;
  WorkCounters last_;
  bool has_last_ = false;
  std::int64_t last_progress_ns_ = 0;
  std::int64_t core_late_ns_ = 0;  // while something was pending: time in which the core itself did not run
  bool reported_ = false;
  std::optional<Suspicion> suspicion_;
};

}  // namespace bulkhead::monitors
