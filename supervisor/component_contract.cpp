// The contract with the component's instances: what they say and what they are told.
#include <spdlog/spdlog.h>

#include <algorithm>
#include <utility>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "supervisor/component.h"
#include "supervisor/priority.h"
#include "supervisor/text.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint damage_heard{"core-damage-heard"};

constexpr std::int64_t kQueryDeadline = 2 * kSecond;
constexpr std::size_t kMaxQueries = 64;
constexpr int kMaxNames = 256;  // crash points and fault kinds of a Hello
constexpr std::size_t kMaxNameBytes = 64;
constexpr const char* kClientFinding = "client";
constexpr std::size_t kMaxTextBytes = 1024;

// What an instance says about itself is kept in the manifest: bounded.
contract::Hello bounded(contract::Hello hello) {
  while (hello.crash_points_size() > kMaxNames) hello.mutable_crash_points()->RemoveLast();
  while (hello.fault_kinds_size() > kMaxNames) hello.mutable_fault_kinds()->RemoveLast();
  const auto shorten = [](std::string& text) { text.resize(cut_text(text, kMaxNameBytes).size()); };
  std::ranges::for_each(*hello.mutable_crash_points(), shorten);
  std::ranges::for_each(*hello.mutable_fault_kinds(), shorten);
  while (hello.client_faults_size() > kMaxNames) hello.mutable_client_faults()->RemoveLast();
  std::ranges::for_each(*hello.mutable_client_faults(), shorten);
  shorten(*hello.mutable_program_version());
  return hello;
}

std::string bounded(const std::string& text) {
  return std::string(cut_text(text, kMaxTextBytes));
}

}  // namespace

Instance* Component::find_instance(std::uint64_t id) {
  const auto found = instances_.find(id);
  return found == instances_.end() ? nullptr : found->second.get();
}

Result<Instance*> Component::target(const std::string& which) {
  if (!which.empty() && which != "active" && which != "standby") {
    return failure(ErrorKind::kInvalid, "unknown target '" + which + "'; expected active or standby");
  }
  Instance* instance = which == "standby" ? standby() : active();
  if (instance != nullptr) return instance;
  return failure(ErrorKind::kRefused,
                 name() + " has no " + (which.empty() ? "active" : which) + " instance now");
}

void Component::on_message(Instance& instance, const contract::FromInstance& message,
                           std::vector<UniqueFd> fds) {
  switch (message.body_case()) {
    case contract::FromInstance::kHello:
      instance.hello = bounded(message.hello());
      programs_.learn_version(instance.program, instance.hello.program_version());
      reconciles_ = message.hello().reconciles();
      return services_.changed(name());
    case contract::FromInstance::kDeposit:
      return on_deposit(instance, message.deposit(), std::move(fds));
    case contract::FromInstance::kWithdraw:
      return on_withdraw(message.withdraw());
    case contract::FromInstance::kReady:
      return on_ready(instance);
    case contract::FromInstance::kActive:
      return on_active(instance, message.active());
    case contract::FromInstance::kFinding:
      return on_instance_finding(instance, message.finding());
    case contract::FromInstance::kReply:
      return on_reply(message.reply());
    case contract::FromInstance::kFaultRefused:
      return services_.faults.refused(message.fault_refused().id(), bounded(message.fault_refused().why()));
    case contract::FromInstance::BODY_NOT_SET:
      return;
  }
}

void Component::on_deposit(Instance& instance, const contract::CustodyItem& item, std::vector<UniqueFd> fds) {
  contract::ToInstance answer;
  UniqueFd fd = fds.size() == 1 ? std::move(fds[0]) : UniqueFd();
  auto held = custody_.deposit(item.name(), item.kind(), std::move(fd), instance.id, wall_us());
  if (!held) {
    answer.mutable_deposit_refused()->set_name(bounded(item.name()));
    answer.mutable_deposit_refused()->set_why(held.error().message());
    note_said(v1::Event::KIND_CUSTODY, "refused " + bounded(item.name()) + ": " + held.error().message());
    return instance.link->send(std::move(answer));
  }
  // The others first: once the depositor knows, a successor must be able to know too.
  for (auto& [id, other] : instances_) {
    if (other.get() != &instance && other->custody_sent) other->link->send_item(item.name(), item.kind());
  }
  answer.mutable_deposit_accepted()->set_name(item.name());
  instance.link->send(std::move(answer));
}

