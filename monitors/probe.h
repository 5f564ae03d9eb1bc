// Probe: asks a component end to end, as a client would. Here: what a probe is, when it runs and when its
// failures are a finding. Each kind of probe is a non-blocking little state machine of its own file.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "monitors/finding.h"
#include "runtime/pidfd.h"
#include "runtime/result.h"

namespace bulkhead::monitors {

struct ProbeStep {
  enum class Status : unsigned char { kPending, kPassed, kFailed };
  Status status = Status::kFailed;
  int fd = -1;               // kPending: call step() when `events` hold on it; owned by the probe
  std::uint32_t events = 0;  // EPOLLIN, EPOLLOUT
  std::string evidence;      // kFailed: why

  static ProbeStep pending(int fd, std::uint32_t events) { return {Status::kPending, fd, events, {}}; }
  static ProbeStep passed() { return {Status::kPassed, -1, 0, {}}; }
  static ProbeStep failed(std::string why) { return {Status::kFailed, -1, 0, std::move(why)}; }
};

// One attempt. Destroying it before its end cancels it (closes, kills). The descriptor may change from step
// to step; the caller unwatches the former before the call that may close it.
class Probe {
 public:
  Probe() = default;
  Probe(const Probe&) = delete;
  Probe& operator=(const Probe&) = delete;
  virtual ~Probe() = default;
  // The first call begins. Never blocks.
  virtual ProbeStep step() = 0;
};

// How a command probe starts its process: the core passes its launcher (supervisor/launch.h).
class ProcessStarter {
 public:
  virtual ~ProcessStarter() = default;
  virtual Result<PidFd> start(const std::vector<std::string>& command) = 0;
  // Ends a command that is not needed any more: kills it and its process group, and waits a few milliseconds
  // to reap it. One that takes longer to die stays a zombie of the core.
  virtual void abandon(PidFd process);
};

// The kinds that need no protocol. `address` is "HOST:PORT" with a numeric host ("[::1]:53", "127.0.0.1:53"):
// resolving a name would block. kInvalid otherwise.
Result<std::unique_ptr<Probe>> make_tcp_probe(const std::string& address);
Result<std::unique_ptr<Probe>> make_unix_probe(const std::string& path);
// Passes when the command ends with exit status 0. `starter` must outlive the probe.
Result<std::unique_ptr<Probe>> make_command_probe(std::vector<std::string> command, ProcessStarter& starter);
// grpc.health.v1 Check, by running bulkhead-grpc-probe (`helper`): the core links no gRPC. Passes when
// SERVING.
Result<std::unique_ptr<Probe>> make_grpc_probe(const std::string& helper, const std::string& address,
                                               const std::string& service, std::int64_t deadline_ns,
                                               ProcessStarter& starter);

struct ProbePolicy {
  std::int64_t interval_ns = 0;
  std::int64_t deadline_ns = 0;
  std::uint32_t failures = 1;  // in a row, before it is a finding
};

// When probes run and what their results mean; pure. Order of calls: due() -> begin() -> end() or overdue()
// -> ...
class ProbeSchedule {
 public:
  explicit ProbeSchedule(ProbePolicy policy, std::int64_t now_ns) : policy_(policy), next_ns_(now_ns) {}

  // When the next thing is due: a start, or the deadline of the running one.
  std::int64_t next_ns() const { return running_ ? started_ns_ + policy_.deadline_ns : next_ns_; }
  bool running() const { return running_; }
  bool due(std::int64_t now_ns) const { return !running_ && now_ns >= next_ns_; }
  // The running probe's time is up: cancel it and end() it as failed.
  bool overdue(std::int64_t now_ns) const { return running_ && now_ns >= started_ns_ + policy_.deadline_ns; }

  void begin(std::int64_t now_ns);
  // A finding when this failure completes the row. Further failures are findings again only after a success
  // or reset().
  std::optional<Finding> end(std::int64_t now_ns, const ProbeStep& result);
  // A deadline that passed while the core itself did not run says nothing: the attempt is repeated, not
  // counted.
  void discard(std::int64_t now_ns);
  // After a take-over or a restart: failures are forgotten, the next probe is due at `now_ns`.
  void reset(std::int64_t now_ns);

  std::uint32_t failures() const { return failures_; }
  bool last_passed() const { return passed_once_ && failures_ == 0; }
  std::int64_t last_round_trip_ns() const { return round_trip_ns_; }

 private:
  ProbePolicy policy_;
  std::int64_t next_ns_;
  std::int64_t started_ns_ = 0;
  std::int64_t first_failure_ns_ = 0;
  std::int64_t round_trip_ns_ = 0;
  std::uint32_t failures_ = 0;
  bool running_ = false;
  bool reported_ = false;
  bool passed_once_ = false;
};

}  // namespace bulkhead::monitors
