#include "monitors/progress.h"

#include <algorithm>

#include "runtime/clock.h"

namespace bulkhead::monitors {

namespace {

// In an uninterruptible sleep the kernel is busy for the process (paging, a slow disk), and a kill would not
// take effect before it is done either: such a process gets this many deadlines.
constexpr std::int64_t kUninterruptibleExtension = 10;
// A wake-up that only looked around costs a few microseconds: less is no life.
constexpr std::int64_t kNoticeableCpuNs = 5 * kMicrosecond;

std::string in_ms(std::int64_t ns) {
  return std::to_string(ns / kMillisecond) + " ms";
}

bool asleep(char state) {
  return state == 'S' || state == 'D' || state == 'I';
}

}  // namespace

void ProgressMonitor::reset() {
  suspicion_.reset();
  has_last_ = false;
  reported_ = false;
  core_late_ns_ = 0;
  ping_sent_ns_ = 0;
}

// Anything done counts: an answered ping, or a request. What makes no progress at all is what this monitor is
// for; one request that hangs while others are served is the probe's to find.
void ProgressMonitor::note_progress(std::int64_t now_ns, const WorkCounters& counters) {
  const bool progressed = !has_last_ || counters.pong != last_.pong || counters.work_done != last_.work_done;
  last_ = counters;
  has_last_ = true;
  if (!progressed) return;
  last_progress_ns_ = now_ns;
  core_late_ns_ = 0;
  reported_ = false;
  suspicion_.reset();
}

// 0: nothing is pending.
std::int64_t ProgressMonitor::pending_since(std::int64_t now_ns, const WorkCounters& counters) const {
  std::int64_t since = 0;
  if (counters.pong < ping_) since = ping_sent_ns_;
  if (counters.oldest_pending_ns > 0) {
    const std::int64_t oldest = std::min(counters.oldest_pending_ns, now_ns);
    since = since == 0 ? oldest : std::min(since, oldest);
  }
  return since == 0 ? 0 : std::max(since, last_progress_ns_);
}

void ProgressMonitor::suspect(const ProcessActivity& activity) {
  if (!suspicion_) {
    suspicion_ = Suspicion{activity, activity, 0};
    return;
  }
  const bool unmoved = asleep(activity.state) && asleep(suspicion_->last.state) &&
                       activity.cpu_ns - suspicion_->last.cpu_ns < kNoticeableCpuNs;
  suspicion_->idle_samples = unmoved ? suspicion_->idle_samples + 1 : 0;
  suspicion_->last = activity;
}

// Why it is to be replaced; otherwise why not.
std::optional<std::string> ProgressMonitor::judge(std::int64_t overdue_ns, const ProcessActivity& activity,
                                                  std::string& leniency) const {
  const std::int64_t cpu_ns = activity.cpu_ns - suspicion_->baseline.cpu_ns;
  const std::string pending = "work pending for " + in_ms(overdue_ns) + ", none done: ";
  if (activity.state == 'T' || activity.state == 't') return pending + "the process is stopped";
  if (cpu_ns >= policy_.deadline_ns) return pending + "it spins (" + in_ms(cpu_ns) + " of CPU used)";
  const std::int64_t asleep_limit =
      activity.state == 'D' ? kUninterruptibleExtension * policy_.deadline_ns : policy_.deadline_ns;
  if (suspicion_->idle_samples > 0 && overdue_ns >= asleep_limit)
    return pending + (activity.state == 'D' ? "the process is stuck in the kernel" : "the process sleeps");
  if (overdue_ns >= policy_.max_extension * policy_.deadline_ns)
    return pending + "given more time often enough (" + in_ms(cpu_ns) + " of CPU used)";
  leniency = std::string(activity.state == 'R' ? "starved of CPU" : "not idle") + ": " + in_ms(cpu_ns) +
             " of CPU and " + in_ms(activity.run_delay_ns - suspicion_->baseline.run_delay_ns) +
             " in the run queue while work was pending for " + in_ms(overdue_ns);
  return std::nullopt;
}

ProgressMonitor::Verdict ProgressMonitor::check(std::int64_t now_ns, std::int64_t due_ns,
                                                const WorkCounters& counters, const Look& look) {
  Verdict verdict;
  note_progress(now_ns, counters);
  // A ping of which it is not known that it was rung (of a core that died, or before reset()) is rung again.
  if (counters.pong >= ping_ || ping_sent_ns_ == 0) {
    if (counters.pong >= ping_) ++ping_;
    verdict.send_ping = ping_;
    ping_sent_ns_ = now_ns;
  }
  const std::int64_t since = pending_since(now_ns, counters);
  const std::int64_t lateness = now_ns - due_ns;
  // A little lateness is the timer's grain. More means that the core did not run: neither, perhaps, did
  // anybody else (an overloaded or suspended host), so that time does not count against the instance.
  if (since != 0 && lateness > policy_.deadline_ns / 10) core_late_ns_ += lateness;
  const std::int64_t overdue = since == 0 ? 0 : now_ns - since - core_late_ns_;
  if (overdue < policy_.check_interval_ns || reported_) {
    if (!reported_) suspicion_.reset();
    return verdict;
  }
  if (lateness > policy_.deadline_ns) {
    verdict.leniency = "the core itself was late by " + in_ms(lateness);
    suspicion_.reset();
    return verdict;
  }
  const auto activity = look();
  // Gone: the exit monitor knows more.
  if (!activity || activity->state == 'Z' || activity->state == 'X') return verdict;
  suspect(*activity);
  if (overdue < policy_.deadline_ns) return verdict;
  if (auto evidence = judge(overdue, *activity, verdict.leniency)) {
    reported_ = true;
    verdict.finding = Finding{"progress", Severity::kFailed, std::move(*evidence), since, now_ns};
  }
  return verdict;
}

}  // namespace bulkhead::monitors
