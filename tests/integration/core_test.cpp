// The core with real processes: start, recovery, operators' requests, faults, custody, foreign components.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/resource.h>

#include <filesystem>
#include <fstream>
#include <map>
#include <sstream>
#include <thread>

#include "runtime/pidfd.h"
#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;

constexpr const char* kEcho = R"(
[components.echo]
program = "@BIN@/echo_component"
standby = true
socket = "echo.sock"
ring_entries = 8
restart = { backoff_initial = "10ms", backoff_max = "50ms", stop_timeout = "2s" }
)";

struct Count {
  std::uint64_t count = 0, incarnation = 0;
  pid_t pid = 0;
};

Count count(const CoreHost& host) {
  Count result;
  std::istringstream(host.ask_surely("echo", "count")) >> result.count >> result.incarnation >> result.pid;
  return result;
}

TEST(Core, StartsAPairAndSaysSo) {
  CoreHost host(kEcho);
  const v1::Component echo = host.wait_complete("echo");
  EXPECT_TRUE(echo.wanted() && echo.running() && echo.healthy());
  EXPECT_EQ(echo.incarnation(), 1U);
  EXPECT_FALSE(echo.foreign());
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{echo.active_pid(), echo.standby_pid()}));
  const Count first = count(host);
  EXPECT_EQ(first.count, 1U);
  EXPECT_EQ(first.pid, echo.active_pid());
}

TEST(Core, StandbyTakesOverWhenTheActiveIsKilled) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(count(host).count, 1U);
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  EXPECT_EQ(count(host).count, 2U);  // the listening socket and the state have outlived the process
  const v1::Component after =
      host.wait("echo", "a second incarnation is complete", [](const v1::Component& c) {
        return c.incarnation() == 2 && c.standby_ready() && c.state() == v1::STATE_SERVING;
      });
  EXPECT_EQ(after.active_pid(), before.standby_pid());
  EXPECT_NE(after.standby_pid(), before.active_pid());
  const v1::Incident incident = host.wait_incident(
      "echo", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_EQ(incident.finding(), "exit");
  EXPECT_THAT(incident.evidence(), HasSubstr("signal 9"));
  EXPECT_FALSE(incident.deliberate());
  EXPECT_EQ(incident.incarnation(), 1U);
  EXPECT_GE(incident.blackout_us(), 0);
}

TEST(Core, HungActiveIsFenced) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  ASSERT_EQ(::kill(before.active_pid(), SIGSTOP), 0);
  EXPECT_EQ(count(host).pid, before.standby_pid());
  EXPECT_FALSE(running(before.active_pid()));
  const v1::Incident incident = host.wait_incident(
      "echo", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_EQ(incident.finding(), "progress");
}

TEST(Core, HungStandbyIsReplacedAndNobodyNotices) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  ASSERT_EQ(::kill(before.standby_pid(), SIGSTOP), 0);
  const v1::Component after = host.wait("echo", "another standby is ready", [&](const v1::Component& c) {
    return c.standby_ready() && c.standby_pid() != before.standby_pid();
  });
  EXPECT_EQ(after.active_pid(), before.active_pid());
  EXPECT_EQ(after.incarnation(), 1U);
}

TEST(Core, KilledStandbyIsReplaced) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  ASSERT_EQ(::kill(before.standby_pid(), SIGKILL), 0);
  const v1::Component after = host.wait("echo", "another standby is ready", [&](const v1::Component& c) {
    return c.standby_ready() && c.standby_pid() != before.standby_pid();
  });
  EXPECT_EQ(after.active_pid(), before.active_pid());
}

TEST(Core, StandbyThatFailsAgainAndAgainIsOneIncident) {
  CoreHost host(kEcho);
  for (int i = 0; i < 3; ++i) {
    const v1::Component before = host.wait_complete("echo");
    ASSERT_EQ(::kill(before.standby_pid(), SIGKILL), 0);
    host.wait("echo", "another standby is ready", [&](const v1::Component& c) {
      return c.standby_ready() && c.standby_pid() != before.standby_pid();
    });
  }
  const std::vector<v1::Incident> incidents = host.incidents("echo");
  ASSERT_EQ(incidents.size(), 1U);
  EXPECT_THAT(incidents[0].evidence(), HasSubstr("signal 9"));
  EXPECT_THAT(incidents[0].evidence(), HasSubstr("(3 times)"));
  EXPECT_EQ(incidents[0].outcome(), "recovered");
  EXPECT_EQ(incidents[0].blackout_us(), 0);
}

