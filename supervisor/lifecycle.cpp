#include "supervisor/lifecycle.h"

namespace bulkhead::supervisor {

namespace {

struct Cell {
  bool given = false;
  bool stays = false;
  State next = State::kStopped;
  Actions actions;
};

constexpr Cell to(State next, std::initializer_list<Action> actions) {
  return {true, false, next, Actions(actions)};
}
constexpr Cell stay(std::initializer_list<Action> actions) {
  return {true, true, State::kStopped, Actions(actions)};
}
// Nothing to do: the event is stale, impossible here, or only changes facts.
constexpr Cell kSame = stay({});
constexpr Cell kNo = stay({Action::kRefuse});

struct Row {
  Event event;
  std::array<Cell, kStates> cells;
};

using enum State;
using enum Action;

// What several events do alike.
constexpr Cell kTryAgain = to(kWaiting, {kSetWanted, kResetBackoff, kCheckDependencies});
constexpr Cell kStop = to(kStopping, {kClearWanted, kCloseIncident, kArmStop, kAskStop});
constexpr Cell kStopDraining = to(kStopping, {kClearWanted, kCloseIncident, kArmStop, kAskDrain});
constexpr Cell kStopRemains = to(kStopping, {kClearWanted, kArmStop, kKillAll});
constexpr Cell kStopBeforeStart = to(kStopped, {kClearWanted, kCancelTimer, kCloseIncident});
constexpr Cell kStopThenStart = to(kStopping, {kArmStop, kAskStop});
constexpr Cell kServes = to(kServing, {kCancelTimer, kCloseIncident, kKeepStandby});
constexpr Cell kAwaitSuccessor = to(kRecovering, {kOpenIncident, kArmStart});
constexpr Cell kWaitAndRetry = to(kBackoff, {kOpenIncident, kDropStandby, kArmBackoff});
// Fencing first: the incident is written to a disk, which may hang.
constexpr Cell kReplaceActive = to(kRecovering, {kFenceActive, kArmStart, kOpenIncident});
// The exits that follow lead on to kWaitAndRetry; the timer is for processes that do not die even of SIGKILL.
constexpr Cell kReplaceAll = to(kRecovering, {kKillAll, kArmStart, kOpenIncident});
constexpr Cell kEnd = to(kStopped, {kClearWanted, kCancelTimer, kCloseIncident, kDropStandby});
constexpr Cell kGiveUp = to(kIsolated, {kKillAll, kCancelTimer, kOpenIncident, kCloseIncident});

// clang-format off
constexpr std::array<Row, kEvents> kRows = {{
  // Columns: stopped, waiting, starting, serving, recovering, backoff, stopping, isolated.
  {Event::kEnable,
   {kTryAgain, kSame, kSame, kSame, kSame, kSame, stay({kSetWanted}), kTryAgain}},
  {Event::kDisable,
   {stay({kClearWanted}), kStopBeforeStart, kStop, kStop, kStop, kStopBeforeStart,
    stay({kClearWanted, kArmStop, kAskStop}), kStopRemains}},
  {Event::kDrain,
   {stay({kClearWanted}), kStopBeforeStart, kStopDraining, kStopDraining, kStopDraining, kStopBeforeStart,
    stay({kClearWanted}), kStopRemains}},
  {Event::kRestartInPlace,
   {kNo, kNo, kStopThenStart, stay({kRenewStandby}), kNo,
    to(kWaiting, {kResetBackoff, kCancelTimer, kCheckDependencies}), kNo, kTryAgain}},
  {Event::kRestartCold,
   {kNo, kNo, kStopThenStart, kStopThenStart, kNo,
    to(kWaiting, {kResetBackoff, kCancelTimer, kCheckDependencies}), kNo, kTryAgain}},
  {Event::kHandOverRequested,
   {kNo, kNo, kNo, to(kRecovering, {kOpenIncident, kArmHandOver, kAskYield}), kNo, kNo, kNo, kNo}},

  {Event::kDependenciesReady,
   {kSame, to(kStarting, {kArmStart, kLaunchActive}), kSame, kSame, kSame, kSame, kSame, kSame}},
  {Event::kDependencyLost,
   {kSame, kSame, kSame, kSame, kSame, kSame, kSame, kSame}},

  {Event::kAdoptedServing,
   {to(kServing, {kSetWanted, kKeepStandby}), to(kServing, {kKeepStandby}), kSame, kSame, kSame, kSame, kSame, kSame}},
  {Event::kAdoptedStarting,
   {to(kStarting, {kSetWanted, kArmStart}), to(kStarting, {kArmStart}), kSame, kSame, kSame, kSame, kSame, kSame}},
  {Event::kAdoptedOrphaned,
   {to(kRecovering, {kSetWanted, kOpenIncident, kArmStart}), kAwaitSuccessor, kSame, kSame, kSame, kSame, kSame, kSame}},

  {Event::kLaunchFailed,
   {kSame, kSame, kWaitAndRetry, kSame, kWaitAndRetry, kSame, kSame, kSame}},
  {Event::kReady,
   {kSame, kSame, kServes, kSame, kServes, kSame, kSame, kSame}},
  {Event::kSuccessorServing,
   {kSame, kSame, kServes, stay({kOpenIncident, kCloseIncident, kKeepStandby}), kServes, kSame, kSame, kSame}},
  {Event::kActiveExitedStandbyTakesOver,
   {kSame, kSame, kAwaitSuccessor, kAwaitSuccessor, kAwaitSuccessor, kSame, kSame, kSame}},
  {Event::kActiveExitedAlone,
   {kSame, kSame, kWaitAndRetry, kWaitAndRetry, kWaitAndRetry, kSame, kSame, kSame}},
  {Event::kRebuildRequired,
   {kSame, kSame, kReplaceAll, kReplaceAll, kReplaceAll, kSame, kSame, kSame}},
  {Event::kEndedForGood,
   {kSame, kSame, kEnd, kEnd, kEnd, kSame, kSame, kSame}},
  {Event::kAllExited,
   {kSame, kSame, kEnd, kEnd, kEnd, kSame, to(kStopped, {kCancelTimer, kCloseIncident}), kSame}},
  {Event::kAllExitedWanted,
   {kSame, kSame, kWaitAndRetry, kWaitAndRetry, kWaitAndRetry, kSame,
    to(kWaiting, {kCancelTimer, kCheckDependencies}), kSame}},
  {Event::kFinding,
   {kSame, kSame, kReplaceActive, kReplaceActive, kReplaceActive, kSame, kSame, kSame}},

  {Event::kStartTimeout,
   {kSame, kSame, kReplaceAll, kSame, kReplaceAll, kSame, kSame, kSame}},
  {Event::kHandOverTimeout,
   {kSame, kSame, kSame, kSame, stay({kArmStart, kFenceActive}), kSame, kSame, kSame}},
  {Event::kStopTimeout,
   {kSame, kSame, kSame, kSame, kSame, kSame, stay({kArmStop, kKillAll}), kSame}},
  {Event::kBackoffElapsed,
   {kSame, kSame, kSame, kSame, kSame, to(kRecovering, {kArmStart, kLaunchActive}), kSame, kSame}},
  {Event::kBackoffElapsedDependency,
   {kSame, kSame, kSame, kSame, kSame, to(kWaiting, {}), kSame, kSame}},

  {Event::kBudgetExhausted,
   {kSame, kGiveUp, kGiveUp, kGiveUp, kGiveUp, kGiveUp, kSame, kSame}},
  {Event::kHealthSustained,
   {kSame, kSame, kSame, stay({kResetBackoff}), kSame, kSame, kSame, kSame}},
}};
// clang-format on

template <std::size_t Rows, std::size_t Columns, typename RowType>
constexpr bool complete(const std::array<RowType, Rows>& rows) {
  for (std::size_t i = 0; i < Rows; ++i) {
    if (static_cast<std::size_t>(rows[i].event) != i) return false;
    for (const auto& cell : rows[i].cells)
      if (!cell.given) return false;
  }
  return true;
}
static_assert(complete<kEvents, kStates>(kRows),
              "every event has one row, in order, with a cell for every state");
static_assert(static_cast<std::size_t>(Event::kHealthSustained) + 1 == kEvents);
static_assert(static_cast<std::size_t>(State::kIsolated) == kStates);
static_assert(static_cast<std::size_t>(Action::kRefuse) + 1 == kActions);

constexpr std::array<std::array<Transition, kEvents>, kStates> build_table() {
  std::array<std::array<Transition, kEvents>, kStates> table{};
  for (std::size_t event = 0; event < kEvents; ++event) {
    for (std::size_t state = 0; state < kStates; ++state) {
      const Cell& cell = kRows[event].cells[state];
      table[state][event] = {cell.stays ? static_cast<State>(state + 1) : cell.next, cell.actions};
    }
  }
  return table;
}
constexpr auto kTable = build_table();

// ---- standby ----

struct StandbyCell {
  bool given = false;
  bool stays = false;
  StandbyTransition transition{};
};
struct StandbyRow {
  StandbyEvent event;
  std::array<StandbyCell, kStandbyStates> cells;
};
using S = StandbyState;
using A = StandbyAction;

constexpr StandbyCell go(StandbyState next, std::initializer_list<StandbyAction> actions) {
  StandbyCell cell{true, false, {next, {}, 0}};
  for (const StandbyAction action : actions) cell.transition.items[cell.transition.count++] = action;
  return cell;
}
constexpr StandbyCell kAsIs{true, true, {}};
constexpr StandbyCell kBegin = go(S::kStarting, {A::kArmStart, A::kLaunch});
constexpr StandbyCell kReplace = go(S::kStarting, {A::kFence, A::kArmStart, A::kLaunch});
constexpr StandbyCell kLater = go(S::kBackoff, {A::kArmBackoff});
constexpr StandbyCell kFenceAndLater = go(S::kBackoff, {A::kFence, A::kArmBackoff});
constexpr StandbyCell kAway = go(S::kNone, {A::kCancelTimer, A::kFence});
constexpr StandbyCell kLetGo = go(S::kNone, {A::kCancelTimer});

// clang-format off
constexpr std::array<StandbyRow, kStandbyEvents> kStandbyRows = {{
  // Columns: none, starting, ready, backoff.
  {StandbyEvent::kWanted,         {kBegin, kAsIs, kAsIs, kAsIs}},
  {StandbyEvent::kUnwanted,       {kAsIs, kAway, kAway, kLetGo}},
  {StandbyEvent::kReady,          {kAsIs, go(S::kReady, {A::kCancelTimer}), kAsIs, kAsIs}},
  {StandbyEvent::kPromoted,       {kAsIs, kLetGo, kLetGo, kAsIs}},
  {StandbyEvent::kExited,         {kAsIs, kLater, kLater, kAsIs}},
  {StandbyEvent::kLaunchFailed,   {kAsIs, kLater, kAsIs, kAsIs}},
  {StandbyEvent::kStartTimeout,   {kAsIs, kFenceAndLater, kAsIs, kAsIs}},
  {StandbyEvent::kBackoffElapsed, {kAsIs, kAsIs, kAsIs, kBegin}},
  {StandbyEvent::kRenew,          {kBegin, kReplace, kReplace, kBegin}},
  {StandbyEvent::kFinding,        {kAsIs, kFenceAndLater, kFenceAndLater, kAsIs}},
}};
// clang-format on
static_assert(complete<kStandbyEvents, kStandbyStates>(kStandbyRows));
static_assert(static_cast<std::size_t>(StandbyEvent::kFinding) + 1 == kStandbyEvents);
static_assert(static_cast<std::size_t>(StandbyAction::kCancelTimer) + 1 == kStandbyActions);

constexpr std::array<std::array<StandbyTransition, kStandbyEvents>, kStandbyStates> build_standby_table() {
  std::array<std::array<StandbyTransition, kStandbyEvents>, kStandbyStates> table{};
  for (std::size_t event = 0; event < kStandbyEvents; ++event) {
    for (std::size_t state = 0; state < kStandbyStates; ++state) {
      const StandbyCell& cell = kStandbyRows[event].cells[state];
      table[state][event] = cell.transition;
      if (cell.stays) table[state][event].next = static_cast<StandbyState>(state);
    }
  }
  return table;
}
constexpr auto kStandbyTable = build_standby_table();

constexpr std::array<std::string_view, kStates> kStateNames = {
    "stopped", "waiting", "starting", "serving", "recovering", "backoff", "stopping", "isolated"};
constexpr std::array<std::string_view, kEvents> kEventNames = {"enable",
                                                               "disable",
                                                               "drain",
                                                               "restart in place",
                                                               "restart cold",
                                                               "hand over requested",
                                                               "dependencies ready",
                                                               "dependency lost",
                                                               "adopted serving",
                                                               "adopted starting",
                                                               "adopted orphaned",
                                                               "launch failed",
                                                               "ready",
                                                               "successor serving",
                                                               "active exited, standby takes over",
                                                               "active exited alone",
                                                               "rebuild required",
                                                               "ended for good",
                                                               "all exited",
                                                               "all exited but wanted",
                                                               "finding",
                                                               "start timeout",
                                                               "hand over timeout",
                                                               "stop timeout",
                                                               "backoff elapsed",
                                                               "backoff elapsed, dependency missing",
                                                               "budget exhausted",
                                                               "health sustained"};
constexpr std::array<std::string_view, kActions> kActionNames = {
    "set wanted",    "clear wanted", "check dependencies", "launch active",  "keep standby",
    "renew standby", "drop standby", "fence active",       "ask yield",      "ask stop",
    "ask drain",     "kill all",     "arm start",          "arm hand over",  "arm stop",
    "arm backoff",   "cancel timer", "open incident",      "close incident", "reset backoff",
    "refuse"};
constexpr std::array<std::string_view, kStandbyStates> kStandbyStateNames = {"none", "starting", "ready",
                                                                             "backoff"};
constexpr std::array<std::string_view, kStandbyEvents> kStandbyEventNames = {
    "wanted",        "unwanted",      "ready",           "promoted", "exited",
    "launch failed", "start timeout", "backoff elapsed", "renew",    "finding"};
constexpr std::array<std::string_view, kStandbyActions> kStandbyActionNames = {"launch", "fence", "arm start",
                                                                               "arm backoff", "cancel timer"};

}  // namespace

const Transition& transition(State state, Event event) {
  return kTable[static_cast<std::size_t>(state) - 1][static_cast<std::size_t>(event)];
}

const StandbyTransition& transition(StandbyState state, StandbyEvent event) {
  return kStandbyTable[static_cast<std::size_t>(state)][static_cast<std::size_t>(event)];
}

std::string_view name_of(State state) {
  return kStateNames[static_cast<std::size_t>(state) - 1];
}
std::string_view name_of(Event event) {
  return kEventNames[static_cast<std::size_t>(event)];
}
std::string_view name_of(Action action) {
  return kActionNames[static_cast<std::size_t>(action)];
}
std::string_view name_of(StandbyState state) {
  return kStandbyStateNames[static_cast<std::size_t>(state)];
}
std::string_view name_of(StandbyEvent event) {
  return kStandbyEventNames[static_cast<std::size_t>(event)];
}
std::string_view name_of(StandbyAction action) {
  return kStandbyActionNames[static_cast<std::size_t>(action)];
}

}  // namespace bulkhead::supervisor
