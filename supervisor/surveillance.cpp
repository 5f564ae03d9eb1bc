#include "supervisor/surveillance.h"

#include <spdlog/spdlog.h>

#include <algorithm>

#include "monitors/process_activity.h"
#include "monitors/request_probe.h"
#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

// A timer of the core that fires this much late tells that the core itself did not run.
constexpr std::int64_t kLate = 100 * kMillisecond;
// At once: a sender is not trusted to stop.
constexpr int kMostNotifications = 16;
// Before silence is held against a component: what it said while the core did something else.
constexpr int kMostWaiting = 512;

monitors::ResourcePolicy resource_policy(const ComponentConfig& config) {
  monitors::ResourcePolicy policy;
  policy.max_rss = config.monitor.max_rss;
  policy.max_fds = config.monitor.max_fds;
  policy.max_cpu = config.monitor.max_cpu;
  policy.counts_work = config.kind == ComponentKind::kNative;
  return policy;
}

}  // namespace

class Surveillance::CommandStarter : public monitors::ProcessStarter {
 public:
  explicit CommandStarter(const InstanceLauncher& launcher) : launcher_(launcher) {}
  Result<PidFd> start(const std::vector<std::string>& command) override {
    return launcher_.run_command(command);
  }

 private:
  const InstanceLauncher& launcher_;
};

Surveillance::Surveillance(EventLoop& loop, const ComponentConfig& config, const std::string& runtime_dir,
                           Instances& instances, const InstanceLauncher& launcher, Handlers handlers)
    : loop_(loop),
      config_(config),
      instances_(instances),
      handlers_(std::move(handlers)),
      starter_(std::make_unique<CommandStarter>(launcher)),
      latency_({.factor = config.monitor.latency_factor}) {
  if (auto helper = find_program("bulkhead-grpc-probe")) grpc_helper_ = std::move(*helper);
  const bool notifies =
      config.readiness.type == CheckType::kNotify || config.liveness.type == CheckType::kNotify;
  if (config.kind == ComponentKind::kForeign && notifies) open_notify_socket(runtime_dir, launcher.account());
  if (notify_ && config.liveness.type == CheckType::kNotify) {
    watchdog_.emplace(config.liveness.interval_ns + config.liveness.deadline_ns);
  }
  readiness_ = readiness_probe();
  probe_ = config.kind == ComponentKind::kNative ? request_probe() : liveness_probe();
  if (config.kind == ComponentKind::kNative) arm_progress();
  if (config.monitor.resource_interval_ns > 0) sample_resources();
}

Surveillance::~Surveillance() {
  loop_.cancel(progress_timer_);
  loop_.cancel(resource_timer_);
  loop_.cancel(watchdog_timer_);
  if (notify_) loop_.unwatch(notify_->fd());
}

// ---- probes ----

void Surveillance::open_notify_socket(const std::string& runtime_dir, const std::optional<Account>& account) {
  const uid_t uid = account ? account->uid : ::geteuid();
  auto socket = monitors::NotifySocket::create(runtime_dir + "/notify-" + config_.name, uid);
  if (!socket) {
    spdlog::error("{}: {}", config_.name, socket.error().message());
    return;
  }
  notify_ = std::move(*socket);
  auto watched =
      loop_.watch(notify_->fd(), EPOLLIN, [this](std::uint32_t) { take_notifications(kMostNotifications); });
  if (!watched) spdlog::error("{}: {}", config_.name, watched.error().message());
}

std::vector<std::string> Surveillance::notify_environment() const {
  std::vector<std::string> variables;
  if (notify_) variables.push_back("NOTIFY_SOCKET=" + notify_->path());
  if (watchdog_) {
    variables.push_back("WATCHDOG_USEC=" + std::to_string(config_.liveness.interval_ns / kMicrosecond));
  }
  return variables;
}

void Surveillance::take_notifications(int most) {
  for (int i = 0; i < most; ++i) {
    const auto received = notify_->receive();
    if (!received) return;
    heard(received->notification);
  }
}