TEST(Core, IncidentOfAStandbyIsOpenWhileNoneIsReady) {
  CoreHost host(R"(
[components.echo]
program = "/bin/sh"
args = ["-c", "test -e @DIR@broken && exit 3; exec @BIN@/echo_component"]
standby = true
socket = "echo.sock"
restart = { backoff_initial = "10ms", backoff_max = "50ms" }
)");
  const v1::Component before = host.wait_complete("echo");
  {
    std::ofstream broken(host.path("broken"));
  }
  ASSERT_EQ(::kill(before.standby_pid(), SIGKILL), 0);
  const v1::Incident looping = host.wait_incident("echo", "of several attempts", [](const v1::Incident& i) {
    return i.evidence().contains("exit status 3 (4 times)");
  });
  EXPECT_EQ(looping.outcome(), "open");
  EXPECT_EQ(host.component("echo").active_pid(), before.active_pid());
  std::filesystem::remove(host.path("broken"));
  host.wait_complete("echo");
  host.wait_incident("echo", "over", [&](const v1::Incident& i) {
    return i.id() == looping.id() && i.outcome() == "recovered";
  });
  EXPECT_EQ(host.incidents("echo").size(), 1U);
}

// The whole way: requests become slow, the probe notices, the standby takes over before anything fails.
TEST(Core, SlowOwnerIsHandedOver) {
  CoreHost host(R"(
[components.xenstore]
socket = "@DIR@xenstored"
monitor = { probe_interval = "5ms" }
)");
  const v1::Component before = host.wait_complete("xenstore");
  const auto handed_over = [](const v1::Incident& i) {
    return i.finding() == "latency" && i.outcome() == "recovered";
  };
  // The monitor needs some probes before it knows what is usual: until then, another fault.
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (host.incidents("xenstore").empty() && std::chrono::steady_clock::now() < end) {
    const grpc::Status status = host.inject("xenstore", "slow", "50ms", "", 2000);
    ASSERT_TRUE(status.ok()) << status.error_message();
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(3));
    v1::WatchIncidentsRequest request;
    v1::Incident incident;
    const auto stream = host.api().WatchIncidents(&context, request);
    while (stream->Read(&incident) && !handed_over(incident)) {
    }
    context.TryCancel();
    (void)stream->Finish();
  }
  const v1::Incident incident = host.wait_incident("xenstore", "of the slowness", handed_over);
  EXPECT_TRUE(incident.deliberate());
  EXPECT_EQ(incident.fault(), "slow 50ms");
  EXPECT_GT(incident.detection_us(), 0);
  ASSERT_EQ(incident.steps_size(), 1) << incident.DebugString();  // one hand over is one step
  EXPECT_THAT(incident.steps(0), HasSubstr("costs no budget"));
  EXPECT_GE(incident.blackout_us(), 0);
  EXPECT_LT(incident.blackout_us(), 1'000'000);  // it answered, slowly, until it yielded
  EXPECT_EQ(host.wait_complete("xenstore").active_pid(), before.standby_pid());
}

TEST(Core, BothKilledIsRebuiltFromCustody) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(count(host).count, 1U);
  ASSERT_EQ(::kill(before.standby_pid(), SIGSTOP), 0);  // so that it cannot take over meanwhile
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  ASSERT_EQ(::kill(before.standby_pid(), SIGKILL), 0);
  EXPECT_EQ(count(host).count, 2U);
  const v1::Component after = host.wait_complete("echo");
  EXPECT_GE(after.incarnation(), 2U);
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{after.active_pid(), after.standby_pid()}));
}

