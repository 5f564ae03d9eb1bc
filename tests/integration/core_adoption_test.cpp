// The core dies, at any instant, and is started again: what it supervised has gone on, and it knows it all.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>

#include <atomic>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>
#include <thread>

#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;

constexpr const char* kComponents = R"(
[components.echo]
program = "@BIN@/echo_component"
standby = true
socket = "echo.sock"
ring_entries = 8
restart = { backoff_initial = "10ms", backoff_max = "50ms", stop_timeout = "2s" }
[components.sleeper]
kind = "foreign"
program = "/bin/sleep"
args = ["100000"]
)";

void kill_core(CoreHost& host, int signal_number = SIGKILL) {
  const pid_t former = host.core_pid();
  host.signal_core(signal_number);
  host.wait_for_successor(former);
}

// Same processes, same custody, one owner, and it can still be recovered.
void expect_intact(CoreHost& host, const v1::Component& before) {
  const v1::Component now = host.wait_complete("echo");
  EXPECT_EQ(now.active_pid(), before.active_pid());
  EXPECT_EQ(now.standby_pid(), before.standby_pid());
  EXPECT_EQ(now.incarnation(), before.incarnation());
  EXPECT_EQ(host.custody_of("echo"), (std::set<std::string>{"lease", "listener", "state", "ring"}));
}

TEST(CoreAdoption, KilledCoreFindsEverythingAsItWas) {
  CoreHost host(kComponents, "");
  const v1::Component echo = host.wait_complete("echo");
  const v1::Component sleeper =
      host.wait("sleeper", "it runs", [](const v1::Component& c) { return c.ready(); });
  const v1::Component edge = host.component("api");
  EXPECT_EQ(host.echo_count(), 1U);
  kill_core(host);
  expect_intact(host, echo);
  EXPECT_EQ(host.component("sleeper").active_pid(), sleeper.active_pid());
  EXPECT_EQ(host.component("api").active_pid(), edge.active_pid());
  EXPECT_EQ(host.echo_count(), 2U);
  v1::GetVersionResponse version;
  ASSERT_TRUE(host.api().GetVersion(CoreHost::deadline().get(), {}, &version).ok());
  EXPECT_EQ(version.core_generation(), 2U);
  const v1::Incident incident =
      host.wait_incident("", "of the core", [](const v1::Incident& i) { return i.finding() == "core"; });
  EXPECT_FALSE(incident.deliberate());
}

TEST(CoreAdoption, ClientsNoticeNothingWhileTheCoreIsKilledAgainAndAgain) {
  CoreHost host(kComponents, "");
  const v1::Component echo = host.wait_complete("echo");
  std::atomic<bool> stop{false};
  std::uint64_t asked = 0, wrong = 0;
  std::thread client([&] {
    while (!stop.load()) {
      std::uint64_t number = 0;
      std::istringstream(host.ask("echo", "count")) >> number;
      if (number != ++asked) ++wrong;
    }
  });
  for (int i = 0; i < 5; ++i) kill_core(host);
  stop.store(true);
  client.join();
  EXPECT_EQ(wrong, 0U) << "of " << asked;
  EXPECT_GT(asked, 5U);
  expect_intact(host, echo);
}

TEST(CoreAdoption, MonitorsAndRecoveryGoOn) {
  CoreHost host(kComponents, "");
  v1::Component before = host.wait_complete("echo");
  kill_core(host);
  ASSERT_EQ(::kill(before.active_pid(), SIGSTOP), 0);
  host.wait("echo", "the hung one is succeeded", [&](const v1::Component& c) {
    return c.incarnation() == 2 && c.active_pid() == before.standby_pid() && c.standby_ready();
  });
  before = host.wait_complete("echo");
  kill_core(host);
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  host.wait("echo", "the killed one is succeeded", [&](const v1::Component& c) {
    return c.incarnation() == 3 && c.active_pid() == before.standby_pid() && c.standby_ready();
  });
}

