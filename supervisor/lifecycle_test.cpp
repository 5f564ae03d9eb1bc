// Every cell of both tables against expectations written by hand, then an exhaustive walk through everything
// that a component and its environment can do.
#include "supervisor/lifecycle.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <deque>
#include <functional>
#include <set>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"

namespace bulkhead::supervisor {
namespace {

template <typename Cell, typename StateType>
std::string describe(const Cell& cell, StateType from) {
  std::string text(cell.next == from ? std::string_view("=") : name_of(cell.next));
  const char* separator = ": ";
  for (const auto action : cell) {
    text += separator;
    text += name_of(action);
    separator = ", ";
  }
  return text == "=" ? "." : text;
}

// Makes Transition iterable like StandbyTransition.
struct Iterable {
  State next;
  Actions actions;
  const Action* begin() const { return actions.begin(); }
  const Action* end() const { return actions.end(); }
};

struct GoldenRow {
  Event event;
  std::array<const char*, kStates> cells;
};

// "." nothing happens; "=: ..." same state, with actions; otherwise "next state: actions in order".
const GoldenRow kGolden[] = {
    {Event::kEnable,
     {/* stopped    */ "waiting: set wanted, reset backoff, check dependencies",
      /* waiting    */ ".",
      /* starting   */ ".",
      /* serving    */ ".",
      /* recovering */ ".",
      /* backoff    */ ".",
      /* stopping   */ "=: set wanted",
      /* isolated   */ "waiting: set wanted, reset backoff, check dependencies"}},
    {Event::kDisable,
     {/* stopped    */ "=: clear wanted",
      /* waiting    */ "stopped: clear wanted, cancel timer, close incident",
      /* starting   */ "stopping: clear wanted, close incident, arm stop, ask stop",
      /* serving    */ "stopping: clear wanted, close incident, arm stop, ask stop",
      /* recovering */ "stopping: clear wanted, close incident, arm stop, ask stop",
      /* backoff    */ "stopped: clear wanted, cancel timer, close incident",
      /* stopping   */ "=: clear wanted, arm stop, ask stop",
      /* isolated   */ "stopping: clear wanted, arm stop, kill all"}},
    {Event::kDrain,
     {/* stopped    */ "=: clear wanted",
      /* waiting    */ "stopped: clear wanted, cancel timer, close incident",
      /* starting   */ "stopping: clear wanted, close incident, arm stop, ask drain",
      /* serving    */ "stopping: clear wanted, close incident, arm stop, ask drain",
      /* recovering */ "stopping: clear wanted, close incident, arm stop, ask drain",
      /* backoff    */ "stopped: clear wanted, cancel timer, close incident",
      /* stopping   */ "=: clear wanted",
      /* isolated   */ "stopping: clear wanted, arm stop, kill all"}},
    {Event::kRestartInPlace,
     {/* stopped    */ "=: refuse",
      /* waiting    */ "=: refuse",
      /* starting   */ "stopping: arm stop, ask stop",
      /* serving    */ "=: renew standby",
      /* recovering */ "=: refuse",
      /* backoff    */ "waiting: reset backoff, cancel timer, check dependencies",
      /* stopping   */ "=: refuse",
      /* isolated   */ "waiting: set wanted, reset backoff, check dependencies"}},
    {Event::kRestartCold,
     {/* stopped    */ "=: refuse",
      /* waiting    */ "=: refuse",
      /* starting   */ "stopping: arm stop, ask stop",
      /* serving    */ "stopping: arm stop, ask stop",
      /* recovering */ "=: refuse",
      /* backoff    */ "waiting: reset backoff, cancel timer, check dependencies",
      /* stopping   */ "=: refuse",
      /* isolated   */ "waiting: set wanted, reset backoff, check dependencies"}},
    {Event::kHandOverRequested,
     {/* stopped    */ "=: refuse",
      /* waiting    */ "=: refuse",
      /* starting   */ "=: refuse",
      /* serving    */ "recovering: open incident, arm hand over, ask yield",
      /* recovering */ "=: refuse",
      /* backoff    */ "=: refuse",
      /* stopping   */ "=: refuse",
      /* isolated   */ "=: refuse"}},
    {Event::kDependenciesReady, {".", "starting: arm start, launch active", ".", ".", ".", ".", ".", "."}},
    {Event::kDependencyLost, {".", ".", ".", ".", ".", ".", ".", "."}},
    {Event::kAdoptedServing,
     {"serving: set wanted, keep standby", "serving: keep standby", ".", ".", ".", ".", ".", "."}},
    {Event::kAdoptedStarting,
     {"starting: set wanted, arm start", "starting: arm start", ".", ".", ".", ".", ".", "."}},
    {Event::kAdoptedOrphaned,
     {"recovering: set wanted, open incident, arm start", "recovering: open incident, arm start", ".", ".",
      ".", ".", ".", "."}},
    {Event::kLaunchFailed,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "backoff: open incident, drop standby, arm backoff",
      /* serving    */ ".",
      /* recovering */ "backoff: open incident, drop standby, arm backoff",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kReady,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "serving: cancel timer, close incident, keep standby",
      /* serving    */ ".",
      /* recovering */ "serving: cancel timer, close incident, keep standby",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kSuccessorServing,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "serving: cancel timer, close incident, keep standby",
      /* serving    */ "=: open incident, close incident, keep standby",
      /* recovering */ "serving: cancel timer, close incident, keep standby",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kActiveExitedStandbyTakesOver,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "recovering: open incident, arm start",
      /* serving    */ "recovering: open incident, arm start",
      /* recovering */ "=: open incident, arm start",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kActiveExitedAlone,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "backoff: open incident, drop standby, arm backoff",
      /* serving    */ "backoff: open incident, drop standby, arm backoff",
      /* recovering */ "backoff: open incident, drop standby, arm backoff",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kRebuildRequired,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "recovering: kill all, arm start, open incident",
      /* serving    */ "recovering: kill all, arm start, open incident",
      /* recovering */ "=: kill all, arm start, open incident",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kEndedForGood,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* serving    */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* recovering */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kAllExited,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* serving    */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* recovering */ "stopped: clear wanted, cancel timer, close incident, drop standby",
      /* backoff    */ ".",
      /* stopping   */ "stopped: cancel timer, close incident",
      /* isolated   */ "."}},
    {Event::kAllExitedWanted,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "backoff: open incident, drop standby, arm backoff",
      /* serving    */ "backoff: open incident, drop standby, arm backoff",
      /* recovering */ "backoff: open incident, drop standby, arm backoff",
      /* backoff    */ ".",
      /* stopping   */ "waiting: cancel timer, check dependencies",
      /* isolated   */ "."}},
    {Event::kFinding,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "recovering: fence active, arm start, open incident",
      /* serving    */ "recovering: fence active, arm start, open incident",
      /* recovering */ "=: fence active, arm start, open incident",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kStartTimeout,
     {/* stopped    */ ".",
      /* waiting    */ ".",
      /* starting   */ "recovering: kill all, arm start, open incident",
      /* serving    */ ".",
      /* recovering */ "=: kill all, arm start, open incident",
      /* backoff    */ ".",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kHandOverTimeout, {".", ".", ".", ".", "=: arm start, fence active", ".", ".", "."}},
    {Event::kStopTimeout, {".", ".", ".", ".", ".", ".", "=: arm stop, kill all", "."}},
    {Event::kBackoffElapsed, {".", ".", ".", ".", ".", "recovering: arm start, launch active", ".", "."}},
    {Event::kBackoffElapsedDependency, {".", ".", ".", ".", ".", "waiting", ".", "."}},
    {Event::kBudgetExhausted,
     {/* stopped    */ ".",
      /* waiting    */ "isolated: kill all, cancel timer, open incident, close incident",
      /* starting   */ "isolated: kill all, cancel timer, open incident, close incident",
      /* serving    */ "isolated: kill all, cancel timer, open incident, close incident",
      /* recovering */ "isolated: kill all, cancel timer, open incident, close incident",
      /* backoff    */ "isolated: kill all, cancel timer, open incident, close incident",
      /* stopping   */ ".",
      /* isolated   */ "."}},
    {Event::kHealthSustained, {".", ".", ".", "=: reset backoff", ".", ".", ".", "."}},
};

TEST(LifeCycle, EveryCellIsAsWrittenDown) {
  ASSERT_EQ(std::size(kGolden), kEvents);
  std::set<Event> seen;
  for (const auto& row : kGolden) {
    seen.insert(row.event);
    for (std::size_t i = 0; i < kStates; ++i) {
      const State from = static_cast<State>(i + 1);
      const Transition& cell = transition(from, row.event);
      EXPECT_EQ(describe(Iterable{cell.next, cell.actions}, from), row.cells[i])
          << name_of(from) << " x " << name_of(row.event);
    }
  }
  EXPECT_EQ(seen.size(), kEvents);
}

// Incidents are written to a disk, which may hang: nobody who must be stopped waits for that.
TEST(LifeCycle, FencesBeforeItWritesIncidents) {
  for (std::size_t event = 0; event < kEvents; ++event) {
    for (std::size_t i = 0; i < kStates; ++i) {
      const State from = static_cast<State>(i + 1);
      bool written = false;
      for (const Action action : transition(from, static_cast<Event>(event)).actions) {
        written = written || action == Action::kOpenIncident || action == Action::kCloseIncident;
        const bool fences = action == Action::kFenceActive || action == Action::kKillAll;
        EXPECT_FALSE(fences && written) << name_of(from) << " x " << name_of(static_cast<Event>(event));
      }
    }
  }
}

struct GoldenStandbyRow {
  StandbyEvent event;
  std::array<const char*, kStandbyStates> cells;
};
const GoldenStandbyRow kGoldenStandby[] = {
    // none, starting, ready, backoff
    {StandbyEvent::kWanted, {"starting: arm start, launch", ".", ".", "."}},
    {StandbyEvent::kUnwanted,
     {".", "none: cancel timer, fence", "none: cancel timer, fence", "none: cancel timer"}},
    {StandbyEvent::kReady, {".", "ready: cancel timer", ".", "."}},
    {StandbyEvent::kPromoted, {".", "none: cancel timer", "none: cancel timer", "."}},
    {StandbyEvent::kExited, {".", "backoff: arm backoff", "backoff: arm backoff", "."}},
    {StandbyEvent::kLaunchFailed, {".", "backoff: arm backoff", ".", "."}},
    {StandbyEvent::kStartTimeout, {".", "backoff: fence, arm backoff", ".", "."}},
    {StandbyEvent::kBackoffElapsed, {".", ".", ".", "starting: arm start, launch"}},
    {StandbyEvent::kRenew,
     {"starting: arm start, launch", "=: fence, arm start, launch", "starting: fence, arm start, launch",
      "starting: arm start, launch"}},
    {StandbyEvent::kFinding, {".", "backoff: fence, arm backoff", "backoff: fence, arm backoff", "."}},
};

TEST(LifeCycle, EveryStandbyCellIsAsWrittenDown) {
  ASSERT_EQ(std::size(kGoldenStandby), kStandbyEvents);
  std::set<StandbyEvent> seen;
  for (const auto& row : kGoldenStandby) {
    seen.insert(row.event);
    for (std::size_t i = 0; i < kStandbyStates; ++i) {
      const StandbyState from = static_cast<StandbyState>(i);
      EXPECT_EQ(describe(transition(from, row.event), from), row.cells[i])
          << name_of(from) << " x " << name_of(row.event);
    }
  }
  EXPECT_EQ(seen.size(), kStandbyEvents);
}

TEST(LifeCycle, NumbersAreThoseOfTheApi) {
  for (std::size_t i = 1; i <= kStates; ++i) {
    std::string expected = v1::State_Name(static_cast<int>(i));
    std::transform(expected.begin(), expected.end(), expected.begin(),
                   [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
    EXPECT_EQ(expected, "state_" + std::string(name_of(static_cast<State>(i))));
  }
  EXPECT_EQ(v1::State_descriptor()->value_count(), static_cast<int>(kStates) + 1);
}

TEST(LifeCycle, FactsChooseTheEvent) {
  EXPECT_EQ(last_exit_event({.wanted = true}), Event::kAllExitedWanted);
  EXPECT_EQ(last_exit_event({.wanted = false}), Event::kAllExited);
  EXPECT_EQ(backoff_elapsed_event({.dependencies_ready = true}), Event::kBackoffElapsed);
  EXPECT_EQ(backoff_elapsed_event({.dependencies_ready = false}), Event::kBackoffElapsedDependency);
  EXPECT_EQ(restart_event(true), Event::kRestartInPlace);
  EXPECT_EQ(restart_event(false), Event::kRestartCold);
}

// ---- the walk ----
// A small model of what surrounds the tables: at most one active and one standby process, dying ones that
// have been told to end or killed, the two timers, a dependency. It performs actions as the core does and
// offers every event that can happen.

enum class Timer : unsigned char { kNone, kStart, kHandOver, kStop, kBackoff };
enum class Peer : unsigned char { kNone, kRunning, kReady };

struct World {
  State state = State::kStopped;
  StandbyState standby_state = StandbyState::kNone;
  Timer timer = Timer::kNone;
  Timer standby_timer = Timer::kNone;
  Peer active = Peer::kNone;
  Peer standby = Peer::kNone;
  bool wanted = false;
  bool dependencies = false;
  bool dying = false;  // a fenced former instance is still there
  bool asked = false;  // the active instance was asked or killed: it may or will end
  bool incident = false;
  bool has_standby = true;  // configuration

  auto tie() const {
    return std::tie(state, standby_state, timer, standby_timer, active, standby, wanted, dependencies, dying,
                    asked, incident, has_standby);
  }
  bool operator<(const World& other) const { return tie() < other.tie(); }
  bool any_process() const { return active != Peer::kNone || standby != Peer::kNone || dying; }
  std::string text() const {
    return std::string(name_of(state)) + " standby " + std::string(name_of(standby_state)) + " timer " +
           std::to_string(static_cast<int>(timer)) + " active " + std::to_string(static_cast<int>(active)) +
           " standby process " + std::to_string(static_cast<int>(standby)) + (wanted ? " wanted" : "") +
           (dying ? " dying" : "") + (asked ? " asked" : "") + (incident ? " incident" : "");
  }
};

class Model {
 public:
  // launch_works chooses for kLaunch* actions.
  Model(World world, bool launch_works) : w(world), launch_works_(launch_works) {}

  void feed(Event event) {
    queue_.push_back(event);
    while (!queue_.empty()) {
      const Event next = queue_.front();
      queue_.pop_front();
      const Transition& cell = transition(w.state, next);
      w.state = cell.next;
      for (const Action action : cell.actions) perform(action);
    }
  }
  void feed(StandbyEvent event) {
    const StandbyTransition& cell = transition(w.standby_state, event);
    w.standby_state = cell.next;
    for (const StandbyAction action : cell) perform(action);
  }
  void exit_if_empty() {
    if (!w.any_process()) feed(last_exit_event({.wanted = w.wanted}));
  }

  World w;

 private:
  void queue_exit_if_empty() {
    if (!w.any_process()) queue_.push_back(last_exit_event({.wanted = w.wanted}));
  }
  void ask_active(bool kill) {
    if (w.active == Peer::kNone) return;
    if (kill) {
      w.dying = true;
      w.active = Peer::kNone;
    } else {
      w.asked = true;
    }
  }
  void perform(Action action) {
    switch (action) {
      case Action::kSetWanted:
        w.wanted = true;
        break;
      case Action::kClearWanted:
        w.wanted = false;
        break;
      case Action::kCheckDependencies:
        if (w.dependencies) queue_.push_back(Event::kDependenciesReady);
        break;
      case Action::kLaunchActive:
        EXPECT_EQ(w.active, Peer::kNone) << "two owners: " << w.text();
        if (launch_works_) {
          w.active = Peer::kRunning;
          w.asked = false;
        } else {
          queue_.push_back(Event::kLaunchFailed);
        }
        break;
      case Action::kKeepStandby:
        if (w.has_standby) feed(StandbyEvent::kWanted);
        break;
      case Action::kRenewStandby:
        if (w.has_standby) feed(StandbyEvent::kRenew);
        break;
      case Action::kDropStandby:
        feed(StandbyEvent::kUnwanted);
        break;
      case Action::kFenceActive:
        w.asked = w.active != Peer::kNone;
        break;
      case Action::kAskYield:
        w.asked = true;
        break;
      case Action::kAskStop:
      case Action::kAskDrain:
        feed(StandbyEvent::kUnwanted);
        ask_active(false);
        queue_exit_if_empty();
        break;
      case Action::kKillAll:
        feed(StandbyEvent::kUnwanted);
        ask_active(true);
        queue_exit_if_empty();
        break;
      case Action::kArmStart:
        w.timer = Timer::kStart;
        break;
      case Action::kArmHandOver:
        w.timer = Timer::kHandOver;
        break;
      case Action::kArmStop:
        w.timer = Timer::kStop;
        break;
      case Action::kArmBackoff:
        w.timer = Timer::kBackoff;
        break;
      case Action::kCancelTimer:
        w.timer = Timer::kNone;
        break;
      case Action::kOpenIncident:
        w.incident = true;
        break;
      case Action::kCloseIncident:
        w.incident = false;
        break;
      case Action::kResetBackoff:
      case Action::kRefuse:
        break;
    }
  }
  void perform(StandbyAction action) {
    switch (action) {
      case StandbyAction::kLaunch:
        EXPECT_EQ(w.standby, Peer::kNone) << "two standbys: " << w.text();
        if (launch_works_) {
          w.standby = Peer::kRunning;
        } else {
          feed(StandbyEvent::kLaunchFailed);
        }
        break;
      case StandbyAction::kFence:
        EXPECT_NE(w.standby, Peer::kNone) << w.text();
        w.dying = true;
        w.standby = Peer::kNone;
        break;
      case StandbyAction::kArmStart:
        w.standby_timer = Timer::kStart;
        break;
      case StandbyAction::kArmBackoff:
        w.standby_timer = Timer::kBackoff;
        break;
      case StandbyAction::kCancelTimer:
        w.standby_timer = Timer::kNone;
        break;
    }
  }

  bool launch_works_;
  std::deque<Event> queue_;
};

struct Happening {
  const char* what;
  bool possible;
  std::function<void(Model&)> happen;
};

void standby_becomes_active(Model& m) {
  m.w.standby = Peer::kNone;
  m.w.active = Peer::kRunning;
  m.w.asked = false;
  m.feed(StandbyEvent::kPromoted);
}

std::vector<Happening> happenings(const World& w) {
  const auto feeds = [](Event event) { return [event](Model& m) { m.feed(event); }; };
  const bool active = w.active != Peer::kNone;
  const bool standby = w.standby != Peer::kNone;
  const bool monitored = w.state == State::kServing || w.state == State::kRecovering;
  return {
      {"enable", true, feeds(Event::kEnable)},
      {"disable", true, feeds(Event::kDisable)},
      {"drain", true, feeds(Event::kDrain)},
      {"restart", true, feeds(restart_event(w.has_standby))},
      {"hand over", w.standby == Peer::kReady, feeds(Event::kHandOverRequested)},
      {"dependencies become ready", !w.dependencies,
       [](Model& m) {
         m.w.dependencies = true;
         m.feed(Event::kDependenciesReady);
       }},
      {"a dependency goes", w.dependencies,
       [](Model& m) {
         m.w.dependencies = false;
         m.feed(Event::kDependencyLost);
       }},
      {"active ready", w.active == Peer::kRunning,
       [](Model& m) {
         m.w.active = Peer::kReady;
         m.feed(Event::kReady);
       }},
      {"standby ready", w.standby == Peer::kRunning,
       [](Model& m) {
         m.w.standby = Peer::kReady;
         m.feed(StandbyEvent::kReady);
       }},
      {"active exits, standby takes over", active && standby,
       [](Model& m) {
         standby_becomes_active(m);
         m.feed(Event::kActiveExitedStandbyTakesOver);
       }},
      {"the standby's take-over is seen before the exit", active && standby,
       [](Model& m) {
         standby_becomes_active(m);
         m.w.dying = true;
         m.w.active = Peer::kReady;
         m.feed(Event::kSuccessorServing);
       }},
      {"active exits, the ladder says rebuild although a standby is there", active && standby,
       [](Model& m) {
         m.w.active = Peer::kNone;
         m.feed(Event::kRebuildRequired);
       }},
      {"active exits, nobody else is there", active && !standby,
       [](Model& m) {
         m.w.active = Peer::kNone;
         m.w.asked = false;
         if (m.w.state == State::kStopping) {
           m.exit_if_empty();
         } else {
           m.feed(Event::kActiveExitedAlone);
         }
       }},
      {"foreign: exits and is to be left alone", active && !w.has_standby,
       [](Model& m) {
         m.w.active = Peer::kNone;
         m.w.asked = false;
         if (m.w.state == State::kStopping) {
           m.exit_if_empty();
         } else {
           m.feed(Event::kEndedForGood);
         }
       }},
      {"active exits, budget exhausted", active && monitored,
       [](Model& m) {
         m.w.active = Peer::kNone;
         m.w.asked = false;
         m.feed(Event::kBudgetExhausted);
       }},
      {"standby exits", standby,
       [](Model& m) {
         m.w.standby = Peer::kNone;
         m.feed(StandbyEvent::kExited);
       }},
      {"a fenced process is gone", w.dying,
       [](Model& m) {
         m.w.dying = false;
         m.exit_if_empty();
       }},
      {"finding", active, feeds(Event::kFinding)},
      {"finding about the standby", standby, [](Model& m) { m.feed(StandbyEvent::kFinding); }},
      {"timer", w.timer != Timer::kNone,
       [](Model& m) {
         const Timer fired = std::exchange(m.w.timer, Timer::kNone);
         if (fired == Timer::kStart) m.feed(Event::kStartTimeout);
         if (fired == Timer::kHandOver) m.feed(Event::kHandOverTimeout);
         if (fired == Timer::kStop) m.feed(Event::kStopTimeout);
         if (fired == Timer::kBackoff)
           m.feed(backoff_elapsed_event({.wanted = true, .dependencies_ready = m.w.dependencies}));
       }},
      {"standby timer", w.standby_timer != Timer::kNone,
       [](Model& m) {
         const Timer fired = std::exchange(m.w.standby_timer, Timer::kNone);
         m.feed(fired == Timer::kStart ? StandbyEvent::kStartTimeout : StandbyEvent::kBackoffElapsed);
       }},
      {"health", w.state == State::kServing, feeds(Event::kHealthSustained)},
  };
}

// Everything that can be reached from a start, with or without a standby, by any sequence of happenings.
const std::set<World>& reachable() {
  static const std::set<World> kWorlds = [] {
    std::set<World> seen;
    std::deque<World> open;
    const auto visit = [&](const World& world) {
      if (seen.insert(world).second) open.push_back(world);
    };
    for (const bool has_standby : {false, true}) {
      World start;
      start.has_standby = has_standby;
      visit(start);
    }
    while (!open.empty()) {
      const World world = open.front();
      open.pop_front();
      for (const bool launch_works : {true, false}) {
        for (const auto& happening : happenings(world)) {
          if (!happening.possible) continue;
          Model model(world, launch_works);
          happening.happen(model);
          visit(model.w);
        }
      }
    }
    return seen;
  }();
  return kWorlds;
}

TEST(LifeCycleWalk, ReachesEveryState) {
  std::set<State> states;
  std::set<StandbyState> standby_states;
  for (const World& world : reachable()) {
    states.insert(world.state);
    standby_states.insert(world.standby_state);
  }
  EXPECT_EQ(states.size(), kStates);
  EXPECT_EQ(standby_states.size(), kStandbyStates);
}

TEST(LifeCycleWalk, NothingWantedIsEverForgotten) {
  for (const World& w : reachable()) {
    if (!w.wanted || w.state == State::kIsolated) continue;
    // Waiting is for the dependency, which will report; it never waits for one that is there.
    if (w.state == State::kWaiting) {
      EXPECT_FALSE(w.dependencies) << w.text();
      continue;
    }
    EXPECT_TRUE(w.active != Peer::kNone || w.timer != Timer::kNone || w.any_process()) << w.text();
    if (w.state != State::kServing) {
      EXPECT_NE(w.timer, Timer::kNone) << w.text();
    }
  }
}

TEST(LifeCycleWalk, StatesMeanWhatTheySay) {
  for (const World& w : reachable()) {
    switch (w.state) {
      case State::kStopped:
        EXPECT_FALSE(w.wanted) << w.text();
        [[fallthrough]];
      case State::kWaiting:
      case State::kBackoff:
        EXPECT_EQ(w.active, Peer::kNone) << w.text();
        EXPECT_EQ(w.standby, Peer::kNone) << w.text();
        EXPECT_EQ(w.standby_state, StandbyState::kNone) << w.text();
        break;
      case State::kServing:
        EXPECT_NE(w.active, Peer::kNone) << w.text();
        EXPECT_FALSE(w.incident) << w.text();
        EXPECT_EQ(w.timer, Timer::kNone) << w.text();
        break;
      case State::kStopping:
        EXPECT_EQ(w.timer, Timer::kStop) << w.text();
        break;
      case State::kIsolated:
        EXPECT_EQ(w.active, Peer::kNone) << w.text();
        EXPECT_EQ(w.standby_state, StandbyState::kNone) << w.text();
        EXPECT_EQ(w.timer, Timer::kNone) << w.text();
        EXPECT_FALSE(w.incident) << w.text();
        break;
      case State::kStarting:
      case State::kRecovering:
        EXPECT_TRUE(w.wanted) << w.text();
        break;
    }
    // The standby's process and its state agree.
    const bool process = w.standby != Peer::kNone;
    const bool believed =
        w.standby_state == StandbyState::kStarting || w.standby_state == StandbyState::kReady;
    EXPECT_EQ(process, believed) << w.text();
  }
}

TEST(LifeCycleWalk, DisableLeadsToStopped) {
  for (const Event request : {Event::kDisable, Event::kDrain}) {
    for (const World& world : reachable()) {
      Model model(world, true);
      model.feed(request);
      // What was asked or killed ends, in the end; a process that ignores the request meets the timer.
      for (int step = 0; step < 8 && model.w.state != State::kStopped; ++step) {
        if (model.w.dying) {
          model.w.dying = false;
          model.exit_if_empty();
        } else {
          EXPECT_EQ(model.w.timer, Timer::kStop) << world.text();
          model.feed(Event::kStopTimeout);
        }
      }
      EXPECT_EQ(model.w.state, State::kStopped) << "after " << name_of(request) << " from " << world.text();
      EXPECT_FALSE(model.w.wanted);
      EXPECT_EQ(model.w.timer, Timer::kNone);
      EXPECT_EQ(model.w.standby_timer, Timer::kNone) << world.text();
    }
  }
}

TEST(LifeCycleWalk, IsolatedIsLeftByOperatorsOnly) {
  const std::set<Event> operators = {Event::kEnable, Event::kDisable, Event::kDrain, Event::kRestartInPlace,
                                     Event::kRestartCold};
  for (std::size_t i = 0; i < kEvents; ++i) {
    const Event event = static_cast<Event>(i);
    EXPECT_EQ(transition(State::kIsolated, event).next != State::kIsolated, operators.contains(event))
        << name_of(event);
  }
}

TEST(LifeCycleWalk, EveryFailureCanBeRecoveredFrom) {
  // From anywhere wanted, if from now on launches work and processes behave, the component serves again.
  for (const World& world : reachable()) {
    if (!world.wanted || world.state == State::kIsolated) continue;
    Model m(world, true);
    for (int step = 0; step < 16 && m.w.state != State::kServing; ++step) {
      if (!m.w.dependencies) {
        m.w.dependencies = true;
        m.feed(Event::kDependenciesReady);
      } else if (m.w.dying) {
        m.w.dying = false;
        m.exit_if_empty();
      } else if (m.w.active != Peer::kNone && !m.w.asked && m.w.state != State::kStopping) {
        m.w.active = Peer::kReady;
        m.feed(Event::kReady);
      } else if (m.w.active != Peer::kNone && m.w.standby != Peer::kNone) {
        standby_becomes_active(m);
        m.feed(Event::kActiveExitedStandbyTakesOver);
      } else if (m.w.active != Peer::kNone) {
        m.w.active = Peer::kNone;
        if (m.w.state == State::kStopping) {
          m.exit_if_empty();
        } else {
          m.feed(Event::kActiveExitedAlone);
        }
      } else if (m.w.timer == Timer::kBackoff) {
        m.w.timer = Timer::kNone;
        m.feed(Event::kBackoffElapsed);
      } else if (m.w.timer == Timer::kStart) {
        m.w.timer = Timer::kNone;
        m.feed(Event::kStartTimeout);
      }
    }
    EXPECT_EQ(m.w.state, State::kServing) << world.text() << "  ended as  " << m.w.text();
  }
}

}  // namespace
}  // namespace bulkhead::supervisor