TEST(Core, ExhaustedBudgetIsolatesUntilEnabled) {
  const std::string components = std::string(kEcho) + R"(
[components.broken]
kind = "foreign"
program = "/bin/false"
restart = { budget = 2, window = "60s", backoff_initial = "1ms", backoff_max = "1ms" }
)";
  CoreHost host(components);
  const v1::Component broken = host.wait(
      "broken", "it is isolated", [](const v1::Component& c) { return c.state() == v1::STATE_ISOLATED; });
  EXPECT_FALSE(broken.running());
  host.wait_complete("echo");  // everything else runs on
  const v1::Incident incident = host.wait_incident(
      "broken", "isolated", [](const v1::Incident& i) { return i.outcome() == "isolated"; });
  EXPECT_THAT(incident.evidence(), HasSubstr("exit status 1"));
  v1::EnableRequest request;
  request.set_component("broken");
  v1::EnableResponse response;
  ASSERT_TRUE(host.api().Enable(CoreHost::deadline().get(), request, &response).ok());
  EXPECT_NE(response.component().state(), v1::STATE_ISOLATED);
  host.wait("broken", "it is isolated again", [&](const v1::Component& c) {
    return c.state() == v1::STATE_ISOLATED && c.since_unix_ms() >= broken.since_unix_ms();
  });
}

// ---- operators ----

TEST(Core, HandOverAnswersWhenTheSuccessorServes) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  v1::HandOverRequest request;
  request.set_component("echo");
  v1::HandOverResponse response;
  const grpc::Status status = host.api().HandOver(CoreHost::deadline().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(response.component().active_pid(), before.standby_pid());
  EXPECT_EQ(response.component().incarnation(), 2U);
  EXPECT_GE(response.blackout_us(), 0);
  const v1::Incident incident = host.wait_incident("echo", "of the hand over", [](const v1::Incident& i) {
    return i.finding() == "handover" && i.outcome() == "recovered";
  });
  EXPECT_TRUE(incident.deliberate());
}

TEST(Core, HandOverWithoutReadyStandbyIsRefused) {
  CoreHost host(R"(
[components.lonely]
program = "@BIN@/echo_component"
socket = "lonely.sock"
)");
  host.wait("lonely", "it serves", [](const v1::Component& c) { return c.ready(); });
  v1::HandOverRequest request;
  request.set_component("lonely");
  v1::HandOverResponse response;
  const grpc::Status status = host.api().HandOver(CoreHost::deadline().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("standby"));
}

TEST(Core, RestartReplacesEveryInstanceWithoutLosingState) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(count(host).count, 1U);
  v1::RestartRequest request;
  request.set_component("echo");
  v1::RestartResponse response;
  const grpc::Status status = host.api().Restart(CoreHost::deadline().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
  const v1::Component after = host.wait_complete("echo");
  const std::set<pid_t> old{before.active_pid(), before.standby_pid()};
  EXPECT_FALSE(old.contains(after.active_pid()));
  EXPECT_FALSE(old.contains(after.standby_pid()));
  EXPECT_EQ(count(host).count, 2U);
}

TEST(Core, DrainStopsUntilEnabled) {
  CoreHost host(kEcho);
  host.wait_complete("echo");
  v1::DrainRequest drain;
  drain.set_component("echo");
  v1::DrainResponse drained;
  ASSERT_TRUE(host.api().Drain(CoreHost::deadline().get(), drain, &drained).ok());
  EXPECT_EQ(drained.component().state(), v1::STATE_STOPPED);
  EXPECT_FALSE(drained.component().wanted());
  EXPECT_TRUE(host.processes_of("echo").empty());
  v1::EnableRequest enable;
  enable.set_component("echo");
  v1::EnableResponse enabled;
  ASSERT_TRUE(host.api().Enable(CoreHost::deadline().get(), enable, &enabled).ok());
  host.wait_complete("echo");
  EXPECT_EQ(count(host).count, 1U);
}

