// Programs: a new one takes over while the former is kept, and is given up again if it fails on probation.
// What a successor of the core sees between two of these steps: docs/crash-windows.md.
#include <algorithm>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "supervisor/component.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint upgrade_intended{"core-upgrade-intended"};
CrashPoint programs_settled{"core-programs-settled"};

constexpr std::int64_t kBusyRetry = kSecond;

}  // namespace

// ---- which program a process is started from ----

// The first start takes what is on disk; from then on that very file counts.
Status Component::prepare_program() {
  if (config_.kind != ComponentKind::kNative || programs_.in_use() != nullptr) return {};
  auto program = launcher_.open_configured();
  if (!program) return forward(std::move(program));
  program->number = services_.new_instance();
  return programs_.begin(std::move(*program));
}

// During probation the standby is of the kept program: if the new one fails, the kernel itself goes back.
std::uint64_t Component::program_for(Role role) const {
  const Program* chosen = programs_.in_use();
  if (role == Role::kStandby) {
    const bool former = programs_.on_probation() && !renewal_ && !kept_cannot_follow_;
    if (programs_.candidate() != nullptr) {
      chosen = programs_.candidate();
    } else if (former) {
      chosen = programs_.kept();
    }
  }
  return chosen == nullptr ? 0 : chosen->number;
}

void Component::adopt_programs(const manifest::v1::Component& record,
                               std::map<std::uint64_t, UniqueFd>& parked) {
  programs_.adopt(record, parked);
}

// One that was started by a core that kept no programs: what it runs is the program in use.
void Component::adopt_program_of(Instance& instance) {
  if (config_.kind != ComponentKind::kNative || programs_.find(instance.program) != nullptr) return;
  auto program = program_of_process(instance.process.pid(), launcher_.program());
  if (!program) return;
  if (const Program* known = programs_.in_use(); known != nullptr) {
    if (known->id == program->id) instance.program = known->number;
    return;
  }
  program->number = services_.new_instance();
  program->version = instance.hello.program_version();
  if (programs_.begin(std::move(*program))) instance.program = programs_.in_use()->number;
}

// ---- operators ----

Status Component::may_change_program() const {
  if (config_.kind != ComponentKind::kNative) {
    return failure(ErrorKind::kRefused,
                   name() + " is a foreign component: 'restart' starts the program that is on disk");
  }
  if (renewal_ || programs_.candidate() != nullptr) {
    return failure(ErrorKind::kRefused, name() + " is being restarted or upgraded already");
  }
  if (state_ == State::kServing || state_ == State::kStopped || state_ == State::kIsolated) return {};
  return failure(ErrorKind::kRefused,
                 name() + " is " + std::string(name_of(state_)) + ": an upgrade makes no sense now");
}

Result<Program> Component::open_new_program(const std::string& path) const {
  if (programs_.on_probation()) {
    return failure(ErrorKind::kRefused, name() + ": " + told(*programs_.in_use()) +
                                            " is on probation: wait until it is over, or return to " +
                                            told(*programs_.kept()));
  }
  if (!path.empty() && !path.starts_with('/')) {
    return failure(ErrorKind::kInvalid, "'" + path + "' is not an absolute path");
  }
  auto program = path.empty() ? launcher_.open_configured() : open_program(path);
  if (!program) return program;
  if (!path.empty()) {
    if (auto trusted = check_trusted(*program); !trusted) return forward(std::move(trusted));
  }
  const Program* now = programs_.in_use();
  if (now == nullptr || now->id != program->id) return program;
  return failure(ErrorKind::kRefused, name() + " runs " + told(*now) + " already, and " + program->path +
                                          " is the same: 'restart' replaces the processes");
}

void Component::upgrade(const std::string& path, Done done) {
  if (auto may = may_change_program(); !may) return done(std::move(may));
  auto program = open_new_program(path);
  if (!program) return done(forward(std::move(program)));
  program->number = services_.new_instance();
  if (auto held = programs_.propose(std::move(*program)); !held) return done(std::move(held));
  begin_upgrade("upgrade to " + told(*programs_.candidate()) + " requested by an operator", std::move(done));
}