void Surveillance::heard(const monitors::Notification& notification) {
  if (notification.ready) handlers_.ready();
  if (watchdog_) {
    if (const auto finding = watchdog_->heard(notification, loop_.now())) handlers_.found(0, *finding);
  } else if (notification.watchdog_trigger) {
    handlers_.found(0, {"probe", monitors::Severity::kFailed,
                        "it reported its own failure (WATCHDOG=trigger)", loop_.now(), loop_.now()});
  }
}

void Surveillance::arm_watchdog() {
  loop_.cancel(std::exchange(watchdog_timer_, 0));
  const auto due = watchdog_ ? watchdog_->deadline_ns() : std::nullopt;
  if (due) watchdog_timer_ = loop_.at(*due, [this, at = *due] { check_watchdog(at); });
}

void Surveillance::check_watchdog(std::int64_t due_ns) {
  watchdog_timer_ = 0;
  take_notifications(kMostWaiting);
  const std::int64_t now = loop_.now();
  // The host or the core stood still, so perhaps did the component: it gets the whole time again.
  if (now - due_ns > kLate && watchdog_->deadline_ns()) watchdog_->start(now);
  if (const auto finding = watchdog_->check(now)) handlers_.found(0, *finding);
  arm_watchdog();
}

ProbeRunner::Factory Surveillance::check_factory(const CheckConfig& check) {
  return [this, &check]() -> Result<std::unique_ptr<monitors::Probe>> {
    switch (check.type) {
      case CheckType::kTcp:
        return monitors::make_tcp_probe(check.target);
      case CheckType::kUnix:
        return monitors::make_unix_probe(check.target);
      case CheckType::kCommand:
        return monitors::make_command_probe(check.command, *starter_);
      case CheckType::kGrpc:
        return monitors::make_grpc_probe(grpc_helper_, check.target, check.service, check.deadline_ns,
                                         *starter_);
      default:
        return failure(ErrorKind::kInvalid, "not a probe");
    }
  };
}

std::unique_ptr<ProbeRunner> Surveillance::request_probe() {
  if (config_.monitor.probe.empty()) return nullptr;
  const monitors::ProbePolicy policy{config_.monitor.probe_interval_ns, config_.monitor.probe_deadline_ns,
                                     config_.monitor.probe_failures};
  return std::make_unique<ProbeRunner>(
      loop_, policy,
      [this] { return monitors::make_request_probe(config_.monitor.probe, config_.socket, ++probe_token_); },
      [this](const ProbeRunner::Outcome& outcome) { handle(outcome); });
}

std::unique_ptr<ProbeRunner> Surveillance::liveness_probe() {
  const CheckConfig& check = config_.liveness;
  if (check.type == CheckType::kNone || check.type == CheckType::kNotify) return nullptr;
  if (check.type == CheckType::kGrpc && grpc_helper_.empty()) {
    spdlog::warn("{}: there is no program bulkhead-grpc-probe: if it hangs, nobody will notice",
                 config_.name);
    return nullptr;
  }
  return std::make_unique<ProbeRunner>(
      loop_, monitors::ProbePolicy{check.interval_ns, check.deadline_ns, check.failures},
      check_factory(check), [this](const ProbeRunner::Outcome& outcome) { handle(outcome); });
}

std::unique_ptr<ProbeRunner> Surveillance::readiness_probe() {
  const CheckConfig& check = config_.readiness;
  if (config_.kind != ComponentKind::kForeign || check.type == CheckType::kNone ||
      check.type == CheckType::kNotify) {
    return nullptr;
  }
  return std::make_unique<ProbeRunner>(loop_, monitors::ProbePolicy{check.interval_ns, check.deadline_ns, 1},
                                       check_factory(check), [this](const ProbeRunner::Outcome& outcome) {
                                         if (!outcome.passed) return;
                                         readiness_->stop();
                                         handlers_.ready();
                                       });
}

// By the active instance.
std::uint64_t Surveillance::work_done() const {
  const Instance* active = instance_in(instances_, Role::kActive);
  return active == nullptr || !active->link ? 0 : active->link->vitals().work_done.load();
}

