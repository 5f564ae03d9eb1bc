// The life cycle of a component as one complete table, state x event -> {next state, actions}, and a second
// small one for its standby. Pure: no system call, no clock, no component name. The caller performs the
// actions in order and feeds the events.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace bulkhead::supervisor {

// Numbers as in bulkhead.v1.State.
enum class State : unsigned char {
  kStopped = 1,     // not wanted; no process
  kWaiting = 2,     // wanted; a dependency is not ready; no process
  kStarting = 3,    // first attempt: a process runs, none has reported ready
  kServing = 4,     // an instance is active and ready
  kRecovering = 5,  // the active instance failed or yields; a successor takes over or is being built
  kBackoff = 6,     // wanted; no process; the next attempt is timed
  kStopping = 7,    // asked to end; processes may remain
  kIsolated = 8,    // stuck, needs a human; remaining processes have been killed
};
inline constexpr std::size_t kStates = 8;

enum class Event : unsigned char {
  // An operator, or the configuration at start.
  kEnable,
  kDisable,            // stop now
  kDrain,              // stop after work in progress
  kRestartInPlace,     // restart_event(): a standby can take over; renew it, then hand over
  kRestartCold,        // restart_event(): stop, then start
  kHandOverRequested,  // a standby is ready (the caller has checked); also the ladder's pro-active hand over
  // Dependencies: they order starts. Nothing that runs is stopped because a dependency is.
  kDependenciesReady,
  kDependencyLost,
  // The core found instances running at its own start.
  kAdoptedServing,   // one of them owns the component
  kAdoptedStarting,  // its first start was under way
  kAdoptedOrphaned,  // instances, but none owns the component (yet)
  // Processes.
  kLaunchFailed,      // no process came to be
  kReady,             // the instance being started serves
  kSuccessorServing,  // another instance than the known active one serves now (may be seen before the exit)
  kActiveExitedStandbyTakesOver,  // the kernel has passed the lease to the standby; the ladder agrees
  kActiveExitedAlone,             // no other instance is left; the ladder says start again
  kRebuildRequired,               // others are left, but the ladder says start again from custody alone
  kEndedForGood,                  // foreign: exited, and its restart policy says leave it
  kAllExited,                     // last_exit_event(): no process is left and none is wanted
  kAllExitedWanted,               // last_exit_event(): no process is left but the component is wanted
  kFinding,                       // a monitor: the active instance must be replaced
  // Timers: a component has one; the newest kArm* action owns it.
  kStartTimeout,
  kHandOverTimeout,
  kStopTimeout,
  kBackoffElapsed,            // backoff_elapsed_event(): dependencies are ready
  kBackoffElapsedDependency,  // backoff_elapsed_event(): one is not
  // Policy.
  kBudgetExhausted,  // the ladder says isolate (instead of the event for what failed)
  kHealthSustained,  // serving for restart.reset_after without a failure
};
inline constexpr std::size_t kEvents = 28;

// Performed in order. Events that an action feeds are handled after the last action of the list.
enum class Action : unsigned char {
  kSetWanted,
  kClearWanted,
  kCheckDependencies,  // feeds kDependenciesReady if they are
  kLaunchActive,       // feeds kLaunchFailed when no process came to be
  kKeepStandby,        // StandbyEvent::kWanted, if one is configured
  kRenewStandby,       // StandbyEvent::kRenew; when the new one is ready: kHandOverRequested
  kDropStandby,        // StandbyEvent::kUnwanted
  kFenceActive,        // SIGKILL to the instance that owns the component, or is to own it
  kAskYield,           // the active instance ends at its next safe boundary
  kAskStop,            // standby: kUnwanted; then every other instance is asked to end
  kAskDrain,           // the same, after work in progress
  kKillAll,            // standby: kUnwanted; then SIGKILL to every instance
  // After kAskStop, kAskDrain and kKillAll last_exit_event() follows when no instance is left, also if there
  // was none.
  kArmStart,
  kArmHandOver,
  kArmStop,
  kArmBackoff,
  kCancelTimer,
  kOpenIncident,   // unless one is open: then this is another step of it
  kCloseIncident,  // if one is open; its outcome follows from the new state
  kResetBackoff,   // back-off and ladder forget earlier failures
  kRefuse,         // an operator's request that makes no sense in this state; nothing happens
};
inline constexpr std::size_t kActions = 21;