void Component::roll_back(Done done) {
  if (auto may = may_change_program(); !may) return done(std::move(may));
  if (programs_.kept() == nullptr) {
    return done(failure(ErrorKind::kRefused, name() + ": no older program is kept"));
  }
  programs_.propose_kept();
  begin_upgrade("return to " + told(*programs_.kept()) + " requested by an operator", std::move(done));
}

void Component::begin_upgrade(const std::string& why, Done done) {
  services_.persist();
  upgrade_intended.pass();
  upgrade_waiters_.push_back({programs_.candidate()->number, std::move(done)});
  renewal_ = Renewal{"upgrade", why};
  if (state_ == State::kServing && config_.standby) return renew_with_candidate();
  // Nobody could take over: the processes, if there are any, end before the new program starts.
  commit_upgrade();
  settle_programs();
  if (state_ == State::kServing) {
    feed(Event::kRestartCold, why);
  } else if (state_ == State::kIsolated) {
    feed(Event::kEnable, why);
  }
  services_.changed(name());
  settle_upgrades();
}

void Component::renew_with_candidate() {
  services_.changed(name());
  const Instance* other = standby();
  const bool there = other != nullptr && other->program == programs_.candidate()->number;
  if (!there) return feed_standby(StandbyEvent::kRenew);
  if (other->ready) hand_over_renewed();
}

// ---- how it goes ----

// One of its processes owns the component now.
void Component::note_owner(const Instance& instance) {
  const Program* candidate = programs_.candidate();
  if (candidate != nullptr && candidate->number == instance.program) return commit_upgrade();
  if (!programs_.on_probation() || instance.program != programs_.kept()->number) return;
  // The new program's process was ended on purpose, which says nothing against it.
  programs_.try_again();
  arm_probation();
  renewal_ = Renewal{"upgrade", "upgrade to " + told(*programs_.candidate()) + ", again"};
  services_.events.note(v1::Event::KIND_SUPERVISOR, name(), incarnation_, renewal_->why);
}

void Component::commit_upgrade() {
  const std::int64_t probation = config_.upgrade_probation_ns;
  programs_.commit(probation > 0 ? services_.loop.now() + probation : 0);
  renewal_.reset();
  kept_cannot_follow_ = false;
  arm_probation();
  services_.events.note(v1::Event::KIND_SUPERVISOR, name(), incarnation_,
                        told(*programs_.in_use()) + " is the program in use" +
                            (programs_.on_probation() ? ", on probation" : ""));
}

void Component::abandon_upgrade(const std::string& why) {
  if (programs_.candidate() == nullptr) return;
  const std::string what = programs_.returning() ? "return to " : "upgrade to ";
  std::string text = what + told(*programs_.candidate()) + " failed: " + why;
  if (programs_.in_use() != nullptr) text += "; " + told(*programs_.in_use()) + " goes on";
  upgrade_failure_ = name() + ": " + text;
  services_.events.note(v1::Event::KIND_FINDING, name(), incarnation_, text);
  programs_.abandon();
  renewal_.reset();
  settle_programs_later();
  settle_upgrades();
}

// A standby of this program failed.
void Component::standby_program_failed(std::uint64_t program, bool was_ready, const std::string& why) {
  const Program* candidate = programs_.candidate();
  if (candidate != nullptr && candidate->number == program) return abandon_upgrade(why);
  if (was_ready || !programs_.on_probation() || programs_.kept()->number != program) return;
  kept_cannot_follow_ = true;
  services_.events.note(
      v1::Event::KIND_FINDING, name(), incarnation_,
      told(*programs_.kept()) + " cannot follow, so going back would take a rebuild: " + why);
}