TEST(CoreAdoption, OwnerThatDiedMeanwhileIsAccountedFor) {
  CoreHost host(kComponents, "");
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(host.echo_count(), 1U);
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  EXPECT_EQ(host.echo_count(), 2U);
  host.wait_for_successor(former);
  const v1::Component after = host.wait_complete("echo");
  EXPECT_EQ(after.active_pid(), before.standby_pid());
  EXPECT_EQ(after.incarnation(), 2U);
  const v1::Incident incident = host.wait_incident(
      "echo", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_EQ(incident.finding(), "exit");
}

TEST(CoreAdoption, EverybodyDiedMeanwhile) {
  CoreHost host(kComponents, "");
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(host.echo_count(), 1U);
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  for (const pid_t pid : host.processes_of("echo")) ::kill(pid, SIGKILL);
  host.wait_for_successor(former);
  EXPECT_EQ(host.echo_count(), 2U);  // what is in custody has outlived them all
  const v1::Component after = host.wait_complete("echo");
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{after.active_pid(), after.standby_pid()}));
}

TEST(CoreAdoption, ForeignOneThatDiedMeanwhileHasUnknownTimes) {
  CoreHost host(kComponents, "");
  const v1::Component before =
      host.wait("sleeper", "it runs", [](const v1::Component& c) { return c.ready(); });
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  host.wait_for_successor(former);
  host.wait("sleeper", "it is started again",
            [&](const v1::Component& c) { return c.ready() && c.active_pid() != before.active_pid(); });
  const v1::Incident incident = host.wait_incident(
      "sleeper", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_EQ(incident.detection_us(), -1);
  EXPECT_EQ(incident.blackout_us(), -1);
}

// The owner hangs when it is asked to yield, and the core that would have fenced it for that dies.
TEST(CoreAdoption, HandOverGoesOnInTheNextCore) {
  CoreHost host(R"(
[components.echo]
program = "@BIN@/echo_component"
standby = true
socket = "echo.sock"
restart = { hand_over_timeout = "2s" }
monitor = { progress_deadline = "600s" }
)",
                "");
  const v1::Component before = host.wait_complete("echo");
  ASSERT_EQ(::kill(before.active_pid(), SIGSTOP), 0);
  v1::HandOverRequest request;
  request.set_component("echo");
  v1::HandOverResponse response;
  grpc::ClientContext context;
  const auto call =
      std::async(std::launch::async, [&] { return host.api().HandOver(&context, request, &response); });
  host.wait("echo", "it was asked to yield",
            [](const v1::Component& c) { return c.state() == v1::STATE_RECOVERING; });
  kill_core(host);
  call.wait();  // ends with the core that took it
  const v1::Component after = host.wait_complete("echo");
  EXPECT_EQ(after.active_pid(), before.standby_pid());
  EXPECT_EQ(after.incarnation(), 2U);
  EXPECT_FALSE(running(before.active_pid()));
  const v1::Incident incident = host.wait_incident("echo", "of the hand over", [](const v1::Incident& i) {
    return i.finding() == "handover" && i.outcome() == "recovered";
  });
  EXPECT_TRUE(incident.deliberate());
  EXPECT_GE(incident.blackout_us(), 1'000'000);  // from its last turn, not from some request
}

