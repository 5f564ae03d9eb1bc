#include "monitors/progress.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <csignal>
#include <functional>
#include <thread>
#include <vector>

#include "runtime/clock.h"

namespace bulkhead::monitors {
namespace {

using ::testing::HasSubstr;

constexpr std::int64_t kMs = 1'000'000;
constexpr std::int64_t kStart = 1000 * kMs;

// Plays an instance to a monitor: one check every 10 ms.
class Play {
 public:
  explicit Play(std::uint64_t ping = 0)
      : monitor_({.deadline_ns = 50 * kMs, .check_interval_ns = 10 * kMs}, ping) {}

  // One check. Answers pings if `answers`; looks as `activity` says.
  ProgressMonitor::Verdict check(std::int64_t late_ns = 0) {
    now_ += 10 * kMs + late_ns;
    if (answers) counters.pong = ping_;
    auto verdict = monitor_.check(now_, now_ - late_ns, counters, [this]() -> std::optional<ProcessActivity> {
      ++looks;
      if (gone) return std::nullopt;
      return activity;
    });
    if (verdict.send_ping) ping_ = *verdict.send_ping;
    last_leniency = verdict.leniency;
    return verdict;
  }
  // Checks until a finding, at most `most`; how long after the start of the silence it came, -1 for never.
  std::int64_t silent_until_finding(int most, const std::function<void()>& each = [] {}) {
    answers = false;
    const std::int64_t begin = now_;
    for (int i = 0; i < most; ++i) {
      each();
      const auto verdict = check();
      if (!verdict.finding) continue;
      finding = *verdict.finding;
      return now_ - begin;
    }
    return -1;
  }
  std::int64_t now() const { return now_; }
  void reset() { monitor_.reset(); }

  bool answers = true;
  bool gone = false;
  WorkCounters counters;
  ProcessActivity activity{'S', 0, 0};
  int looks = 0;
  Finding finding;
  std::string last_leniency;