// A list small enough to live in a constant table.
class Actions {
 public:
  static constexpr std::size_t kMax = 6;
  constexpr Actions() = default;
  constexpr Actions(std::initializer_list<Action> list) {
    for (const Action action : list) items_[count_++] = action;  // too long: not a constant expression
  }
  constexpr const Action* begin() const { return items_.data(); }
  constexpr const Action* end() const { return items_.data() + count_; }
  constexpr std::size_t size() const { return count_; }
  constexpr bool contains(Action wanted) const {
    for (const Action action : *this)
      if (action == wanted) return true;
    return false;
  }

 private:
  std::array<Action, kMax> items_{};
  std::size_t count_ = 0;
};

struct Transition {
  State next;
  Actions actions;
};

// The table's cell.
const Transition& transition(State state, Event event);

// Separate from the state: what is so, whatever the life cycle thinks of it.
struct Facts {
  bool wanted = false;   // the operator and the configuration want it
  bool running = false;  // at least one process
  bool ready = false;    // an instance is active and has reported ready
  bool healthy = false;  // ready, and no monitor complains
  bool standby_running = false;
  bool standby_ready = false;
  bool dependencies_ready = false;
};

// Where one happening has two meanings, the facts choose the event.
constexpr Event last_exit_event(const Facts& facts) {
  return facts.wanted ? Event::kAllExitedWanted : Event::kAllExited;
}
constexpr Event backoff_elapsed_event(const Facts& facts) {
  return facts.dependencies_ready ? Event::kBackoffElapsed : Event::kBackoffElapsedDependency;
}
constexpr Event restart_event(bool has_standby) {
  return has_standby ? Event::kRestartInPlace : Event::kRestartCold;
}

// ---- the standby of a serving component ----
// A second table, because its failures do not touch the component's state: it is launched whenever the
// component serves without one, and a crash-looping standby slows itself down with a back-off of its own.

enum class StandbyState : unsigned char {
  kNone,      // not wanted, no process
  kStarting,  // follows, not caught up
  kReady,     // can take over
  kBackoff,   // no process; the next attempt is timed
};
inline constexpr std::size_t kStandbyStates = 4;

enum class StandbyEvent : unsigned char {
  kWanted,
  kUnwanted,  // the component stops, starts again or is isolated
  kReady,
  kPromoted,  // it owns the component now and is no standby any more; fed before kSuccessorServing
  kExited,    // by itself, not fenced
  kLaunchFailed,
  kStartTimeout,
  kBackoffElapsed,
  kRenew,    // replace it
  kFinding,  // a monitor: it must be replaced
};
inline constexpr std::size_t kStandbyEvents = 10;

enum class StandbyAction : unsigned char {
  kLaunch,    // feeds kLaunchFailed when no process came to be
  kFence,     // SIGKILL; from now on the process is nobody's standby and its exit no event here
  kArmStart,  // these arm the standby's own timer
  kArmBackoff,
  kCancelTimer,
};
inline constexpr std::size_t kStandbyActions = 5;

struct StandbyTransition {
  StandbyState next;
  std::array<StandbyAction, 3> items;
  std::size_t count;
  constexpr const StandbyAction* begin() const { return items.data(); }
  constexpr const StandbyAction* end() const { return items.data() + count; }
};
const StandbyTransition& transition(StandbyState state, StandbyEvent event);

std::string_view name_of(State state);  // "serving"
std::string_view name_of(Event event);
std::string_view name_of(Action action);
std::string_view name_of(StandbyState state);
std::string_view name_of(StandbyEvent event);
std::string_view name_of(StandbyAction action);

}  // namespace bulkhead::supervisor
