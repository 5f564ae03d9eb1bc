// Runs the monitors of one component: progress and resources of each process, probes of the whole. Reports
// what they find; what to do about it is the component's business.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "monitors/finding.h"
#include "monitors/latency.h"
#include "monitors/notify.h"
#include "supervisor/config.h"
#include "supervisor/instance.h"
#include "supervisor/instance_launcher.h"
#include "supervisor/probe_runner.h"

namespace bulkhead::supervisor {

class Surveillance {
 public:
  struct Handlers {
    // `instance` 0: the active one, whichever it is.
    std::function<void(std::uint64_t instance, const monitors::Finding& finding)> found;
    // A foreign component's readiness check has passed.
    std::function<void()> ready;
    // The resources of a process have been looked at.
    std::function<void(Instance& instance)> sampled;
    // A probe passed after failures: the complaint is over.
    std::function<void()> recovered;
  };

  // All references outlive this. `socket`: where request probes connect.
  Surveillance(EventLoop& loop, const ComponentConfig& config, const std::string& runtime_dir,
               Instances& instances, const InstanceLauncher& launcher, Handlers handlers);
  ~Surveillance();
  Surveillance(const Surveillance&) = delete;
  Surveillance& operator=(const Surveillance&) = delete;

  // Begins to look after an instance; a native one's progress is watched once it is ready.
  void add(Instance& instance) const;
  void watch_progress(Instance& instance) const;

  // Asks for the readiness of a foreign component that has just been started, until it is ready. Without a
  // readiness check it is ready at once.
  void await_ready();
  // The component serves (again): probes look at the new instance from now on.
  void serving();
  // No instance is expected to answer.
  void not_serving();

  // What a foreign component's environment says about notifications (sd_notify(3), sd_watchdog_enabled(3));
  // empty if none are asked for.
  std::vector<std::string> notify_environment() const;

 private:
  class CommandStarter;

  void open_notify_socket(const std::string& runtime_dir, const std::optional<Account>& account);
  // Takes what is waiting, at most so many messages.
  void take_notifications(int most);
  void heard(const monitors::Notification& notification);
  void arm_watchdog();
  void check_watchdog(std::int64_t due_ns);
  ProbeRunner::Factory check_factory(const CheckConfig& check);
  std::unique_ptr<ProbeRunner> request_probe();
  std::unique_ptr<ProbeRunner> liveness_probe();
  std::unique_ptr<ProbeRunner> readiness_probe();
  std::uint64_t work_done() const;
  void handle(const ProbeRunner::Outcome& outcome);
  void arm_progress();
  void check_progress(std::int64_t due_ns);
  void check_progress_of(Instance& instance, std::int64_t due_ns);
  void sample_resources();

  EventLoop& loop_;
  const ComponentConfig& config_;
  Instances& instances_;
  Handlers handlers_;
  std::unique_ptr<CommandStarter> starter_;
  std::string grpc_helper_;
  std::optional<monitors::NotifySocket> notify_;
  std::optional<monitors::NotifyWatchdog> watchdog_;  // liveness by notification
  std::unique_ptr<ProbeRunner> probe_, readiness_;
  monitors::LatencyMonitor latency_;
  std::uint64_t probe_token_ = 0;
  bool complaint_ = false;
  bool calm_ = true;  // nobody left a ping unanswered at the last check
  EventLoop::TimerId progress_timer_ = 0, resource_timer_ = 0, watchdog_timer_ = 0;
};

}  // namespace bulkhead::supervisor
