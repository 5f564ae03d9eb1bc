// What the life cycle's actions do.
#include <algorithm>
#include <csignal>

#include "runtime/clock.h"
#include "supervisor/component.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kFenceAfterSuccession = 10 * kSecond;  // a core dump may take its time

std::string seconds(std::int64_t ns) {
  const std::string text = std::to_string(ns / kMillisecond);
  return text + " ms";
}

}  // namespace

void Component::perform(Action action) {
  switch (action) {
    case Action::kSetWanted:
      wanted_ = operator_wanted_ = true;
      return;
    case Action::kClearWanted:
      wanted_ = operator_wanted_ = false;
      renewal_.reset();
      return;
    case Action::kCheckDependencies:
      return check_dependencies();
    case Action::kLaunchActive:
      return launch_active();
    case Action::kKeepStandby:
      if (config_.standby) feed_standby(StandbyEvent::kWanted);
      return;
    case Action::kRenewStandby:
      return feed_standby(StandbyEvent::kRenew);
    case Action::kDropStandby:
      return feed_standby(StandbyEvent::kUnwanted);
    case Action::kFenceActive:
      if (Instance* instance = owner(); instance != nullptr) fence(*instance);
      return;
    case Action::kAskYield:
      return ask_yield();
    case Action::kAskStop:
      return ask_stop(false);
    case Action::kAskDrain:
      return ask_stop(true);
    case Action::kKillAll:
      return kill_all();
    case Action::kArmStart:
      return arm(Event::kStartTimeout, config_.restart.start_timeout_ns);
    case Action::kArmHandOver:
      return arm(Event::kHandOverTimeout, config_.restart.hand_over_timeout_ns);
    case Action::kArmStop:
      return arm(Event::kStopTimeout, config_.restart.stop_timeout_ns);
    case Action::kArmBackoff:
      return arm(Event::kBackoffElapsed, backoff_.next(services_.loop.now()));
    case Action::kCancelTimer:
      services_.loop.cancel(std::exchange(timer_, 0));
      return;
    case Action::kOpenIncident:
      return open_incident();
    case Action::kCloseIncident:
      return close_incident();
    case Action::kResetBackoff:
      backoff_.reset();
      history_.clear();
      return;
    case Action::kRefuse:
      return;  // operate() has asked before
  }
}

void Component::perform(StandbyAction action) {
  switch (action) {
    case StandbyAction::kLaunch:
      return launch_standby();
    case StandbyAction::kFence:
      if (Instance* instance = standby(); instance != nullptr) {
        instance->role = Role::kFormer;
        fence(*instance);
      }
      return;
    case StandbyAction::kArmStart:
      return arm_standby(StandbyEvent::kStartTimeout, config_.restart.start_timeout_ns);
    case StandbyAction::kArmBackoff:
      return arm_standby(StandbyEvent::kBackoffElapsed, standby_backoff_.next(services_.loop.now()));
    case StandbyAction::kCancelTimer:
      services_.loop.cancel(std::exchange(standby_timer_, 0));
      return;
  }
}

void Component::arm(Event event, std::int64_t delay_ns) {
  services_.loop.cancel(timer_);
  timer_ = services_.loop.after(delay_ns, [this, event, delay_ns] {
    timer_ = 0;
    on_timer(event, delay_ns);
  });
}

void Component::on_timer(Event event, std::int64_t delay_ns) {
  switch (event) {
    case Event::kStartTimeout: {
      const std::string evidence = "not serving within " + seconds(delay_ns);
      why_ = Cause("start", evidence, 0, services_.loop.now());
      why_.incarnation = incarnation_;
      return feed(decide(event, false), evidence);
    }
    case Event::kBackoffElapsed:
      return feed(backoff_elapsed_event(facts()), "the back-off of " + seconds(delay_ns) + " is over");
    case Event::kHandOverTimeout:
      return feed(event, "the active instance did not yield within " + seconds(delay_ns));
    default:
      return feed(event, "still running " + seconds(delay_ns) + " after being asked to end");
  }
}

void Component::arm_standby(StandbyEvent event, std::int64_t delay_ns) {
  services_.loop.cancel(standby_timer_);
  standby_timer_ = services_.loop.after(delay_ns, [this, event, delay_ns] {
    standby_timer_ = 0;
    const Instance* late = standby();
    const std::uint64_t program = late == nullptr ? 0 : late->program;
    feed_standby(event);
    if (event == StandbyEvent::kStartTimeout) {
      const std::int64_t now = services_.loop.now();
      const std::string evidence = "not ready within " + seconds(delay_ns);
      standby_program_failed(program, false, evidence);
      standby_failed(Cause("start", evidence, now - delay_ns, now));
    }
  });
}

