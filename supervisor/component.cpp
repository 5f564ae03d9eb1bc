#include "supervisor/component.h"

#include <algorithm>

#include "runtime/clock.h"
#include "supervisor/listener.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::size_t kMaxWaiters = 64;
constexpr std::uint32_t kMostSaid = 50;  // within:
constexpr std::int64_t kSaidWindow = 10 * kSecond;

v1::State public_state(State state) {
  return static_cast<v1::State>(static_cast<int>(state));
}

// Of a monotonic time. To the second: the two clocks are not read at one instant, and nobody shall see a
// change where there is none.
std::int64_t unix_ms(std::int64_t monotonic) {
  const std::int64_t now_ms = (wall_us() + (monotonic - monotonic_ns()) / kMicrosecond) / 1000;
  return (now_ms + 500) / 1000 * 1000;
}

void set_resources(v1::Component& out, const Instance& instance) {
  if (!instance.resources || instance.resources->latest() == nullptr) return;
  const monitors::ResourceSample& sample = *instance.resources->latest();
  out.mutable_resources()->set_rss_bytes(sample.rss_bytes);
  out.mutable_resources()->set_private_bytes(sample.private_bytes);
  out.mutable_resources()->set_open_fds(sample.open_fds);
  out.mutable_resources()->set_cpu_fraction(instance.resources->cpu_fraction());
}

}  // namespace

Component::Component(const ComponentConfig& config, const Services& services, InstanceLauncher launcher,
                     std::optional<gid_t> socket_group, InstanceExtra extra)
    : config_(config),
      services_(services),
      launcher_(std::move(launcher)),
      socket_group_(socket_group),
      extra_(std::move(extra)),
      custody_(config.name, {services.config.custody.max_items, services.config.custody.max_bytes},
               services.store, services.custody),
      wanted_(config.enabled),
      operator_wanted_(config.enabled),
      since_unix_ms_(wall_us() / 1000),
      backoff_(config.restart.backoff_initial_ns, config.restart.backoff_max_ns,
               config.restart.reset_after_ns),
      standby_backoff_(backoff_),
      outage_(services.incidents),
      standby_failures_(services.incidents, config.restart.window_ns),
      said_(kMostSaid, kSaidWindow),
      programs_(config.name, services.store),
      rejuvenation_(config.rejuvenate) {
  surveillance_ = std::make_unique<Surveillance>(
      services.loop, config, services.config.supervisor.runtime_dir, instances_, launcher_,
      Surveillance::Handlers{
          [this](std::uint64_t id, const monitors::Finding& finding) { on_found(id, finding); },
          [this] {
            if (Instance* instance = active(); instance != nullptr) on_ready(*instance);
          },
          [this](Instance& instance) { on_sample(instance); },
          [this] {
            complaint_.clear();
            services_.changed(name());
          }});
}

Component::~Component() {
  for (const EventLoop::TimerId timer :
       {timer_, standby_timer_, health_timer_, probation_timer_, rejuvenation_timer_})
    services_.loop.cancel(timer);
  for (auto& [id, instance] : instances_) services_.loop.unwatch(instance->process.fd());
}

// ---- life cycle ----

void Component::feed(Event event, const std::string& cause) {
  pending_.push_back({event, cause});
  if (draining_) return;
  draining_ = true;
  while (!pending_.empty()) {
    const Pending next = std::move(pending_.front());
    pending_.pop_front();
    apply(next.event, next.cause);
  }
  draining_ = false;
  update_waiters();
  services_.changed(name());
}

void Component::apply(Event event, const std::string& cause) {
  const Transition& chosen = transition(state_, event);
  enter(chosen.next, cause);
  for (const Action action : chosen.actions) perform(action);
}

