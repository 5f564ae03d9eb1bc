// Processes that nothing is wrong with are replaced: because of their age, because of their memory, when it
// is a good time.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <cstdlib>
#include <fstream>

#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;

constexpr const char* kEcho = R"(
[components.echo]
program = "@BIN@/echo_component"
standby = true
socket = "echo.sock"
monitor = { resource_interval = "50ms" }
)";

bool rejuvenated(const v1::Incident& incident) {
  return incident.finding() == "rejuvenation" && incident.outcome() == "recovered";
}

TEST(CoreRejuvenation, BothProcessesAreReplacedWhenTheyAreOld) {
  CoreHost host(std::string(kEcho) + "rejuvenate = { every = \"2s\" }\n");
  const v1::Component before = host.wait_complete("echo");
  EXPECT_GT(before.rejuvenation_due_unix_ms(), 0);
  EXPECT_EQ(host.ask_surely("echo", "count").substr(0, 2), "1 ");
  const v1::Component after = host.wait("echo", "both have been replaced", [&](const v1::Component& c) {
    return c.standby_ready() && c.state() == v1::STATE_SERVING && c.active_pid() != before.active_pid() &&
           c.active_pid() != before.standby_pid() && c.standby_pid() != before.standby_pid();
  });
  EXPECT_GT(after.rejuvenation_due_unix_ms(), before.rejuvenation_due_unix_ms());
  EXPECT_EQ(host.ask_surely("echo", "count").substr(0, 2), "2 ");
  const v1::Incident incident = host.wait_incident("echo", "of the rejuvenation", rejuvenated);
  EXPECT_TRUE(incident.deliberate());
  EXPECT_THAT(incident.evidence(), HasSubstr("older than 2 s"));
  ASSERT_GE(incident.steps_size(), 1);
  EXPECT_THAT(incident.steps(0), HasSubstr("costs no budget"));
  EXPECT_GE(incident.blackout_us(), 0);
}

TEST(CoreRejuvenation, OffMeansNever) {
  CoreHost host(kEcho);
  EXPECT_EQ(host.wait_complete("echo").rejuvenation_due_unix_ms(), 0);
}

// A core that is restarted begins nothing anew and does nothing in haste.
TEST(CoreRejuvenation, TheDateOutlivesTheCore) {
  CoreHost host(std::string(kEcho) + "rejuvenate = { every = \"1h\" }\n", "");
  const v1::Component before = host.wait_complete("echo");
  constexpr std::int64_t kHourMs = 3'600'000;
  const std::int64_t due = before.rejuvenation_due_unix_ms();
  EXPECT_GE(due, before.since_unix_ms() + kHourMs - 60'000);
  for (int i = 0; i < 2; ++i) {
    const pid_t former = host.core_pid();
    host.signal_core(SIGKILL);
    host.wait_for_successor(former);
    const v1::Component now = host.wait_complete("echo");
    constexpr std::int64_t kRounding = 1000;
    EXPECT_LE(std::abs(now.rejuvenation_due_unix_ms() - due), kRounding);
    EXPECT_EQ(now.active_pid(), before.active_pid());
  }
  EXPECT_TRUE(host.incidents("echo").empty());
}

TEST(CoreRejuvenation, ALeakIsGotRidOf) {
  CoreHost host(std::string(kEcho) + "rejuvenate = { growth = \"8MiB\" }\n");
  const v1::Component before = host.wait("echo", "its size is known", [](const v1::Component& c) {
    return c.standby_ready() && c.resources().private_bytes() > 0;
  });
  const grpc::Status leaks = host.inject("echo", "leak", "64MiB", "", 60'000);
  ASSERT_TRUE(leaks.ok()) << leaks.error_message();
  const v1::Incident incident = host.wait_incident("echo", "of the rejuvenation", rejuvenated);
  EXPECT_THAT(incident.evidence(), HasSubstr("private memory"));
  EXPECT_TRUE(incident.deliberate());
  const v1::Component after = host.wait("echo", "another pair", [&](const v1::Component& c) {
    return c.standby_ready() && c.active_pid() != before.active_pid() &&
           c.active_pid() != before.standby_pid() && c.resources().private_bytes() > 0;
  });
  EXPECT_LT(after.resources().private_bytes(), before.resources().private_bytes() + (8U << 20));
}

// Another component is being started: one thing at a time.
TEST(CoreRejuvenation, WaitsForAGoodTime) {
  CoreHost host(std::string(kEcho) + R"(rejuvenate = { every = "1s" }
[components.slow]
kind = "foreign"
program = "/bin/sleep"
args = ["100000"]
readiness = { type = "command", command = ["/usr/bin/test", "-e", "@DIR@gate"], interval = "20ms" }
restart = { start_timeout = "600s" }
)");
  const v1::Component before = host.wait_complete("echo");
  // Well past its date, by the clock that the date is on.
  const auto now_ms = [] {
    return std::chrono::duration_cast<std::chrono::milliseconds>(
               std::chrono::system_clock::now().time_since_epoch())
        .count();
  };
  while (now_ms() < before.rejuvenation_due_unix_ms() + 2500) {
    ASSERT_EQ(host.component("echo").active_pid(), before.active_pid());
  }
  std::ofstream(host.path("gate")).put('\n');
  host.wait_incident("echo", "of the rejuvenation", rejuvenated);
}

}  // namespace
}  // namespace bulkhead::test
