#include "monitors/probe.h"

#include <poll.h>

#include <algorithm>
#include <csignal>

namespace bulkhead::monitors {

void ProcessStarter::abandon(PidFd process) {
  constexpr int kPatienceMs = 20;
  if (!process.valid() || process.reap()) return;
  // Not reaped yet, so neither its pid nor its group's can mean anything else.
  ::kill(-process.pid(), SIGKILL);
  [[maybe_unused]] const Status killed = process.signal(SIGKILL);  // ended meanwhile: as good
  pollfd ended{process.fd().get(), POLLIN, 0};
  ::poll(&ended, 1, kPatienceMs);
  process.reap();
}

void ProbeSchedule::begin(std::int64_t now_ns) {
  running_ = true;
  started_ns_ = now_ns;
}

std::optional<Finding> ProbeSchedule::end(std::int64_t now_ns, const ProbeStep& result) {
  running_ = false;
  next_ns_ = std::max(now_ns, started_ns_ + policy_.interval_ns);
  if (result.status == ProbeStep::Status::kPassed) {
    round_trip_ns_ = now_ns - started_ns_;
    passed_once_ = true;
    failures_ = 0;
    reported_ = false;
    return std::nullopt;
  }
  if (failures_ == 0) first_failure_ns_ = started_ns_;
  ++failures_;
  if (reported_ || failures_ < policy_.failures) return std::nullopt;
  reported_ = true;
  std::string evidence = result.evidence;
  if (failures_ > 1) evidence += ", " + std::to_string(failures_) + " times in a row";
  return Finding{"probe", Severity::kFailed, evidence, first_failure_ns_, now_ns};
}

void ProbeSchedule::discard(std::int64_t now_ns) {
  running_ = false;
  next_ns_ = now_ns;
}

void ProbeSchedule::reset(std::int64_t now_ns) {
  running_ = false;
  reported_ = false;
  passed_once_ = false;
  failures_ = 0;
  next_ns_ = now_ns;
}

}  // namespace bulkhead::monitors
