// Kills the active instance at every instruction between its waking up for a request and its going back to
// sleep, by single stepping. The request writes a node that another client watches: whatever the instruction,
// both clients must see exactly one effect.
//
// Every instruction takes minutes, so by default every n-th is taken, from a random first one;
// BULKHEAD_TEST_STEP_STRIDE=1 takes all, and with BULKHEAD_TEST_STEP_FIRST several runs can share the work.
#include <gtest/gtest.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/ptrace.h>
#include <sys/time.h>
#include <sys/wait.h>

#include <cerrno>
#include <cstdlib>
#include <random>
#include <string>

#include "hypervisor/local/machine_process.h"
#include "runtime/clock.h"
#include "tests/support/component_host.h"
#include "tests/support/guest.h"
#include "tests/support/xs_client.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;

constexpr int kDefaultStride = 101;
constexpr std::int64_t kAsleep = 100 * kMillisecond;

int number_from_environment(const char* name, int fallback) {
  const char* text = std::getenv(name);
  return text == nullptr ? fallback : std::atoi(text);
}

// Interrupts blocking calls every now and then.
class Ticks {
 public:
  Ticks() {
    struct sigaction action{};
    action.sa_handler = [](int) {};
    ::sigaction(SIGALRM, &action, nullptr);
    const itimerval interval{{0, kAsleep / kMicrosecond}, {0, kAsleep / kMicrosecond}};
    ::setitimer(ITIMER_REAL, &interval, nullptr);
  }
  Ticks(const Ticks&) = delete;
  Ticks& operator=(const Ticks&) = delete;
  ~Ticks() {
    const itimerval off{};
    ::setitimer(ITIMER_REAL, &off, nullptr);
  }
};

// The main thread of an instance, stopped and stepped. Killing it ends the tracing too.
class Stepper {
 public:
  explicit Stepper(pid_t pid) : pid_(pid) {
    // On one CPU a step is two context switches; on two it is two wake-ups of an idle CPU, many times as
    // long.
    ::sched_getaffinity(0, sizeof former_, &former_);
    cpu_set_t one;
    CPU_ZERO(&one);
    CPU_SET(static_cast<std::size_t>(::sched_getcpu()), &one);
    ::sched_setaffinity(0, sizeof one, &one);
    ::sched_setaffinity(pid, sizeof one, &one);
    seized_ = ::ptrace(PTRACE_SEIZE, pid, nullptr, nullptr) == 0 &&
              ::ptrace(PTRACE_INTERRUPT, pid, nullptr, nullptr) == 0 && stopped(100);
  }
  Stepper(const Stepper&) = delete;
  Stepper& operator=(const Stepper&) = delete;
  ~Stepper() { ::sched_setaffinity(0, sizeof former_, &former_); }
  bool seized() const { return seized_; }

  // False once the instance sleeps in a system call (or is gone).
  bool step() {
    if (::ptrace(PTRACE_SINGLESTEP, pid_, nullptr, nullptr) != 0) return false;
    return stopped(2);
  }

 private:
  // Waits for `ticks` at most.
  bool stopped(int ticks) {
    while (ticks-- > 0) {
      int status = 0;
      const pid_t got = ::waitpid(pid_, &status, __WALL);
      if (got == pid_) return WIFSTOPPED(status);
      if (errno != EINTR) return false;
    }
    return false;
  }

  Ticks ticks_;
  pid_t pid_;
  cpu_set_t former_{};
  bool seized_ = false;
};

// Counts what the two clients are told.
class Ears : public xs::Listener {
 public:
  void on_reply(const xs::Reply& reply) override {
    ++replies;
    failed |= reply.error;
  }
  void on_event(xs::XsClient& /*client*/, std::string_view /*path*/, std::string_view /*token*/) override {
    ++events;
  }

  int replies = 0;
  int events = 0;
  bool failed = false;
};

enum class Way : std::uint8_t { kSocket, kRing };

// Two clients, by sockets or each in a guest of its own.
class XenstoreStep : public ::testing::TestWithParam<Way> {
 protected:
  void SetUp() override {
    std::map<std::string, std::string> settings;
    if (GetParam() == Way::kRing) {
      auto machine = hypervisor::local::MachineProcess::start(BULKHEAD_BIN "/bulkhead-local-hypervisor");
      ASSERT_TRUE(machine.has_value()) << machine.error().message();
      machine_ = std::move(*machine);
      settings["hypervisor"] = machine_->spec();
    }
    auto host = ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", settings, 256, "warning"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
    ASSERT_TRUE(host_->launch().has_value());
    ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
    writer_ = connect("writer");
    watcher_ = connect("watcher");
    auto toolstack = connect_by_socket("toolstack");
    ASSERT_TRUE(toolstack->call(XS_WRITE, 0, std::string("/step\0000", 7)).has_value());
    ASSERT_TRUE(toolstack->call(XS_SET_PERMS, 0, std::string("/step\0b0\0", 9)).has_value());
    ASSERT_TRUE(watcher_->call(XS_WATCH, 0, std::string("/step\0t\0", 8), &ears_).has_value());
    ASSERT_TRUE(hear([&] { return ears_.events == 1; }));  // a watch fires once when it is set
  }

