// No false kill under CPU overload, and no missed hang either: real processes, all cores busy many times
// over.
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <cstdlib>
#include <functional>
#include <new>
#include <thread>
#include <vector>

#include "monitors/progress.h"
#include "runtime/clock.h"
#include "runtime/unique_fd.h"
#include "runtime/vitals.h"

namespace bulkhead::monitors {
namespace {

constexpr std::int64_t kInterval = 10 * kMillisecond;

// Ten minutes are the product's promise; a test run takes seconds unless told otherwise.
std::int64_t duration_ns() {
  const char* seconds =
      std::getenv("BULKHEAD_OVERLOAD_SECONDS");  // NOLINT(concurrency-mt-unsafe): one thread
  return (seconds != nullptr ? std::atoll(seconds) : 5) * kSecond;
}

class Children {
 public:
  Children() = default;
  Children(const Children&) = delete;
  Children& operator=(const Children&) = delete;
  ~Children() {
    for (const pid_t pid : pids_) ::kill(pid, SIGKILL);
    for (const pid_t pid : pids_) ::waitpid(pid, nullptr, 0);
  }
  pid_t start(const std::function<void()>& body) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::prctl(PR_SET_PDEATHSIG, SIGKILL);
      body();
      ::_exit(0);
    }
    pids_.push_back(pid);
    return pid;
  }

 private:
  std::vector<pid_t> pids_;
};

// What every native component does: sleeps, is rung, answers, works a little.
void answer_pings(Vitals& vitals, int wake) {
  for (;;) {
    std::uint64_t rings = 0;
    if (::read(wake, &rings, sizeof rings) != ssize_t{sizeof rings}) return;
    vitals.pong.store(vitals.ping.load());
  }
}

class Overload : public ::testing::Test {
 protected:
  void SetUp() override {
    void* page = ::mmap(nullptr, kVitalsBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    ASSERT_NE(page, MAP_FAILED);
    vitals_ = new (page) Vitals{};
    wake_ = UniqueFd(::eventfd(0, EFD_CLOEXEC));
    pid_ = children_.start([this] {
      // The scheduler is kind to a process that wakes up briefly; the lowest weight makes it wait its turn.
      [[maybe_unused]] const int weight = ::nice(19);
      answer_pings(*vitals_, wake_.get());
    });
    const unsigned cores = std::max(1U, std::thread::hardware_concurrency());
    for (unsigned i = 0; i < 8 * cores; ++i) {
      children_.start([] {
        for (std::atomic<int> n = 0;; ++n) {
        }
      });
    }
  }
  void TearDown() override { ::munmap(vitals_, kVitalsBytes); }

  // Watches for so long or until a finding; the core's own lateness under the same load included.
  std::optional<Finding> watch(std::int64_t for_ns) {
    const std::int64_t end = monotonic_ns() + for_ns;
    std::int64_t due = monotonic_ns();
    while (monotonic_ns() < end) {
      std::this_thread::sleep_for(std::chrono::nanoseconds(std::max<std::int64_t>(0, due - monotonic_ns())));
      const std::int64_t now = monotonic_ns();
      const WorkCounters counters{vitals_->pong.load(), 0, 0};
      const auto verdict = monitor_.check(now, due, counters, [this] { return read_activity(pid_); });
      if (verdict.send_ping) {
        vitals_->ping.store(*verdict.send_ping);
        const std::uint64_t one = 1;
        EXPECT_EQ(::write(wake_.get(), &one, sizeof one), ssize_t{sizeof one});
        ++pings_;
      }
      if (!verdict.leniency.empty()) ++lenient_;
      if (verdict.finding) return verdict.finding;
      due = now + kInterval;
    }
    return std::nullopt;
  }

  Children children_;
  Vitals* vitals_ = nullptr;
  UniqueFd wake_;
  pid_t pid_ = 0;
  ProgressMonitor monitor_{{.deadline_ns = 50 * kMillisecond, .check_interval_ns = kInterval}, 0};
  int pings_ = 0;
  int lenient_ = 0;
};

TEST_F(Overload, AHealthyInstanceIsLeftAlone) {
  const auto finding = watch(duration_ns());
  EXPECT_FALSE(finding.has_value()) << finding->evidence;
  EXPECT_GT(pings_, 10);
  RecordProperty("lenient", lenient_);
}

TEST_F(Overload, AStoppedInstanceIsFoundAllTheSame) {
  ASSERT_FALSE(watch(kSecond).has_value());
  ::kill(pid_, SIGSTOP);
  const auto finding = watch(20 * kSecond);
  ASSERT_TRUE(finding.has_value());
  EXPECT_NE(finding->evidence.find("the process is stopped"), std::string::npos) << finding->evidence;
}

}  // namespace
}  // namespace bulkhead::monitors