// The owner failed. If that was the new program's fault, whoever starts next is of the kept one again.
void Component::return_after_failure(bool heir_takes_over) {
  if (!programs_.on_probation() || why_.deliberate) return;
  const Instance* heir = heir_takes_over ? standby() : nullptr;
  // Of the same program; if it fails as well, the kept one is next.
  if (heir != nullptr && heir->program != programs_.kept()->number) return;
  const std::string text =
      "went back to " + told(*programs_.kept()) + ": " + told(*programs_.in_use()) + " failed on probation";
  upgrade_failure_ = name() + ": " + text + ": " + why_.evidence;
  programs_.go_back();
  renewal_.reset();
  arm_probation();
  services_.events.note(v1::Event::KIND_SUPERVISOR, name(), incarnation_, text);
  if (outage_.is_open()) {
    outage_.add_evidence(text);
  } else {
    why_.evidence += "; " + text;
  }
  settle_programs_later();
}

// ---- probation ----

void Component::arm_probation() {
  services_.loop.cancel(std::exchange(probation_timer_, 0));
  if (!programs_.on_probation()) return;
  probation_timer_ = services_.loop.at(programs_.probation_ends_ns(), [this] { end_probation(); });
}

void Component::end_probation() {
  probation_timer_ = 0;
  if (!programs_.on_probation()) return;
  // In the middle of something: the standby may be about to own the component.
  if (state_ != State::kServing || renewal_ || programs_.candidate() != nullptr) {
    probation_timer_ = services_.loop.after(kBusyRetry, [this] { end_probation(); });
    return;
  }
  programs_.end_probation();
  services_.events.note(v1::Event::KIND_SUPERVISOR, name(), incarnation_,
                        told(*programs_.in_use()) + " has passed its probation");
  const Instance* other = standby();
  if (other != nullptr && other->program != programs_.in_use()->number) feed_standby(StandbyEvent::kRenew);
  services_.changed(name());
}

// ---- books ----

void Component::settle_programs() {
  services_.persist();
  if (!programs_.given_up()) return;
  programs_settled.pass();
  programs_.sweep();
}

// Not in the middle of a turn, when the manifest would tell half of what happens.
void Component::settle_programs_later() {
  services_.loop.after(0, [this] { settle_programs(); });
}

void Component::settle_upgrades() {
  std::vector<std::pair<Done, Status>> due;
  std::erase_if(upgrade_waiters_, [&](UpgradeWaiter& waiter) {
    auto status = upgrade_verdict(waiter.program);
    if (status) due.emplace_back(std::move(waiter.done), std::move(*status));
    return status.has_value();
  });
  for (auto& [done, status] : due) done(std::move(status));
}

// Unset: not yet.
std::optional<Status> Component::upgrade_verdict(std::uint64_t program) const {
  if (programs_.candidate() != nullptr && programs_.candidate()->number == program) return std::nullopt;
  if (programs_.in_use() == nullptr || programs_.in_use()->number != program) {
    return failure(ErrorKind::kFailed, upgrade_failure_);
  }
  if (state_ == State::kServing || state_ == State::kStopped) return Status();
  if (state_ != State::kIsolated) return std::nullopt;
  return failure(ErrorKind::kFailed, name() + " is " + std::string(name_of(state_)) + ": " + cause_);
}

// ---- after a core that died meanwhile ----

void Component::resume_upgrade() {
  const Instance* owns = active();
  const Program* kept = programs_.kept();
  const Program* candidate = programs_.candidate();
  if (owns != nullptr && candidate != nullptr && owns->program == candidate->number) {
    commit_upgrade();
  } else if (owns != nullptr && programs_.on_probation() && kept != nullptr &&
             owns->program == kept->number) {
    // The former core went back, or died before it could say why not to.
    programs_.go_back();
  }
  arm_probation();
  settle_programs();
  candidate = programs_.candidate();
  if (candidate == nullptr) return;
  renewal_ = Renewal{"upgrade", "upgrade to " + told(*candidate) + ", begun by a former core"};
  if (state_ == State::kServing) return renew_with_candidate();
  if (instances_.empty()) abandon_upgrade("no process was left when the core was restarted");
}

}  // namespace bulkhead::supervisor