  std::unique_ptr<xs::XsClient> connect_by_socket(const std::string& name) {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log_);
  }
  std::unique_ptr<xs::XsClient> connect(const std::string& name) {
    if (!machine_) return connect_by_socket(name);
    auto guest = testing::Guest::create(machine_->socket());
    EXPECT_TRUE(guest.has_value());
    EXPECT_TRUE(connect_by_socket("toolstack")->call(XS_INTRODUCE, 0, (*guest)->introduction()).has_value());
    auto socket = (*guest)->connect();
    EXPECT_TRUE(socket.has_value());
    guests_.push_back(std::move(*guest));
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log_);
  }

  bool hear(const std::function<bool()>& condition) {
    return host_->wait_until([&] {
      for (auto* client : {writer_.get(), watcher_.get()}) {
        pollfd readable{client->socket().get(), POLLIN, 0};
        if (::poll(&readable, 1, 0) > 0) client->receive(ears_);
      }
      return condition();
    });
  }

  void pair_up() {
    ASSERT_TRUE(host_->launch().has_value());
    ASSERT_TRUE(host_->wait_until([&] { return host_->ready_standby() != nullptr; }));
  }

  // One request, its server killed after `steps` instructions (negative: when it sleeps again). Returns the
  // steps taken.
  int die_after(int steps) {
    ComponentHost::Instance* active = host_->active();
    Stepper stepper(active->pid());
    EXPECT_TRUE(stepper.seized());
    const std::string value = std::to_string(++writes_);
    const Ears before = ears_;
    writer_->send(XS_WRITE, 0, std::string("/step\0", 6) + value);
    writer_->flush();
    int taken = 0;
    while (taken != steps && stepper.step()) ++taken;
    host_->kill(*active);
    EXPECT_TRUE(host_->wait_until([&] { return active->ended() && host_->active() != nullptr; }))
        << "step " << steps;
    EXPECT_TRUE(hear([&] { return ears_.replies > before.replies && ears_.events > before.events; }))
        << "step " << steps;
    // Anything said twice would come before the answer to this.
    auto read = writer_->call(XS_READ, 0, std::string("/step\0", 6), &ears_);
    EXPECT_TRUE(read.has_value() && *read == value) << "step " << steps;
    EXPECT_TRUE(watcher_->call(XS_READ, 0, std::string("/step\0", 6), &ears_).has_value());
    EXPECT_EQ(ears_.replies, before.replies + 1) << "step " << steps;
    EXPECT_EQ(ears_.events, before.events + 1) << "step " << steps;
    EXPECT_FALSE(ears_.failed);
    host_->forget_ended();
    return taken;
  }

  std::unique_ptr<hypervisor::local::MachineProcess> machine_;
  std::unique_ptr<ComponentHost> host_;
  std::vector<std::unique_ptr<testing::Guest>> guests_;
  xs::AnomalyLog log_;
  Ears ears_;
  std::unique_ptr<xs::XsClient> writer_;
  std::unique_ptr<xs::XsClient> watcher_;
  int writes_ = 0;
};

TEST_P(XenstoreStep, DiesAtEveryInstruction) {
  const int stride = number_from_environment("BULKHEAD_TEST_STEP_STRIDE", kDefaultStride);
  ASSERT_GT(stride, 0);
  ASSERT_NO_FATAL_FAILURE(pair_up());
  const int length = die_after(-1);
  ASSERT_GT(length, 500) << "the stepping ended before the request was served";
  std::random_device seed;
  const int first = number_from_environment("BULKHEAD_TEST_STEP_FIRST",
                                            static_cast<int>(seed() % static_cast<unsigned>(stride)));
  int deaths = 0;
  for (int step = first; step < length && !HasFailure(); step += stride) {
    ASSERT_NO_FATAL_FAILURE(pair_up());
    die_after(step);
    ++deaths;
  }
  EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
  for (const auto& guest : guests_) EXPECT_TRUE(guest->complaints().empty());
  std::printf("%d instructions, died at %d of them, beginning with %d\n", length, deaths, first);
}

INSTANTIATE_TEST_SUITE_P(By, XenstoreStep, ::testing::Values(Way::kSocket, Way::kRing),
                         [](const auto& way) { return way.param == Way::kSocket ? "Socket" : "Ring"; });

}  // namespace
}  // namespace bulkhead