void Component::enter(State next, const std::string& cause) {
  if (next == state_) return;
  const State from = std::exchange(state_, next);
  cause_ = cause;
  since_unix_ms_ = wall_us() / 1000;
  if (next == State::kServing) {
    serving_began();
  } else {
    surveillance_->not_serving();
    services_.loop.cancel(std::exchange(health_timer_, 0));
    services_.loop.cancel(std::exchange(rejuvenation_timer_, 0));
  }
  services_.events.transition(name(), incarnation_, public_state(from), public_state(next), cause);
  if (next == State::kStopping || next == State::kStopped) standby_failures_.given_up("stopped");
  if (next == State::kIsolated) standby_failures_.given_up("isolated");
  if (next != State::kServing && next != State::kRecovering)
    abandon_upgrade("it is " + std::string(name_of(next)));
}

void Component::serving_began() {
  complaint_.clear();
  started_once_ = true;
  backoff_.served(services_.loop.now());
  surveillance_->serving();
  services_.loop.cancel(health_timer_);
  arm_rejuvenation();
  health_timer_ = services_.loop.after(config_.restart.reset_after_ns, [this] {
    health_timer_ = 0;
    feed(Event::kHealthSustained, "healthy");
  });
}

void Component::feed_standby(StandbyEvent event) {
  const StandbyTransition& chosen = transition(standby_state_, event);
  standby_state_ = chosen.next;
  for (const StandbyAction action : chosen) perform(action);
  services_.changed(name());
}

bool Component::dependencies_ready() const {
  return std::ranges::all_of(config_.depends_on, services_.is_ready);
}

void Component::check_dependencies() {
  if (state_ == State::kWaiting && dependencies_ready()) {
    feed(Event::kDependenciesReady, config_.depends_on.empty() ? "enabled" : "dependencies are ready");
  }
}

void Component::begin() {
  if (instances_.empty()) {
    resume_upgrade();
    if (state_ == State::kIsolated) return;  // as the former core left it
    if (wanted_) feed(Event::kEnable, "enabled");
    return;
  }
  resume();
  resume_upgrade();
  std::vector<std::uint64_t> ended;
  for (const auto& [id, instance] : instances_) {
    if (instance->ended_unseen) ended.push_back(id);
  }
  // In this turn, so that nobody is told of an owner that is no more.
  for (const std::uint64_t id : ended) reap(id);
}

void Component::resume() {
  Instance* instance = active();
  if (instance == nullptr) {
    why_ =
        Cause("core", "no instance owned the component when the core was restarted", 0, services_.loop.now());
    why_.incarnation = incarnation_;
    feed(Event::kAdoptedOrphaned, "re-adopted; the successor is taking over");
  } else if (instance->ready) {
    feed(Event::kAdoptedServing, "re-adopted, process " + std::to_string(instance->process.pid()));
    if (instance->ending) resume_ending(*instance);
  } else {
    feed(Event::kAdoptedStarting, "re-adopted while starting");
    surveillance_->await_ready();
  }
  if (!operator_wanted_) {
    feed(Event::kDisable, "the former core was stopping it");
  } else if (was_stopping_) {
    feed(Event::kRestartCold, "the former core was stopping it");
  }
}

// The former core asked the owner to yield, or killed it. The order may have died with that core, and its
// timer did.
void Component::resume_ending(Instance& instance) {
  if (!operator_wanted_ || was_stopping_) return;  // it is asked to end again
  instance.ending = false;                         // and watched, should there be nobody to succeed it
  why_ = outage_.is_open() ? outage_.cause() : planned_cause("handover", "a hand over was under way");
  yielding_ = instance.id;
  yield_cause_ = why_;
  if (instance.ended_unseen || !facts().standby_ready) return;
  feed(Event::kHandOverRequested, "the former core's hand over goes on");
}

void Component::add_open_incidents(std::set<std::int64_t>& ids) const {
  if (outage_.is_open()) ids.insert(outage_.incident().id());
  if (standby_failures_.is_open()) ids.insert(standby_failures_.incident().id());
}

// ---- operators ----