TEST(CoreAdoption, FaultsAreUndone) {
  CoreHost host(std::string(kComponents) + "[components.echo.monitor]\nprogress_deadline = \"60s\"\n", "");
  const v1::Component before = host.wait_complete("echo");
  ASSERT_TRUE(host.inject("echo", "hang", "", "", 600'000).ok());
  ASSERT_TRUE(host.inject("echo", "slow", "1s", "standby", 600'000).ok());
  kill_core(host);
  EXPECT_EQ(host.echo_count(), 1U);
  v1::ListFaultsResponse faults;
  ASSERT_TRUE(host.api().ListFaults(CoreHost::deadline().get(), {}, &faults).ok());
  EXPECT_EQ(faults.faults_size(), 0);
  expect_intact(host, before);
}

TEST(CoreAdoption, PlannedRestartIsTheSame) {
  CoreHost host(kComponents, "");
  const v1::Component before = host.wait_complete("echo");
  kill_core(host, SIGUSR2);
  expect_intact(host, before);
  const v1::Incident incident =
      host.wait_incident("", "of the core", [](const v1::Incident& i) { return i.finding() == "core"; });
  EXPECT_TRUE(incident.deliberate());
}

TEST(CoreAdoption, WhatAnOperatorStoppedStaysStopped) {
  CoreHost host(kComponents, "");
  host.wait_complete("echo");
  v1::DisableRequest request;
  request.set_component("echo");
  v1::DisableResponse response;
  ASSERT_TRUE(host.api().Disable(CoreHost::deadline().get(), request, &response).ok());
  kill_core(host);
  EXPECT_EQ(host.component("echo").state(), v1::STATE_STOPPED);
  EXPECT_TRUE(host.processes_of("echo").empty());
}

TEST(CoreAdoption, IsolationOutlivesTheCore) {
  CoreHost host(R"(
[components.broken]
kind = "foreign"
program = "/bin/false"
restart = { budget = 1, window = "60s", backoff_initial = "1ms", backoff_max = "1ms" }
)",
                "");
  host.wait("broken", "it is isolated",
            [](const v1::Component& c) { return c.state() == v1::STATE_ISOLATED; });
  kill_core(host);
  EXPECT_EQ(host.component("broken").state(), v1::STATE_ISOLATED);
}

// Makes the manifest that the running core writes one of no known layout.
void spoil_manifest(const CoreHost& host) {
  const std::string directory = "/proc/" + std::to_string(host.core_pid()) + "/fd";
  for (const auto& entry : std::filesystem::directory_iterator(directory)) {
    std::error_code gone;
    if (!std::filesystem::read_symlink(entry, gone).string().contains("bulkhead-manifest")) continue;
    std::fstream file(entry.path(), std::ios::in | std::ios::out | std::ios::binary);
    file << "spoilt!!";
    ASSERT_TRUE(file.flush().good());
    return;
  }
  FAIL() << "no manifest in " << directory;
}

TEST(CoreAdoption, UnreadableManifestCostsTheProcessesOnceAndNothingElse) {
  CoreHost host(kComponents, "");
  const v1::Component before = host.wait_complete("echo");
  const v1::Component sleeper =
      host.wait("sleeper", "it runs", [](const v1::Component& c) { return c.ready(); });
  EXPECT_EQ(host.echo_count(), 1U);
  spoil_manifest(host);
  kill_core(host);
  EXPECT_EQ(host.echo_count(), 2U);  // custody is known by its names
  const v1::Component after = host.wait_complete("echo");
  EXPECT_NE(after.active_pid(), before.active_pid());
  host.wait("sleeper", "another one runs",
            [&](const v1::Component& c) { return c.ready() && c.active_pid() != sleeper.active_pid(); });
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{after.active_pid(), after.standby_pid()}));
  EXPECT_EQ(host.processes_of("sleeper").size(), 1U);
  const v1::Incident incident =
      host.wait_incident("", "of the core", [](const v1::Incident& i) { return i.finding() == "core"; });
  EXPECT_THAT(incident.evidence(), HasSubstr("manifest"));
  // The manifest that the second core made is there for the third.
  kill_core(host);
  expect_intact(host, after);
}

// ---- every named crash point ----

struct CrashCase {
  std::string point;      // with ":COUNT"
  std::string operation;  // what makes the core pass it; empty: starting up does
};
std::ostream& operator<<(std::ostream& out, const CrashCase& at) {
  return out << at.point;
}

class CoreCrashPoint : public ::testing::TestWithParam<CrashCase> {};

void operate(CoreHost& host, const std::string& operation) {
  if (operation.empty()) return;
  host.wait_complete("echo");
  if (operation == "deposit") {
    EXPECT_EQ(host.ask_surely("echo", "deposit extra 4096"), "ok");
  } else if (operation == "withdraw") {
    EXPECT_EQ(host.ask_surely("echo", "deposit extra 4096"), "ok");
    EXPECT_EQ(host.ask_surely("echo", "withdraw extra"), "ok");
  } else if (operation == "fault") {
    // The answer dies with the core; the fault may or may not have been carried out.
    v1::InjectFaultRequest request;
    request.set_component("echo");
    request.set_kind("hang");
    v1::InjectFaultResponse response;
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(300));
    (void)host.api().InjectFault(&context, request, &response);
  } else if (operation == "stop") {
    host.signal_core(SIGTERM);  // the core alone: whoever started it starts it again
  } else if (operation == "kill") {
    ::kill(host.component("echo").active_pid(), SIGKILL);
  }
}

