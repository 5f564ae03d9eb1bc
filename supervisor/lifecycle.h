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
  // Dependencies.
  kDependenciesReady,
  kDependencyLost,
  // The core found instances running at its own start.
  kAdoptedServing,   // one of them owns the component
  kAdoptedOrphaned,  // instances, but none owns the component (yet)
  // Processes.
  kLaunched,
  kLaunchFailed,      // no process came to be
  kReady,             // the instance being started serves
  kSuccessorServing,  // another instance than the known active one serves now (it may be seen before the
                      // exit)
  kActiveExitedStandbyTakesOver,  // the kernel has passed the lease to the standby; the ladder agrees
  kActiveExitedAlone,             // no other instance is left; the ladder says start again
  kRebuildRequired,               // others are left, but the ladder says start again from custody alone
  kEndedForGood,                  // foreign: exited, and its restart policy says leave it
  kAllExited,                     // last_exit_event(): no process is left and none is wanted
  kAllExitedWanted,               // last_exit_event(): no process is left but the component is wanted
  kFinding,                       // a monitor: the active instance must be replaced
  // Timers: the component has one, the newest arm_* action owns it.
  kStartTimeout,
  kHandOverTimeout,
  kStopTimeout,
  kBackoffElapsed,            // backoff_elapsed_event(): dependencies are ready
  kBackoffElapsedDependency,  // backoff_elapsed_event(): one is not
  // Policy.
  kBudgetExhausted,  // the ladder says isolate
  kHealthSustained,  // serving for restart.reset_after without a failure
};
inline constexpr std::size_t kEvents = 28;

enum class Action : unsigned char {
  kSetWanted,
  kClearWanted,
  kCheckDependencies,  // feeds kDependenciesReady at once if they are
  kLaunchActive,       // feeds kLaunched or kLaunchFailed
  kKeepStandby,        // StandbyEvent::kWanted, if configured
  kRenewStandby,       // StandbyEvent::kRenew; when it is ready: kHandOverRequested
  kFenceActive,        // SIGKILL to the instance that owns the component (or is starting to)
  kAskYield,           // the active instance ends at its next safe boundary
  kAskStop,   // every instance; standby: kUnwanted. When none is left (also if none was): *_exited event
  kAskDrain,  // the same, after work in progress
  kKillAll,   // SIGKILL to every instance, standby: kUnwanted. When none is left: *_exited event
  kArmStart,  // these arm the one timer
  kArmHandOver,
  kArmStop,
  kArmBackoff,
  kCancelTimer,
  kOpenIncident,   // unless one is open; then the step is added to it
  kCloseIncident,  // if one is open; outcome by the new state
  kResetBackoff,   // back-off and ladder forget earlier failures
  kRefuse,         // an operator's request that makes no sense in this state; nothing happens
};

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

enum class StandbyState : unsigned char {
  kNone,      // not wanted, no process
  kStarting,  // follows, not caught up
  kReady,     // can take over
  kBackoff,   // no process; the next attempt is timed
};
inline constexpr std::size_t kStandbyStates = 4;

enum class StandbyEvent : unsigned char {
  kWanted,
  kUnwanted,  // the component stops, is killed or isolated
  kReady,
  kPromoted,  // it owns the component now; it is no standby any more
  kExited,
  kLaunchFailed,
  kStartTimeout,
  kBackoffElapsed,
  kRenew,           // replace it (restart in place, a fault cleared)
  kFinding,         // a monitor: it must be replaced
  kHealthSustained  // ready for restart.reset_after
};
inline constexpr std::size_t kStandbyEvents = 11;

enum class StandbyAction : unsigned char {
  kLaunch,      // feeds kLaunchFailed when there is no process
  kFence,       // SIGKILL; its exit is awaited elsewhere and is no event here
  kArmStart,    // these arm the standby's own timer
  kArmBackoff,  // with the standby's own back-off, so a crash-looping standby burns no CPU
  kCancelTimer,
  kResetBackoff,
};

struct StandbyTransition {
  StandbyState next;
  std::array<StandbyAction, 4> items;
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