void Component::on_withdraw(const std::string& item) {
  const HeldItem* held = custody_.find(item);
  // The core's own, or one that it uses as its own.
  if (held != nullptr && (held->depositor == 0 || item == kListenerItem)) return;
  // Not there: a former core died between removing it and telling so.
  if (held != nullptr) (void)custody_.withdraw(item);
  contract::ToInstance message;
  message.set_withdrawn(bounded(item));
  send_all(message);
}

// Whoever follows does so on another thread, which keeps its place behind the owner; so a standby's session
// does, too.
void Component::prefer(const Instance& instance) {
  const int nice = config_.limits.nice;
  if (nice == 0 || instance.role == Role::kFormer) return;
  Status done = set_priority(instance.process, nice);
  if (done && instance.role == Role::kActive) done = set_session_priority(instance.process, nice);
  if (done || done.error().kind() == ErrorKind::kNotFound || std::exchange(priority_refused_, true)) return;
  spdlog::warn("{}: {}", name(), done.error().message());
}

void Component::on_ready(Instance& instance) {
  if (instance.role == Role::kFormer) return;
  instance.ready = true;
  prefer(instance);
  surveillance_->watch_progress(instance);
  services_.changed(name());
  const std::string cause = "process " + std::to_string(instance.process.pid()) + " is ready";
  if (instance.role == Role::kStandby) {
    standby_backoff_.served(services_.loop.now());
    feed_standby(StandbyEvent::kReady);
    standby_failures_.ready();
    if (renewal_) hand_over_renewed();
    return;
  }
  // A native component's owner says Active as well, which counts.
  if (config_.kind == ComponentKind::kNative) return;
  if (started_once_) ++restarts_;
  feed(Event::kReady, cause);
}

void Component::hand_over_renewed() {
  const Renewal renewal = *std::exchange(renewal_, std::nullopt);
  if (state_ != State::kServing) return;
  why_ = planned_cause(renewal.finding, renewal.why);
  feed(Event::kHandOverRequested, "the new standby is ready");
}

void Component::on_active(Instance& instance, const contract::Active& message) {
  // Stale: of an owner that has been succeeded already, or repeated.
  if (message.incarnation() <= incarnation_) return;
  Instance* before = active();
  takeover_ = message;
  takeover_->set_blamed_client(bounded(message.blamed_client()));
  takeover_->set_note(bounded(message.note()));
  const bool takes_over = before != &instance;
  Event event = takes_over ? Event::kSuccessorServing : Event::kReady;
  if (takes_over && before != nullptr && (state_ == State::kServing || state_ == State::kRecovering)) {
    // The kernel was faster than the exit: the ladder is asked now, for the exit will be no event any more.
    why_ = cause_of(*before, "the lease passed on");
    yielded(*before);
    event = decide(event, true);
  }
  if (takes_over && before != nullptr) supersede(*before);
  if (instance.role == Role::kStandby) feed_standby(StandbyEvent::kPromoted);
  if (started_once_) ++restarts_;
  custody_damaged_ = reconciling_ = false;
  instance.role = Role::kActive;
  instance.ready = true;
  prefer(instance);
  incarnation_ = message.incarnation();
  note_owner(instance);
  surveillance_->watch_progress(instance);
  const bool served = state_ == State::kServing;
  feed(event, "process " + std::to_string(instance.process.pid()) + " owns it" +
                  (message.note().empty() ? "" : ": " + bounded(message.note())));
  if (served && state_ == State::kServing) serving_began();
  settle_programs_later();
}

