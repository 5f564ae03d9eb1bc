// What happens when an instance ends or a monitor finds something.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "monitors/exit.h"
#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "supervisor/component.h"

namespace bulkhead::supervisor {
namespace {

using recovery::Rung;

CrashPoint exit_before_handling{"core-exit-before-handling"};
CrashPoint exit_after_handling{"core-exit-after-handling"};
CrashPoint reconcile_decided{"core-reconcile-decided"};

// A successor takes over by itself and is answering what its clients have waited for, perhaps on this CPU: so
// long the books and the next standby can wait.
constexpr std::int64_t kSettle = 2 * kMillisecond;
constexpr std::int64_t kLostGrace = kSecond;  // between a closed contract and the end of its process

// With what it said last, which often is why.
std::string evidence_of(const Instance& instance, const std::string& evidence) {
  return instance.last_words.empty() ? evidence : evidence + ", saying \"" + instance.last_words + "\"";
}

}  // namespace

Instance* Component::active() {
  return instance_in(instances_, Role::kActive);
}

Instance* Component::standby() {
  return instance_in(instances_, Role::kStandby);
}

// The instance that owns the component or is to own it, whether or not the core has been told.
Instance* Component::owner() {
  if (Instance* instance = active(); instance != nullptr) return instance;
  if (!lease_) return nullptr;
  const pid_t pid = lease_->owner().pid;
  for (auto& [id, instance] : instances_) {
    if (instance->process.pid() == pid) return instance.get();
  }
  return standby();
}

recovery::LadderPolicy Component::ladder_policy() const {
  recovery::LadderPolicy policy;
  policy[Rung::kHandOver] = {config_.standby, config_.restart.hand_over_budget};
  policy[Rung::kRebuild] = {true, config_.restart.budget};
  policy[Rung::kReconcile] = {reconciles_, 1};
  policy.window_ns = config_.restart.window_ns;
  return policy;
}

Cause Component::cause_of(const Instance& instance, const std::string& evidence) const {
  Cause cause("exit", evidence, 0, instance.ended_ns > 0 ? instance.ended_ns : services_.loop.now());
  cause.incarnation = incarnation_;
  if (instance.id == yielding_) return yield_cause_;
  if (instance.finding) {
    cause.finding = instance.finding->monitor;
    cause.evidence = instance.finding->evidence;
    cause.failed_ns = instance.finding->since_ns;
    cause.found_ns = instance.finding->found_ns;
  } else if (instance.link) {
    // The last sign of life; at most one check interval before the end.
    cause.failed_ns = std::min(instance.link->vitals().heartbeat_ns.load(), cause.found_ns);
  } else if (!instance.ended_unseen) {
    cause.failed_ns = cause.found_ns;  // the kernel reports an end at once
  }
  attribute(cause, instance.id);
  return cause;
}

// To the fault that was injected into the instance, if one was.
void Component::attribute(Cause& cause, std::uint64_t instance) const {
  const auto fault = services_.faults.on(instance);
  if (!fault) return;
  cause.deliberate = true;
  cause.fault = fault->kind() + (fault->argument().empty() ? "" : " " + fault->argument());
  const std::int64_t injected = monotonic_ns() - (wall_us() - fault->injected_unix_us()) * kMicrosecond;
  // A fault that takes effect at once dates the failure exactly.
  if (fault->kind() != "crash-at" && fault->kind() != "leak" && fault->kind() != "fdleak") {
    cause.failed_ns = std::min(injected, cause.found_ns);
  }
}

// One that was asked to yield answered until its last turn.
void Component::yielded(const Instance& instance) {
  if (instance.id == yielding_ && instance.link) {
    outage_.dark_since(instance.link->vitals().heartbeat_ns.load());
  }
}

// Of the history, what a damaged custody is judged by.
void Component::record_ladder(manifest::v1::Ladder& out) const {
  out.set_custody_damaged(custody_damaged_);
  out.set_reconciling(reconciling_);
  out.set_rebuilt_ns(history_.last(Rung::kRebuild));
  out.set_reconciled_ns(history_.last(Rung::kReconcile));
}

void Component::restore_ladder(const manifest::v1::Ladder& record) {
  custody_damaged_ = record.custody_damaged();
  reconciling_ = record.reconciling();
  if (record.rebuilt_ns() != 0) history_.record(Rung::kRebuild, record.rebuilt_ns(), ladder_policy());
  if (record.reconciled_ns() != 0) history_.record(Rung::kReconcile, record.reconciled_ns(), ladder_policy());
}

// Asks the ladder and returns the event for what it says: `otherwise` if that is what would happen anyway.
Event Component::decide(Event otherwise, bool standby_present) {
  const recovery::Situation situation{standby_present, false, why_.deliberate, custody_damaged_};
  step_ = recovery::take_step(ladder_policy(), history_, situation, services_.loop.now());
  services_.events.note(v1::Event::KIND_LADDER_STEP, name(), incarnation_,
                        std::string(name_of(step_->rung)) + ": " + step_->why);
  return_after_failure(standby_present && step_->rung == Rung::kHandOver);
  reconciling_ = step_->rung == Rung::kReconcile;
  if (reconciling_) reconcile_decided.pass();
  if (step_->rung == Rung::kIsolate) return Event::kBudgetExhausted;
  if (!standby_present || step_->rung == Rung::kHandOver) return otherwise;
  return Event::kRebuildRequired;
}

// A ready standby has nothing urgent to say but that it has taken over.
std::int64_t Component::patience_with(std::uint64_t id) {
  const Instance* instance = find_instance(id);
  return instance != nullptr && instance->role == Role::kStandby && instance->ready ? kSettle : 0;
}

void Component::on_end(Instance& instance) {
  instance.ended_ns = services_.loop.now();
  const Instance* heir = standby();
  if (instance.role != Role::kActive || heir == nullptr || !heir->ready) return reap(instance.id);
  services_.loop.unwatch(instance.process.fd());
  services_.loop.after(kSettle, [this, id = instance.id] { reap(id); });
}

void Component::reap(std::uint64_t id) {
  Instance* instance = find_instance(id);
  if (instance == nullptr) return;
  // Its last words may say why it ended.
  if (instance->link) instance->link->hear_out();
  instance = find_instance(id);
  if (instance == nullptr) return;
  if (const auto exit = instance->process.reap()) on_exit(id, *exit);
}

void Component::on_exit(std::uint64_t id, const ExitStatus& exit) {
  const auto found = instances_.find(id);
  if (found == instances_.end()) return;
  exit_before_handling.pass();
  if (found->second->output) found->second->output->drain();
  if (found->second->error_output) found->second->error_output->drain();
  const std::unique_ptr<Instance> instance = std::move(found->second);
  instances_.erase(found);
  services_.loop.unwatch(instance->process.fd());
  const std::string evidence = monitors::describe_exit(exit);
  const std::string line = "process " + std::to_string(instance->process.pid()) + ": " + evidence;
  if (instance->ending) {
    spdlog::info("{}: {}", name(), line);
  } else {
    services_.events.note(v1::Event::KIND_FINDING, name(), incarnation_, line);
  }
  switch (instance->role) {
    case Role::kActive:
      active_ended(*instance, exit, evidence);
      break;
    case Role::kStandby:
      standby_ended(*instance, evidence);
      break;
    case Role::kFormer:
      if (instance->id == superseded_) outage_.add_evidence(evidence);
      break;
  }
  services_.faults.instance_gone(id);
  forget(*instance);
  exit_after_handling.pass();
  if (instance->id == yielding_) yielding_ = 0;
  end_if_alone();
  services_.changed(name());
}

bool Component::ended_for_good(const ExitStatus& exit) const {
  if (config_.kind != ComponentKind::kForeign) return false;
  if (config_.restart.policy == RestartPolicy::kNever) return true;
  return config_.restart.policy == RestartPolicy::kOnFailure && monitors::ended_well(exit);
}

void Component::active_ended(const Instance& instance, const ExitStatus& exit, const std::string& evidence) {
  fail_queries();
  if (state_ == State::kStopping || state_ == State::kIsolated) return;
  if (ended_for_good(exit) && !instance.finding) return feed(Event::kEndedForGood, evidence);
  why_ = cause_of(instance, evidence);
  yielded(instance);
  owner_ended(evidence);
}

void Component::owner_ended(const std::string& evidence) {
  const bool heir = standby() != nullptr;
  feed(decide(heir ? Event::kActiveExitedStandbyTakesOver : Event::kActiveExitedAlone, heir), evidence);
}

void Component::standby_ended(const Instance& instance, const std::string& evidence) {
  if (state_ == State::kStopping || state_ == State::kIsolated) return;
  if (active() == nullptr && state_ == State::kRecovering) {
    // It was the heir: nobody is left.
    standby_program_failed(instance.program, true, evidence_of(instance, evidence));
    why_ = cause_of(instance, "the successor too: " + evidence);
    feed_standby(StandbyEvent::kUnwanted);
    return owner_ended(evidence);
  }
  const Cause cause = cause_of(instance, evidence);
  feed_standby(StandbyEvent::kExited);
  standby_program_failed(instance.program, instance.ready, evidence_of(instance, evidence));
  standby_failed(cause);
}

void Component::standby_failed(const Cause& cause) {
  Cause of_standby = cause;
  of_standby.evidence = "standby: " + cause.evidence;
  if (of_standby.incarnation == 0) of_standby.incarnation = incarnation_;
  if (standby_failures_.failed(name(), of_standby, services_.loop.now())) ++incidents_;
}

void Component::on_lost(std::uint64_t id, const std::string& why) {
  services_.loop.after(kLostGrace, [this, id, why] {
    const std::int64_t now = services_.loop.now();
    on_found(id, {"contract", monitors::Severity::kFailed, why, now - kLostGrace, now});
  });
}

void Component::on_found(std::uint64_t id, const monitors::Finding& finding) {
  Instance* instance = id == 0 ? active() : find_instance(id);
  if (instance == nullptr || instance->role == Role::kFormer || instance->ending) return;
  services_.events.note(v1::Event::KIND_FINDING, name(), incarnation_,
                        finding.monitor + ": " + finding.evidence);
  if (finding.severity == monitors::Severity::kWarning) return;
  // The events above show it all the same.
  if (finding.monitor == "probe" && services_.loop.now() < probe_excused_until_ns_) return;
  const bool leads = instance == owner();
  if (leads) complaint_ = finding.monitor + ": " + finding.evidence;
  services_.changed(name());
  if (finding.severity == monitors::Severity::kSuspect) {
    if (leads) return hand_over_suspect(*instance, finding);
    return;
  }
  instance->finding = finding;
  if (!leads) {
    const Cause cause = cause_of(*instance, finding.evidence);
    const std::uint64_t program = instance->program;
    const bool was_ready = instance->ready;
    feed_standby(StandbyEvent::kFinding);  // fences it; the incident is written after that
    standby_program_failed(program, was_ready, finding.monitor + ": " + finding.evidence);
    return standby_failed(cause);
  }
  why_ = cause_of(*instance, finding.evidence);
  feed(Event::kFinding, complaint_);
}

// It still works: a planned hand over before it fails, if that is possible and the budget allows it. The
// budget is taken when the successor takes over, as with every hand over.
void Component::hand_over_suspect(const Instance& instance, const monitors::Finding& finding) {
  if (state_ != State::kServing || !facts().standby_ready) return;
  Cause cause(finding.monitor, finding.evidence, finding.since_ns, finding.found_ns);
  cause.incarnation = incarnation_;
  attribute(cause, instance.id);
  const recovery::Situation situation{true, false, cause.deliberate, false};
  const auto step = recovery::next_step(ladder_policy(), history_, situation, services_.loop.now());
  if (step.rung != Rung::kHandOver) return;
  why_ = cause;
  feed(Event::kHandOverRequested, finding.monitor + ": " + finding.evidence);
}

}  // namespace bulkhead::supervisor