void Surveillance::handle(const ProbeRunner::Outcome& outcome) {
  if (outcome.passed) {
    if (complaint_) handlers_.recovered();
    complaint_ = false;
    // Of a foreign component's check, most of the time is that of the probe's own process.
    if (config_.kind != ComponentKind::kNative) return;
    if (auto slow = latency_.add(outcome.round_trip_ns, loop_.now(), work_done())) handlers_.found(0, *slow);
    return;
  }
  if (!outcome.finding) return;
  complaint_ = true;
  handlers_.found(0, *outcome.finding);
}

void Surveillance::await_ready() {
  if (readiness_) {
    readiness_->start();
  } else if (config_.readiness.type != CheckType::kNotify) {
    handlers_.ready();
  }
}

void Surveillance::serving() {
  complaint_ = false;
  latency_.forget_recent();
  if (readiness_) readiness_->stop();
  if (probe_) probe_->start();
  if (watchdog_) watchdog_->start(loop_.now());
  arm_watchdog();
}

void Surveillance::not_serving() {
  if (readiness_) readiness_->stop();
  if (probe_) probe_->stop();
  if (watchdog_) watchdog_->stop();
  arm_watchdog();
}

// ---- processes ----

void Surveillance::add(Instance& instance) const {
  instance.resources.emplace(resource_policy(config_));
}

void Surveillance::watch_progress(Instance& instance) const {
  if (!instance.link || instance.progress || config_.monitor.progress_deadline_ns <= 0) return;
  monitors::ProgressPolicy policy;
  policy.deadline_ns = config_.monitor.progress_deadline_ns;
  policy.check_interval_ns = config_.monitor.check_interval_ns;
  instance.progress.emplace(policy, instance.link->vitals().ping.load());
}

void Surveillance::arm_progress() {
  if (config_.monitor.check_interval_ns <= 0 || config_.monitor.progress_deadline_ns <= 0) return;
  // While everybody answers, half the deadline is often enough; a doubt is looked at more closely.
  const std::int64_t calm =
      std::max(config_.monitor.check_interval_ns, config_.monitor.progress_deadline_ns / 2);
  const std::int64_t due = loop_.now() + (calm_ ? calm : config_.monitor.check_interval_ns);
  progress_timer_ = loop_.at(due, [this, due] { check_progress(due); });
}

void Surveillance::check_progress(std::int64_t due_ns) {
  calm_ = true;
  // By id: a finding may end instances.
  for (std::uint64_t at = 0;;) {
    const auto next = instances_.upper_bound(at);
    if (next == instances_.end()) break;
    at = next->first;
    check_progress_of(*next->second, due_ns);
  }
  arm_progress();
}

void Surveillance::check_progress_of(Instance& instance, std::int64_t due_ns) {
  if (!instance.progress || instance.role == Role::kFormer || instance.ending) return;
  Vitals& vitals = instance.link->vitals();
  const monitors::WorkCounters counters{vitals.pong.load(), vitals.work_done.load(),
                                        vitals.oldest_pending_ns.load()};
  if (counters.pong < vitals.ping.load() || counters.oldest_pending_ns != 0) calm_ = false;
  const pid_t pid = instance.process.pid();
  const auto verdict =
      instance.progress->check(loop_.now(), due_ns, counters, [pid] { return monitors::read_activity(pid); });
  if (verdict.send_ping) instance.link->ping(*verdict.send_ping, loop_.now());
  if (verdict.finding) handlers_.found(instance.id, *verdict.finding);
}

void Surveillance::sample_resources() {
  resource_timer_ = loop_.after(config_.monitor.resource_interval_ns, [this] { sample_resources(); });
  for (std::uint64_t at = 0;;) {
    const auto next = instances_.upper_bound(at);
    if (next == instances_.end()) return;
    at = next->first;
    Instance& instance = *next->second;
    if (!instance.resources || instance.role == Role::kFormer) continue;
    auto sample = monitors::read_resources(instance.process.pid(), loop_.now());
    if (!sample) continue;
    if (instance.link) sample->work_done = instance.link->vitals().work_done.load();
    const auto findings = instance.resources->add(*sample);
    handlers_.sampled(instance);
    for (const auto& finding : findings) handlers_.found(at, finding);
  }
}

}  // namespace bulkhead::supervisor