TEST(Core, UnknownComponentIsNotFoundAndTheKnownOnesAreTold) {
  CoreHost host(kEcho);
  v1::HandOverRequest request;
  request.set_component("ehco");
  v1::HandOverResponse response;
  const grpc::Status status = host.api().HandOver(CoreHost::deadline().get(), request, &response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_THAT(status.error_message(), HasSubstr("echo"));
}

// ---- faults ----

TEST(Core, EveryFaultOfTheActiveIsSurvivedOrBorne) {
  CoreHost host(kEcho);
  for (const std::string kind : {"crash", "abort", "exit", "hang", "spin", "deadlock"}) {
    SCOPED_TRACE(kind);
    const v1::Component before = host.wait_complete("echo");
    const grpc::Status status = host.inject("echo", kind);
    ASSERT_TRUE(status.ok()) << status.error_message();
    host.wait("echo", "the standby has taken over", [&](const v1::Component& c) {
      return c.state() == v1::STATE_SERVING && c.active_pid() == before.standby_pid();
    });
    const v1::Incident incident = host.wait_incident("echo", "deliberate", [&](const v1::Incident& i) {
      return i.fault() == kind && i.outcome() == "recovered";
    });
    EXPECT_TRUE(incident.deliberate());
  }
}

TEST(Core, CrashPointKillsWhereItSays) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  const grpc::Status status = host.inject("echo", "crash-at", "echo-after-count");
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(host.ask("echo", "count"), "");  // counted, then died before the answer
  const Count next = count(host);
  EXPECT_EQ(next.count, 2U);
  EXPECT_EQ(next.pid, before.standby_pid());
}

TEST(Core, HangEndsWithItsLease) {
  CoreHost host(std::string(kEcho) + "monitor = { progress_deadline = \"60s\" }\n");
  const v1::Component before = host.wait_complete("echo");
  ASSERT_TRUE(host.inject("echo", "hang", "", "", 200).ok());
  const Count next = count(host);  // answered when the lease is over
  EXPECT_EQ(next.pid, before.active_pid());
  v1::ListFaultsResponse faults;
  ASSERT_TRUE(host.api().ListFaults(CoreHost::deadline().get(), {}, &faults).ok());
  EXPECT_EQ(faults.faults_size(), 0);
}

TEST(Core, FaultsAreListedAndCleared) {
  CoreHost host(kEcho);
  host.wait_complete("echo");
  ASSERT_TRUE(host.inject("echo", "slow", "1ms").ok());
  ASSERT_TRUE(host.inject("echo", "drop-heartbeat", "", "standby").ok());
  v1::ListFaultsResponse faults;
  ASSERT_TRUE(host.api().ListFaults(CoreHost::deadline().get(), {}, &faults).ok());
  EXPECT_GE(faults.faults_size(), 1);
  EXPECT_GT(faults.kinds_size(), 5);
  v1::ClearFaultsResponse cleared;
  ASSERT_TRUE(host.api().ClearFaults(CoreHost::deadline().get(), {}, &cleared).ok());
  EXPECT_GE(cleared.cleared_size(), 1);
  ASSERT_TRUE(host.api().ListFaults(CoreHost::deadline().get(), {}, &faults).ok());
  EXPECT_EQ(faults.faults_size(), 0);
}

TEST(Core, BadFaultsAreRefusedWithWhatWouldBeRight) {
  CoreHost host(kEcho);
  host.wait_complete("echo");
  grpc::Status status = host.inject("echo", "explode");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("crash-at"));
  status = host.inject("echo", "crash-at", "nowhere");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("echo-after-count"));
  status = host.inject("echo", "slow", "fast");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  status = host.inject("echo", "crash", "", "third");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  status = host.inject("echo", "hang", "", "", 4'000'000);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  status = host.inject("api", "spin");
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

// ---- custody ----

TEST(Core, DepositsReachTheSuccessor) {
  CoreHost host(kEcho);
  const v1::Component before = host.wait_complete("echo");
  EXPECT_EQ(host.ask("echo", "deposit extra 8192"), "ok");
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  EXPECT_EQ(host.ask_surely("echo", "custody extra"), "yes");
  EXPECT_EQ(host.ask_surely("echo", "custody nothing"), "no");
  v1::ListCustodyRequest request;
  request.set_component("echo");
  v1::ListCustodyResponse custody;
  ASSERT_TRUE(host.api().ListCustody(CoreHost::deadline().get(), request, &custody).ok());
  std::map<std::string, std::string> kinds;
  for (const v1::CustodyItem& item : custody.items()) kinds[item.name()] = item.kind();
  EXPECT_EQ(kinds, (std::map<std::string, std::string>{{"lease", "segment"},
                                                       {"listener", "socket"},
                                                       {"state", "segment"},
                                                       {"extra", "segment"},
                                                       {"ring", "ring"}}));
  EXPECT_EQ(host.ask_surely("echo", "withdraw extra"), "ok");
  host.wait("echo", "it is withdrawn", [](const v1::Component& c) { return c.custody_items() == 4; });
}