void Component::launch_active() {
  auto started = start_instance(Role::kActive);
  if (started) {
    if (config_.kind == ComponentKind::kForeign) {
      ++incarnation_;
      surveillance_->await_ready();
    }
    return;
  }
  const std::int64_t now = services_.loop.now();
  why_ = Cause("launch", started.error().message(), now, now);
  why_.incarnation = incarnation_;
  feed(decide(Event::kLaunchFailed, false), started.error().message());
}

void Component::launch_standby() {
  if (auto started = start_instance(Role::kStandby); !started) {
    services_.events.note(v1::Event::KIND_FINDING, name(), incarnation_,
                          "cannot start a standby: " + started.error().message());
    feed_standby(StandbyEvent::kLaunchFailed);
    standby_program_failed(program_for(Role::kStandby), false, started.error().message());
    const std::int64_t now = services_.loop.now();
    standby_failed(Cause("launch", started.error().message(), now, now));
  }
}

// ---- ending ----

void Component::stop_instance(Instance& instance, bool drain) const {
  instance.ending = true;
  if (instance.link) {
    contract::ToInstance message;
    message.mutable_stop()->set_drain(drain);
    instance.link->send(std::move(message));
    return;
  }
  // One that has ended meanwhile is about to be reaped.
  (void)instance.process.signal(config_.restart.stop_signal);
}

void Component::ask_stop(bool drain) {
  // First: a standby that is still there would take over from an instance that ends.
  feed_standby(StandbyEvent::kUnwanted);
  for (auto& [id, instance] : instances_) {
    if (instance->role == Role::kActive) stop_instance(*instance, drain);
    if (instance->role == Role::kStandby) fence(*instance);
  }
  end_if_alone();
}

void Component::fence(Instance& instance) {
  instance.ending = true;
  // Works on a stopped process too; one that has ended is about to be reaped.
  (void)instance.process.signal(SIGKILL);
}

void Component::kill_all() {
  feed_standby(StandbyEvent::kUnwanted);
  for (auto& [id, instance] : instances_) {
    instance->role = Role::kFormer;
    fence(*instance);
  }
  end_if_alone();
}

void Component::end_if_alone() {
  if (instances_.empty()) feed(last_exit_event(facts()), "no process is left");
}

void Component::ask_yield() {
  Instance* instance = active();
  if (instance == nullptr || !instance->link) return;
  yielding_ = instance->id;
  yield_cause_ = why_;
  instance->ending = true;
  contract::ToInstance message;
  message.mutable_yield();
  instance->link->send(std::move(message));
}

// The instance lost the lease, so it is ending; if that takes too long it is helped.
void Component::supersede(Instance& instance) {
  instance.role = Role::kFormer;
  superseded_ = instance.id;
  fence_later(instance.id);
}

void Component::fence_later(std::uint64_t id) {
  services_.loop.after(kFenceAfterSuccession, [this, id] {
    if (Instance* former = find_instance(id); former != nullptr) fence(*former);
  });
}

// ---- incidents ----

Cause Component::planned_cause(const std::string& finding, const std::string& evidence) const {
  const std::int64_t now = monotonic_ns();
  Cause cause(finding, evidence, now, now);
  cause.deliberate = true;
  cause.incarnation = incarnation_;
  return cause;
}

void Component::open_incident() {
  if (!outage_.is_open()) ++incidents_;
  outage_.begin(name(), why_);
  note_step();
}

void Component::note_step() {
  if (step_) outage_.step(std::string(name_of(step_->rung)) + ": " + step_->why, step_->if_recurs);
  step_.reset();
}

void Component::close_incident() {
  if (!outage_.is_open()) return;
  note_step();
  std::int64_t serving = 0;
  std::string outcome = "stopped";
  if (state_ == State::kServing) {
    outcome = "recovered";
    serving = monotonic_ns();
    if (takeover_) {
      outage_.taken_over(*takeover_);
      serving = takeover_->serving_monotonic_ns();
      const Instance* now = active();
      const std::int64_t answered =
          now != nullptr && now->link ? now->link->vitals().first_answer_ns.load() : 0;
      serving = std::max(serving, answered);
    }
  } else if (state_ == State::kIsolated) {
    outcome = "isolated";
  }
  takeover_.reset();
  outage_.end(outcome, serving);
}

}  // namespace bulkhead::supervisor