TEST_P(CoreCrashPoint, NothingIsLostOrLeftBehind) {
  CoreHost host(kComponents, GetParam().point);
  operate(host, GetParam().operation);
  host.wait_for_run(2);  // it has died there
  v1::Component echo = host.wait_complete("echo");
  host.wait("sleeper", "it runs", [](const v1::Component& c) { return c.ready(); });
  // Nobody is left whom the core does not know.
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{echo.active_pid(), echo.standby_pid()}));
  EXPECT_EQ(host.processes_of("sleeper"), (std::set<pid_t>{host.component("sleeper").active_pid()}));
  const std::set<std::string> custody = host.custody_of("echo");
  EXPECT_EQ(custody.contains("extra"), GetParam().operation == "deposit");
  for (const char* item : {"lease", "listener", "state", "ring"}) EXPECT_TRUE(custody.contains(item)) << item;
  // What they said of themselves is known.
  EXPECT_FALSE(echo.active_program().version().empty());
  EXPECT_FALSE(echo.standby_program().version().empty());
  // And it can be recovered: the successor holds everything, too.
  const std::uint64_t before = host.echo_count();
  ASSERT_EQ(::kill(echo.active_pid(), SIGKILL), 0);
  EXPECT_EQ(host.echo_count(), before + 1);
  EXPECT_EQ(host.ask_surely("echo", "custody extra"), GetParam().operation == "deposit" ? "yes" : "no");
  host.wait("echo", "it is complete again", [&](const v1::Component& c) {
    return c.incarnation() > echo.incarnation() && c.standby_ready();
  });
  EXPECT_EQ(host.core_runs(), 2);
  for (const v1::Incident& incident : host.incidents("")) {
    EXPECT_NE(incident.outcome(), "open") << incident.DebugString();
  }
}

std::vector<CrashCase> startup_cases() {
  std::vector<CrashCase> cases;
  // Processes start in this order: owner, sleeper, edge, standby.
  for (const char* point : {"core-launch-intent", "core-launch-linked", "core-launch-started",
                            "core-launch-half-parked", "core-launch-parked", "core-launch-recorded",
                            "core-manifest-before-flip", "core-manifest-after-flip"}) {
    for (int i = 1; i <= 4; ++i) cases.push_back({std::string(point) + ":" + std::to_string(i), ""});
  }
  for (const char* point : {"core-link-half-parked", "core-introduce-half", "core-introduced"}) {
    for (int i = 1; i <= 2; ++i) cases.push_back({std::string(point) + ":" + std::to_string(i), ""});
  }
  // Hello, deposit, active, ready; hello, ready of the standby.
  for (const char* point :
       {"core-message-before-handling", "core-message-before-discard", "core-message-discarded"}) {
    for (int i = 1; i <= 6; ++i) cases.push_back({std::string(point) + ":" + std::to_string(i), ""});
  }
  // Lease, listening socket, the edge's; then the component's own.
  for (const char* point : {"core-deposit-before-park", "core-deposit-after-park"}) {
    for (int i = 1; i <= 4; ++i) cases.push_back({std::string(point) + ":" + std::to_string(i), ""});
    cases.push_back({std::string(point) + ":5", "deposit"});
  }
  cases.push_back({"core-edge-before-launch:1", ""});
  return cases;
}

std::string case_name(const ::testing::TestParamInfo<CrashCase>& info) {
  std::string name = info.param.point + (info.param.operation.empty() ? "" : "_" + info.param.operation);
  for (char& c : name) {
    if (std::isalnum(static_cast<unsigned char>(c)) == 0) c = '_';
  }
  return name;
}

INSTANTIATE_TEST_SUITE_P(Startup, CoreCrashPoint, ::testing::ValuesIn(startup_cases()), case_name);
INSTANTIATE_TEST_SUITE_P(Operation, CoreCrashPoint,
                         ::testing::Values(CrashCase{"core-withdraw-before-remove:1", "withdraw"},
                                           CrashCase{"core-withdraw-after-remove:1", "withdraw"},
                                           CrashCase{"core-fault-before-record:1", "fault"},
                                           CrashCase{"core-fault-before-act:1", "fault"},
                                           CrashCase{"core-fault-after-act:1", "fault"},
                                           CrashCase{"core-exit-before-handling:1", "kill"},
                                           CrashCase{"core-exit-after-handling:1", "kill"},
                                           CrashCase{"core-stop-before-cleanup:1", "stop"}),
                         case_name);

}  // namespace
}  // namespace bulkhead::test