TEST(Core, CustodyIsBounded) {
  CoreHost host(std::string("[custody]\nmax_items = 5\nmax_bytes = \"1MiB\"\n") + kEcho);
  host.wait_complete("echo");
  EXPECT_THAT(host.ask("echo", "deposit big 2000000"), HasSubstr("allowed"));
  EXPECT_EQ(host.ask("echo", "deposit one 4096"), "ok");
  EXPECT_THAT(host.ask("echo", "deposit one 4096"), HasSubstr("withdraw"));
  EXPECT_THAT(host.ask("echo", "deposit Bad_Name 4096"), HasSubstr("bad item name"));
  EXPECT_EQ(host.ask("echo", "deposit two 4096"), "ok");
  EXPECT_THAT(host.ask("echo", "deposit three 4096"), HasSubstr("full"));
}

TEST(Core, CustodyOfAllComponentsIsBounded) {
  CoreHost host(std::string("[custody]\nmax_items_total = 4\n") + kEcho);  // lease, two listeners, state
  host.wait_complete("echo");
  EXPECT_THAT(host.ask("echo", "deposit one 4096"), HasSubstr("all components"));
}

TEST(Core, ComponentsHaveTheirOwnPlaceWhenMemoryIsShort) {
  CoreHost host(std::string(kEcho) + "limits = { oom_score_adjust = 123 }\n");
  const v1::Component echo = host.wait_complete("echo");
  for (const pid_t pid : {echo.active_pid(), echo.standby_pid()}) {
    int adjust = 0;
    std::ifstream("/proc/" + std::to_string(pid) + "/oom_score_adj") >> adjust;
    EXPECT_EQ(adjust, 123);
  }
}

// The thread that serves goes first, and does so from its first request on; what a standby does meanwhile
// does not.
TEST(Core, TheOneThatServesHasItsOwnPriority) {
  CoreHost host(std::string(kEcho) + "limits = { nice = 7 }\n");
  const v1::Component echo = host.wait_complete("echo");
  const int own = ::getpriority(PRIO_PROCESS, 0);
  const auto nice = [](pid_t thread) { return ::getpriority(PRIO_PROCESS, static_cast<id_t>(thread)); };
  for (const pid_t pid : {echo.active_pid(), echo.standby_pid()}) {
    EXPECT_EQ(nice(pid), 7);
    for (const auto& task : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/task")) {
      const pid_t thread = std::stoi(task.path().filename());
      EXPECT_EQ(nice(thread), thread == pid ? 7 : own);
    }
  }
  const auto session = [](pid_t pid) {
    std::string group;
    std::getline(std::ifstream("/proc/" + std::to_string(pid) + "/autogroup"), group);
    return group.substr(std::min(group.find(' '), group.size()));
  };
  if (session(echo.active_pid()).empty()) return;  // a kernel without autogroups
  EXPECT_EQ(session(echo.active_pid()), " nice 7");
  EXPECT_EQ(session(echo.standby_pid()), " nice 0");
  ASSERT_EQ(::kill(echo.active_pid(), SIGKILL), 0);
  host.wait("echo", "the standby has taken over", [&](const v1::Component& c) {
    return c.active_pid() == echo.standby_pid() && c.state() == v1::STATE_SERVING;
  });
  EXPECT_EQ(session(echo.standby_pid()), " nice 7");
}

// ---- foreign components ----