void Component::on_instance_finding(Instance& from, const contract::Finding& finding) {
  if (finding.accused() == contract::ACCUSED_SELF) return on_accusation(from, finding);
  if (finding.accused() == contract::ACCUSED_CUSTODY) {
    // It ends by itself; the ladder is asked then.
    const std::int64_t now = services_.loop.now();
    custody_damaged_ = true;
    damage_heard.pass();
    from.finding = {bounded(finding.finding()), monitors::Severity::kFailed, bounded(finding.evidence()), now,
                    now};
  }
  if (finding.accused() == contract::ACCUSED_OWNER) {
    Instance* accused = active();
    // Late: that owner has been succeeded.
    if (accused == nullptr || accused == &from || finding.incarnation() != incarnation_) return;
    return on_accusation(*accused, finding);
  }
  std::string text = bounded(finding.finding()) + ": " + bounded(finding.evidence());
  if (!finding.client().empty()) text += " (client " + bounded(finding.client()) + ")";
  const bool said = note_said(v1::Event::KIND_FINDING, std::move(text));
  if (said && finding.finding() == kClientFinding) blame_client(finding);
}

// A client was cut off: an incident that touched nobody else.
void Component::blame_client(const contract::Finding& finding) {
  v1::Incident incident;
  incident.set_component(name());
  incident.set_incarnation(incarnation_);
  incident.set_finding(kClientFinding);
  incident.set_evidence(bounded(finding.evidence()));
  incident.set_blamed_client(bounded(finding.client()));
  incident.add_steps("cut off");
  incident.set_detection_us(-1);
  incident.set_outcome("recovered");
  incident.set_next_step("cut off again");
  services_.incidents.open(std::move(incident));
  ++incidents_;
  services_.changed(name());
}

void Component::on_accusation(Instance& accused, const contract::Finding& finding) {
  const std::int64_t now = services_.loop.now();
  on_found(accused.id,
           {bounded(finding.finding()), monitors::Severity::kFailed, bounded(finding.evidence()), now, now});
}

// An instance, or a client through it, may say the same thousands of times a second.
bool Component::note_said(v1::Event::Kind kind, std::string text) {
  if (!said_.take(services_.loop.now())) {
    ++unsaid_;
    return false;
  }
  if (unsaid_ > 0) text += " (" + std::to_string(std::exchange(unsaid_, 0)) + " before it are not shown)";
  services_.events.note(kind, name(), incarnation_, std::move(text));
  return true;
}

void Component::send_all(const contract::ToInstance& message) {
  for (auto& [id, instance] : instances_) {
    if (instance->link) instance->link->send(message);
  }
}

// ---- queries ----

void Component::query(const std::string& what, Reply reply, const std::string& body) {
  Instance* instance = active();
  if (instance == nullptr || !instance->link || !instance->ready) {
    return reply(failure(ErrorKind::kRefused, name() + " has no active instance to ask"));
  }
  if (queries_.size() >= kMaxQueries) {
    return reply(failure(ErrorKind::kExhausted, name() + " has too many questions to answer"));
  }
  const std::uint64_t id = ++last_query_;
  queries_.emplace(id, std::move(reply));
  contract::ToInstance message;
  message.mutable_query()->set_id(id);
  message.mutable_query()->set_what(what);
  message.mutable_query()->set_body(body);
  instance->link->send(std::move(message));
  services_.loop.after(kQueryDeadline, [this, id] {
    answer_query(id, failure(ErrorKind::kTimeout, name() + " does not answer"));
  });
}

void Component::answer_query(std::uint64_t id, Result<std::string> answer) {
  const auto found = queries_.find(id);
  if (found == queries_.end()) return;
  const Reply reply = std::move(found->second);
  queries_.erase(found);
  reply(std::move(answer));
}

void Component::on_reply(const contract::QueryReply& reply) {
  if (reply.error().empty()) return answer_query(reply.id(), reply.body());
  answer_query(reply.id(), failure(ErrorKind::kFailed, bounded(reply.error())));
}

void Component::fail_queries() {
  while (!queries_.empty()) {
    answer_query(queries_.begin()->first, failure(ErrorKind::kDisconnected, name() + " was being recovered"));
  }
}

}  // namespace bulkhead::supervisor