Status Component::operate(Event event) {
  if (transition(state_, event).actions.contains(Action::kRefuse)) {
    return failure(ErrorKind::kRefused, name() + " is " + std::string(name_of(state_)) + ": " +
                                            std::string(name_of(event)) + " makes no sense now");
  }
  feed(event, "operator: " + std::string(name_of(event)));
  return {};
}

Status Component::restart() {
  if (renewal_) return failure(ErrorKind::kRefused, name() + " is being restarted or upgraded already");
  renewal_ = Renewal{"handover", "restart requested by an operator"};
  auto asked = operate(restart_event(config_.standby));
  if (!asked || !config_.standby || state_ != State::kServing) renewal_.reset();
  return asked;
}

Status Component::hand_over() {
  if (!facts().standby_ready || state_ != State::kServing) {
    return failure(ErrorKind::kRefused, name() + ": no standby is ready to take over");
  }
  if (programs_.on_probation() && program_for(Role::kStandby) != programs_.in_use()->number) {
    return failure(ErrorKind::kRefused, name() + ": its standby is of the former program while " +
                                            told(*programs_.in_use()) + " is on probation");
  }
  why_ = planned_cause("handover", "hand over requested by an operator");
  return operate(Event::kHandOverRequested);
}

void Component::release_custody() {
  // Clients shall find no socket rather than one that nobody serves.
  const HeldItem* listener = custody_.find(kListenerItem);
  if (listener != nullptr && listens_at(listener->fd.borrow(), config_.socket))
    ::unlink(config_.socket.c_str());
  programs_.release();
  while (!custody_.items().empty()) (void)custody_.withdraw(std::string(custody_.items().begin()->first));
}

void Component::shut_down() {
  const bool wanted = operator_wanted_;
  feed(Event::kDisable, "the supervisor ends");
  operator_wanted_ = wanted;
}

std::uint64_t Component::serving_instance() {
  const Instance* now = active();
  return now != nullptr && state_ == State::kServing ? now->id : 0;
}

void Component::await(Goal goal, Done done) {
  if (waiters_.size() >= kMaxWaiters) {
    return done(failure(ErrorKind::kExhausted, name() + ": too many callers wait for it already"));
  }
  waiters_.push_back({goal, std::move(done)});
  update_waiters();
}

// Whether a waiter's time has come; unset: not yet.
std::optional<Status> Component::verdict(const Waiter& waiter) {
  const std::string now = name() + " is " + std::string(name_of(state_)) + ": " + cause_;
  if (!waiter.goal.serve) {
    if (state_ == State::kStopped) return Status();
    if (state_ == State::kStopping) return std::nullopt;
    return failure(ErrorKind::kRefused, now);
  }
  const std::uint64_t serving = serving_instance();
  if (serving != 0 && serving != waiter.goal.not_instance) return Status();
  if (state_ == State::kIsolated || state_ == State::kStopped) return failure(ErrorKind::kFailed, now);
  return std::nullopt;
}

void Component::update_waiters() {
  std::vector<std::pair<Done, Status>> due;
  for (auto it = waiters_.begin(); it != waiters_.end();) {
    if (auto status = verdict(*it)) {
      due.emplace_back(std::move(it->done), std::move(*status));
      it = waiters_.erase(it);
    } else {
      ++it;
    }
  }
  for (auto& [done, status] : due) done(std::move(status));
  settle_upgrades();
}

// ---- facts ----

Facts Component::facts() const {
  Facts facts;
  facts.wanted = wanted_;
  facts.running = !instances_.empty();
  for (const auto& [id, instance] : instances_) {
    if (instance->role == Role::kStandby) facts.standby_running = true;
    if (instance->role == Role::kStandby && instance->ready) facts.standby_ready = true;
    if (instance->role == Role::kActive && instance->ready) facts.ready = state_ == State::kServing;
  }
  facts.healthy = facts.ready && complaint_.empty();
  facts.dependencies_ready = dependencies_ready();
  return facts;
}