TEST(Core, ForeignComponentsStartInOrderAndStopInReverse) {
  CoreHost host(R"(
[components.first]
kind = "foreign"
program = "/bin/sh"
args = ["-c", "trap 'echo first-down >>@DIR@order; exit 0' TERM; echo first-up >>@DIR@order; while :; do sleep 0.01; done"]
readiness = { type = "command", command = ["/usr/bin/test", "-e", "@DIR@gate"], interval = "10ms" }
[components.second]
kind = "foreign"
program = "/bin/sh"
args = ["-c", "trap 'echo second-down >>@DIR@order; exit 0' TERM; echo second-up >>@DIR@order; while :; do sleep 0.01; done"]
depends_on = ["first"]
)");
  host.wait("first", "it runs", [](const v1::Component& c) { return c.running(); });
  EXPECT_EQ(host.component("second").state(), v1::STATE_WAITING);
  {
    std::ofstream gate(host.path("gate"));
  }
  host.wait("second", "it serves", [](const v1::Component& c) { return c.ready(); });
  EXPECT_TRUE(host.component("first").ready());
  const auto written = [&host] {
    std::ifstream file(host.path("order"));
    return std::string{std::istreambuf_iterator<char>(file), {}};
  };
  // "Ready" means that it runs: its script may not have got as far as its trap.
  const auto end = std::chrono::steady_clock::now() + kPatience;
  while (!written().contains("second-up") && std::chrono::steady_clock::now() < end)
    std::this_thread::yield();
  const pid_t core = host.core_pid();
  host.signal_core(SIGTERM);
  EXPECT_EQ(host.program().wait(), 0);
  EXPECT_FALSE(running(core));
  EXPECT_THAT(written(), HasSubstr("first-up\nsecond-up\nsecond-down\nfirst-down\n"));
}

TEST(Core, ForeignComponentIsRestartedWhenItDiesOrItsLivenessCheckFails) {
  CoreHost host(R"(
[components.daemon]
kind = "foreign"
program = "/bin/sleep"
args = ["100000"]
liveness = { type = "command", command = ["/usr/bin/test", "!", "-e", "@DIR@sick"], interval = "20ms", failures = 2 }
restart = { backoff_initial = "1ms", backoff_max = "1ms" }
)");
  const v1::Component before =
      host.wait("daemon", "it serves", [](const v1::Component& c) { return c.ready(); });
  EXPECT_TRUE(before.foreign());
  ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
  const v1::Component second = host.wait("daemon", "it serves again", [&](const v1::Component& c) {
    return c.ready() && c.active_pid() != before.active_pid();
  });
  const v1::Incident exit = host.wait_incident("daemon", "of its end", [](const v1::Incident& i) {
    return i.finding() == "exit" && i.outcome() == "recovered";
  });
  EXPECT_EQ(exit.detection_us(), 0);  // counted from when the kernel reported it
  EXPECT_GT(exit.blackout_us(), 0);
  {
    std::ofstream sick(host.path("sick"));
  }
  host.wait("daemon", "it was replaced",
            [&](const v1::Component& c) { return c.active_pid() != second.active_pid(); });
  std::filesystem::remove(host.path("sick"));
  const v1::Incident incident = host.wait_incident(
      "daemon", "by the probe", [](const v1::Incident& i) { return i.finding() == "probe"; });
  EXPECT_FALSE(incident.deliberate());
}