 private:
  ProgressMonitor monitor_;
  std::int64_t now_ = kStart;
  std::uint64_t ping_ = 0;
};

TEST(Progress, IdlenessIsHealthyAndCostsNoLook) {
  Play play;
  for (int i = 0; i < 10000; ++i) EXPECT_FALSE(play.check().finding);
  EXPECT_EQ(play.looks, 0);
}

TEST(Progress, PingsGoOnFromWhereAnEarlierCoreStopped) {
  ProgressMonitor monitor({.deadline_ns = 50 * kMs, .check_interval_ns = 10 * kMs}, 41);
  WorkCounters counters;
  counters.pong = 41;
  const auto verdict = monitor.check(kStart, kStart, counters, [] { return std::nullopt; });
  EXPECT_EQ(verdict.send_ping, 42U);
  // Not answered yet: no second one.
  EXPECT_FALSE(monitor.check(kStart + kMs, kStart + kMs, counters, [] { return std::nullopt; }).send_ping);
}

TEST(Progress, AnAdoptedInstanceWithAnUnansweredPingGetsTheFullDeadline) {
  ProgressMonitor monitor({.deadline_ns = 50 * kMs, .check_interval_ns = 10 * kMs}, 41);
  WorkCounters counters;
  counters.pong = 40;  // the ping of the dead core, perhaps long ago
  const auto check = [&](std::int64_t i) {
    return monitor.check(kStart + i * 10 * kMs, kStart + i * 10 * kMs, counters,
                         [] { return ProcessActivity{'S', 0, 0}; });
  };
  // Rung again, in case the dead core did not get to it.
  const auto first = check(0);
  EXPECT_EQ(first.send_ping, 41U);
  EXPECT_FALSE(first.finding);
  for (int i = 1; i < 5; ++i) {
    const auto verdict = check(i);
    EXPECT_FALSE(verdict.finding);
    EXPECT_FALSE(verdict.send_ping);
  }
  EXPECT_TRUE(check(5).finding);
}

TEST(Progress, SleepingWithWorkPendingIsAHang) {
  Play play;
  play.check();
  const std::int64_t found_after = play.silent_until_finding(100);
  EXPECT_GE(found_after, 50 * kMs);
  EXPECT_LE(found_after, 60 * kMs);
  EXPECT_EQ(play.finding.monitor, "progress");
  EXPECT_EQ(play.finding.severity, Severity::kFailed);
  EXPECT_THAT(play.finding.evidence, HasSubstr("none done: the process sleeps"));
  EXPECT_LE(play.finding.found_ns - play.finding.since_ns, 60 * kMs);
}

TEST(Progress, AStoppedProcessIsFoundAtTheDeadline) {
  for (const char state : {'T', 't'}) {
    Play play;
    play.check();
    play.activity.state = state;
    EXPECT_LE(play.silent_until_finding(100), 60 * kMs);
    EXPECT_THAT(play.finding.evidence, HasSubstr("the process is stopped"));
  }
}

TEST(Progress, SpinningIsFoundByTheCpuItUses) {
  Play play;
  play.check();
  play.activity.state = 'R';
  const auto found_after = play.silent_until_finding(100, [&] { play.activity.cpu_ns += 10 * kMs; });
  EXPECT_GE(found_after, 50 * kMs);
  EXPECT_LE(found_after, 80 * kMs);
  EXPECT_THAT(play.finding.evidence, HasSubstr("it spins"));
}

TEST(Progress, StarvedIsNotHung) {
  Play play;
  play.check();
  play.activity.state = 'R';
  // A tenth of a millisecond of CPU every 10 ms, for four seconds, as under heavy overload.
  EXPECT_EQ(play.silent_until_finding(400,
                                      [&] {
                                        play.activity.cpu_ns += kMs / 10;
                                        play.activity.run_delay_ns += 9 * kMs;
                                      }),
            -1);
  EXPECT_THAT(play.last_leniency, HasSubstr("starved of CPU"));
  play.answers = true;
  EXPECT_FALSE(play.check().finding);
}

TEST(Progress, EvenTheStarvedAreFoundInTheEnd) {
  Play play;
  play.check();
  play.activity.state = 'R';
  const auto found_after = play.silent_until_finding(1000);
  EXPECT_GE(found_after, 5000 * kMs);  // 100 deadlines
  EXPECT_LE(found_after, 5020 * kMs);
}

TEST(Progress, StuckInTheKernelGetsLonger) {
  Play play;
  play.check();
  play.activity.state = 'D';
  const auto found_after = play.silent_until_finding(1000);
  EXPECT_GE(found_after, 500 * kMs);
  EXPECT_LE(found_after, 520 * kMs);
}

TEST(Progress, OneSampleAsleepProvesNothing) {
  Play play;
  play.check();
  int i = 0;
  // Asleep at every other look, running in between: it lives, slowly.
  EXPECT_EQ(play.silent_until_finding(100,
                                      [&] {
                                        play.activity.state = i++ % 2 == 0 ? 'S' : 'R';
                                        play.activity.cpu_ns += kMs / 10;
                                      }),
            -1);
}

TEST(Progress, WorkDoneIsProgressEvenWithoutAPong) {
  Play play;
  play.check();
  EXPECT_EQ(play.silent_until_finding(100, [&] { ++play.counters.work_done; }), -1);
}

TEST(Progress, APendingRequestIsWorkToo) {
  Play play;
  play.check();
  play.answers = false;
  play.counters.oldest_pending_ns = play.now();
  EXPECT_LE(play.silent_until_finding(100), 60 * kMs);
  // A hostile page: pending since the future, or for a very long time. Neither shortens the deadline.
  for (const std::int64_t oldest : {INT64_MAX, std::int64_t{1}}) {
    Play hostile;
    hostile.check();
    hostile.counters.oldest_pending_ns = oldest;
    EXPECT_GE(hostile.silent_until_finding(100), 50 * kMs);
  }
}

TEST(Progress, ALateCoreBlamesNobody) {
  Play play;
  play.check();
  play.answers = false;
  // The core did not run for ten seconds (suspended, or starved); then everything goes on.
  auto verdict = play.check(10'000 * kMs);
  EXPECT_FALSE(verdict.finding);
  play.answers = true;
  EXPECT_FALSE(play.check().finding);
  // But a hang that goes on is found, with the deadline counted in time in which the core ran.
  play.answers = false;
  play.check();
  play.check(10'000 * kMs);
  const auto found_after = play.silent_until_finding(100);
  EXPECT_GT(found_after, 20 * kMs);
  EXPECT_LE(found_after, 60 * kMs);
}

TEST(Progress, AHangIsFoundAlthoughTheCoreIsAlwaysLate) {
  Play play;
  play.check();
  play.answers = false;
  int checks = 0;
  while (checks < 100 && !play.check(8 * kMs).finding) ++checks;
  EXPECT_LT(checks, 10);
}

TEST(Progress, AFindingIsNotRepeatedUntilThereWasProgress) {
  Play play;
  play.check();
  EXPECT_GT(play.silent_until_finding(100), 0);
  EXPECT_EQ(play.silent_until_finding(1000), -1);
  play.answers = true;
  play.check();
  EXPECT_GT(play.silent_until_finding(100), 0);
  play.reset();
  EXPECT_GT(play.silent_until_finding(100), 0);
}

TEST(Progress, AProcessThatIsGoneIsNotHung) {
  Play play;
  play.check();
  play.gone = true;
  EXPECT_EQ(play.silent_until_finding(1000), -1);
  play.gone = false;
  play.activity.state = 'Z';
  EXPECT_EQ(play.silent_until_finding(1000), -1);
}

// ---- with real processes ----

class RealProcess {
 public:
  explicit RealProcess(const std::function<void()>& body) : pid_(::fork()) {
    if (pid_ != 0) return;
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    body();
    ::_exit(0);
  }
  RealProcess(const RealProcess&) = delete;
  RealProcess& operator=(const RealProcess&) = delete;
  ~RealProcess() {
    ::kill(pid_, SIGKILL);
    ::waitpid(pid_, nullptr, 0);
  }
  pid_t pid() const { return pid_; }
  void stop() const {
    ::kill(pid_, SIGSTOP);
    ::waitpid(pid_, nullptr, WUNTRACED);
  }

 private:
  pid_t pid_;
};

[[noreturn]] void spin() {
  for (std::atomic<int> i = 0;; ++i) {
  }
}

// Runs a monitor against the process in real time; the evidence of the finding.
std::string watch(const RealProcess& process) {
  ProgressMonitor monitor({.deadline_ns = 50 * kMs, .check_interval_ns = 10 * kMs}, 0);
  const std::int64_t give_up = monotonic_ns() + 20'000 * kMs;
  std::int64_t due = monotonic_ns();
  while (monotonic_ns() < give_up) {
    std::this_thread::sleep_for(std::chrono::nanoseconds(std::max<std::int64_t>(0, due - monotonic_ns())));
    const std::int64_t now = monotonic_ns();
    const auto verdict =
        monitor.check(now, due, WorkCounters{}, [&] { return read_activity(process.pid()); });
    if (verdict.finding) return verdict.finding->evidence;
    due = now + 10 * kMs;
  }
  return "nothing found";
}

TEST(ProgressOfRealProcesses, Stopped) {
  RealProcess process([] { ::pause(); });
  process.stop();
  EXPECT_THAT(watch(process), HasSubstr("the process is stopped"));
}

TEST(ProgressOfRealProcesses, Sleeping) {
  RealProcess process([] {
    for (;;) ::pause();
  });
  EXPECT_THAT(watch(process), HasSubstr("the process sleeps"));
}

TEST(ProgressOfRealProcesses, Spinning) {
  RealProcess process([] { spin(); });
  EXPECT_THAT(watch(process), HasSubstr("it spins"));
}

// A standby: its main thread sleeps in the lease, another one works.
TEST(ProcessActivity, AThreadThatCouldRunIsNotAsleep) {
  RealProcess process([] {
    std::thread worker([] { spin(); });
    worker.join();
  });
  std::optional<ProcessActivity> seen;
  const std::int64_t give_up = monotonic_ns() + 10'000 * kMs;
  while ((seen = read_activity(process.pid())) && seen->state != 'R' && monotonic_ns() < give_up) {
  }
  ASSERT_TRUE(seen.has_value());
  EXPECT_EQ(seen->state, 'R');
}

TEST(ProcessActivity, TellsCpuAndState) {
  RealProcess process([] { spin(); });
  const auto first = read_activity(process.pid());
  ASSERT_TRUE(first.has_value());
  // The clock of a running process moves between any two looks.
  std::optional<ProcessActivity> later = first;
  const std::int64_t give_up = monotonic_ns() + 10'000 * kMs;
  while (later && later->cpu_ns < first->cpu_ns + kMs && monotonic_ns() < give_up)
    later = read_activity(process.pid());
  ASSERT_TRUE(later.has_value());
  EXPECT_GE(later->cpu_ns, first->cpu_ns + kMs);
  EXPECT_EQ(later->state, 'R');
  process.stop();
  EXPECT_EQ(read_activity(process.pid())->state, 'T');
  EXPECT_FALSE(read_activity(0x7ffffff0).has_value());
}

}  // namespace
}  // namespace bulkhead::monitors