bool Component::settled() const {
  if (state_ == State::kStarting) return false;
  return state_ != State::kWaiting || !dependencies_ready();
}

v1::Component Component::describe() const {
  v1::Component out;
  const Facts now = facts();
  out.set_name(name());
  out.set_state(public_state(state_));
  out.set_wanted(now.wanted);
  out.set_running(now.running);
  out.set_ready(now.ready);
  out.set_healthy(now.healthy);
  out.set_incarnation(incarnation_);
  for (const auto& [id, instance] : instances_) {
    if (instance->role == Role::kActive) {
      out.set_active_pid(instance->process.pid());
      set_resources(out, *instance);
    } else if (instance->role == Role::kStandby) {
      out.set_standby_pid(instance->process.pid());
    }
  }
  out.set_standby_ready(now.standby_ready);
  if (rejuvenation_timer_ != 0) out.set_rejuvenation_due_unix_ms(unix_ms(rejuvenation_due_ns_));
  out.set_cause(complaint_.empty() ? cause_ : complaint_);
  out.set_since_unix_ms(since_unix_ms_);
  out.set_restarts(restarts_);
  out.set_incidents(incidents_);
  for (const std::string& dependency : config_.depends_on) out.add_depends_on(dependency);
  out.set_foreign(config_.kind == ComponentKind::kForeign);
  out.set_custody_items(custody_.items().size() + (ring_.fd.valid() ? 1 : 0));
  out.set_custody_bytes(custody_.bytes());
  describe_programs(out);
  return out;
}

void Component::describe_programs(v1::Component& out) const {
  out.set_program(programs_.in_use() == nullptr ? launcher_.program() : programs_.in_use()->path);
  for (const auto& [id, instance] : instances_) {
    const Program* program = programs_.find(instance->program);
    if (program == nullptr) continue;
    if (instance->role == Role::kActive) *out.mutable_active_program() = public_program(*program);
    if (instance->role == Role::kStandby) *out.mutable_standby_program() = public_program(*program);
  }
  if (programs_.kept() != nullptr) *out.mutable_kept_program() = public_program(*programs_.kept());
  if (programs_.candidate() != nullptr) *out.mutable_next_program() = public_program(*programs_.candidate());
  if (programs_.on_probation()) out.set_probation_until_unix_ms(unix_ms(programs_.probation_ends_ns()));
}

std::vector<v1::CustodyItem> Component::custody_list() const {
  std::vector<v1::CustodyItem> list;
  const auto add = [&](const std::string& item, const std::string& kind) -> v1::CustodyItem& {
    v1::CustodyItem& added = list.emplace_back();
    added.set_component(name());
    added.set_name(item);
    added.set_kind(kind);
    return added;
  };
  for (const auto& [item, held] : custody_.items()) {
    v1::CustodyItem& added = add(item, held.kind);
    added.set_bytes(held.bytes);
    added.set_deposited_unix_us(held.deposited_unix_us);
  }
  if (ring_.fd.valid()) add("ring", "ring");
  return list;
}

manifest::v1::Component Component::record() const {
  manifest::v1::Component out;
  out.set_name(name());
  out.set_wanted(operator_wanted_);
  out.set_state(public_state(state_));
  out.set_cause(cause_);
  out.set_since_unix_ms(since_unix_ms_);
  for (const auto& [id, instance] : instances_) *out.add_instances() = record_of(*instance);
  out.set_incarnation(incarnation_);
  out.set_restarts(restarts_);
  out.set_incidents(incidents_);
  out.set_ring_params(ring_.params);
  out.set_ring_generation(ring_generation_);
  programs_.record(out);
  out.set_growth_factor(rejuvenation_.factor());
  if (outage_.is_open()) *out.mutable_outage() = outage_.record();
  if (standby_failures_.is_open()) *out.mutable_standby_outage() = standby_failures_.record();
  record_ladder(*out.mutable_ladder());
  return out;
}

}  // namespace bulkhead::supervisor