// Beats as sd_watchdog_enabled(3) advises until "quiet" exists; each beat is a byte in "beats".
TEST(Core, SilentForeignComponentIsReplaced) {
  CoreHost host(R"(
[components.beater]
kind = "foreign"
program = "/usr/bin/python3"
args = ["-c", """
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.connect(os.environ["NOTIFY_SOCKET"])
notify.send(b"READY=1")
while True:
    if not os.path.exists("@DIR@quiet"):
        notify.send(b"WATCHDOG=1")
        open("@DIR@beats", "a").write(".")
    time.sleep(int(os.environ["WATCHDOG_USEC"]) / 2e6)
"""]
readiness = { type = "notify" }
liveness = { type = "notify", interval = "100ms", deadline = "400ms" }
restart = { backoff_initial = "1ms", backoff_max = "1ms" }
)");
  const v1::Component before =
      host.wait("beater", "it serves", [](const v1::Component& c) { return c.ready(); });
  const auto end = std::chrono::steady_clock::now() + kPatience;
  const auto beats = [&host] {
    std::error_code none_yet;
    const auto size = std::filesystem::file_size(host.path("beats"), none_yet);
    return none_yet ? 0 : size;
  };
  // Longer than it may be silent: 20 beats of 50 ms.
  while (beats() < 20 && std::chrono::steady_clock::now() < end) std::this_thread::yield();
  ASSERT_GE(beats(), 20U);
  EXPECT_EQ(host.component("beater").active_pid(), before.active_pid());
  EXPECT_TRUE(host.component("beater").healthy());
  {
    std::ofstream quiet(host.path("quiet"));
  }
  host.wait("beater", "it is replaced",
            [&](const v1::Component& c) { return c.ready() && c.active_pid() != before.active_pid(); });
  std::filesystem::remove(host.path("quiet"));
  const v1::Incident incident = host.wait_incident(
      "beater", "of its silence", [](const v1::Incident& i) { return i.finding() == "probe"; });
  EXPECT_THAT(incident.evidence(), HasSubstr("WATCHDOG=1"));
  EXPECT_GE(incident.detection_us(), 500'000);
}

// ---- the edge, the log ----

TEST(Core, KilledEdgeComesBackAndNothingElseNotices) {
  CoreHost host(kEcho);
  const v1::Component echo = host.wait_complete("echo");
  const v1::Component edge = host.component("api");
  ASSERT_EQ(::kill(edge.active_pid(), SIGKILL), 0);
  host.wait("api", "another edge serves",
            [&](const v1::Component& c) { return c.ready() && c.active_pid() != edge.active_pid(); });
  EXPECT_EQ(host.component("echo").active_pid(), echo.active_pid());
  const v1::Incident incident = host.wait_incident(
      "api", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_GT(incident.blackout_us(), 0);
}

// What is asked and where are the defaults; only how often is not.
TEST(Core, HungEdgeIsReplaced) {
  CoreHost host(std::string(R"(
[api.process.liveness]
interval = "50ms"
deadline = "2s"
failures = 2
)") + kEcho);
  const v1::Component echo = host.wait_complete("echo");
  const v1::Component edge = host.component("api");
  ASSERT_EQ(::kill(edge.active_pid(), SIGSTOP), 0);
  host.wait("api", "another edge serves",
            [&](const v1::Component& c) { return c.ready() && c.active_pid() != edge.active_pid(); });
  const v1::Incident incident = host.wait_incident(
      "api", "recovered", [](const v1::Incident& i) { return i.outcome() == "recovered"; });
  EXPECT_EQ(incident.finding(), "probe");
  EXPECT_GT(incident.detection_us(), 0);
  EXPECT_EQ(host.component("echo").active_pid(), echo.active_pid());
}

TEST(Core, HealthyEdgeIsLeftAlone) {
  CoreHost host("[api.process.liveness]\ninterval = \"10ms\"\ndeadline = \"10s\"\nfailures = 1\n");
  const v1::Component edge = host.component("api");
  const auto started = [&host] {
    v1::GetVersionResponse version;
    EXPECT_TRUE(host.api().GetVersion(CoreHost::deadline().get(), {}, &version).ok());
  };
  // Some probes' time, by calls.
  for (int i = 0; i < 500; ++i) started();
  EXPECT_EQ(host.component("api").active_pid(), edge.active_pid());
  EXPECT_TRUE(host.component("api").healthy());
  EXPECT_TRUE(host.incidents("api").empty());
}

TEST(Core, TermEndsEverythingAndLeavesNothing) {
  CoreHost host(kEcho);
  const v1::Component echo = host.wait_complete("echo");
  host.signal_core(SIGTERM);
  EXPECT_EQ(host.program().wait(), 0);
  EXPECT_FALSE(running(echo.active_pid()));
  EXPECT_FALSE(running(echo.standby_pid()));
  EXPECT_FALSE(std::filesystem::exists(host.path("run/echo.sock")));
}

TEST(Core, ComponentsDieWithACoreThatCannotComeBack) {
  CoreHost host(kEcho);
  const v1::Component echo = host.wait_complete("echo");
  auto active = PidFd::open(echo.active_pid());
  ASSERT_TRUE(active);
  host.signal_core(SIGKILL);
  pollfd ended{active->fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 10'000), 1);
  host.expect_exit(-SIGKILL);
}

}  // namespace
}  // namespace bulkhead::test
