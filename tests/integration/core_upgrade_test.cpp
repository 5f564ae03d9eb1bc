// Programs under the core: what is on disk does not matter until an operator says so; a new program takes
// over, is given up, is returned from; and the core may die in the middle of it.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/stat.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <future>
#include <sstream>

#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;

// Not enabled: the program is put there first.
constexpr const char* kEcho = R"(
[components.echo]
enabled = false
program = "@DIR@program"
standby = true
socket = "echo.sock"
restart = { backoff_initial = "10ms", backoff_max = "50ms", stop_timeout = "2s" }
)";

// Puts a copy of the echo component there in one step, as a package manager does.
void install(const CoreHost& host, const std::string& version, const std::string& flaw = "",
             const std::string& name = "program") {
  const std::string unpacked = host.path(name + ".unpacked");
  std::filesystem::copy_file(std::string(BULKHEAD_BIN) + "/echo_component", unpacked);
  std::ofstream(unpacked, std::ios::app | std::ios::binary) << "\necho:" << version << ":" << flaw << "\n";
  ::chmod(unpacked.c_str(), 0755);
  std::filesystem::rename(unpacked, host.path(name));
}

void enable(CoreHost& host) {
  v1::EnableRequest request;
  request.set_component("echo");
  v1::EnableResponse response;
  const grpc::Status status = host.api().Enable(CoreHost::deadline().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

grpc::Status upgrade(CoreHost& host, const std::string& program = "", bool rollback = false) {
  v1::UpgradeRequest request;
  request.set_component("echo");
  request.set_program(program);
  request.set_rollback(rollback);
  v1::UpgradeResponse response;
  grpc::Status status = host.api().Upgrade(CoreHost::deadline().get(), request, &response);
  if (status.ok()) {
    EXPECT_EQ(response.component().state(), v1::STATE_SERVING);
    EXPECT_EQ(response.component().active_program().id(), host.component("echo").active_program().id());
  }
  return status;
}

void restart(CoreHost& host) {
  v1::RestartRequest request;
  request.set_component("echo");
  v1::RestartResponse response;
  const grpc::Status status = host.api().Restart(CoreHost::deadline().get(), request, &response);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

v1::Component wait_versions(CoreHost& host, const std::string& active, const std::string& standby) {
  return host.wait(
      "echo", "the active one is " + active + ", the standby " + standby, [&](const v1::Component& c) {
        return c.state() == v1::STATE_SERVING && c.standby_ready() &&
               c.active_program().version() == active && c.standby_program().version() == standby;
      });
}

// Version 1 serves.
void start(CoreHost& host) {
  install(host, "1");
  enable(host);
  wait_versions(host, "1", "1");
}

TEST(Upgrade, TheProgramInUseIsUsedWhateverIsOnDisk) {
  CoreHost host(kEcho);
  start(host);
  const v1::Component first = host.component("echo");
  EXPECT_EQ(first.program(), host.path("program"));
  install(host, "2");
  ASSERT_EQ(::kill(first.active_pid(), SIGKILL), 0);
  host.wait("echo", "the killed one is replaced", [&](const v1::Component& c) {
    return c.standby_ready() && c.incarnation() == 2 && c.standby_program().version() == "1";
  });
  restart(host);
  const v1::Component second = wait_versions(host, "1", "1");
  EXPECT_EQ(second.active_program().id(), first.active_program().id());
  std::filesystem::remove(host.path("program"));
  restart(host);
  wait_versions(host, "1", "1");
}

TEST(Upgrade, ANewProgramTakesOverAndTheFormerOneIsKept) {
  CoreHost host(kEcho);
  start(host);
  EXPECT_EQ(host.echo_count(), 1U);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  EXPECT_EQ(host.echo_count(), 2U);
  // On probation the former one stands by, to be gone back to at once.
  v1::Component now = wait_versions(host, "2", "1");
  EXPECT_EQ(now.kept_program().version(), "1");
  EXPECT_FALSE(now.has_next_program());
  EXPECT_GT(now.probation_until_unix_ms(), 0);
  const v1::Incident incident = host.wait_incident(
      "echo", "of the upgrade", [](const v1::Incident& i) { return i.finding() == "upgrade"; });
  EXPECT_TRUE(incident.deliberate());
  const grpc::Status early = upgrade(host);
  EXPECT_EQ(early.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(early.error_message(), HasSubstr("on probation"));
  v1::HandOverRequest hand_over;
  hand_over.set_component("echo");
  v1::HandOverResponse handed;
  const grpc::Status swap = host.api().HandOver(CoreHost::deadline().get(), hand_over, &handed);
  EXPECT_EQ(swap.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(swap.error_message(), HasSubstr("former program"));
  // A restart keeps to the program.
  restart(host);
  wait_versions(host, "2", "1");
  // And back, although it is not on the disk any more.
  ASSERT_TRUE(upgrade(host, "", true).ok());
  now = wait_versions(host, "1", "1");
  EXPECT_EQ(now.kept_program().version(), "2");
  EXPECT_EQ(now.probation_until_unix_ms(), 0);
  EXPECT_EQ(host.echo_count(), 3U);
}

TEST(Upgrade, AfterItsProbationTheStandbyIsNewToo) {
  CoreHost host(std::string(kEcho) + "upgrade = { probation = \"100ms\" }\n");
  start(host);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  const v1::Component now = wait_versions(host, "2", "2");
  EXPECT_EQ(now.probation_until_unix_ms(), 0);
  EXPECT_EQ(now.kept_program().version(), "1");
  // A failure is nobody's program's fault any more.
  ASSERT_EQ(::kill(now.active_pid(), SIGKILL), 0);
  host.wait("echo", "the standby has taken over",
            [&](const v1::Component& c) { return c.active_pid() == now.standby_pid() && c.standby_ready(); });
  wait_versions(host, "2", "2");
  // Two generations are kept, not three.
  install(host, "3");
  ASSERT_TRUE(upgrade(host).ok());
  EXPECT_EQ(wait_versions(host, "3", "3").kept_program().version(), "2");
}

TEST(Upgrade, WhatCannotBeginChangesNothing) {
  CoreHost host(std::string(kEcho) + R"([components.sleeper]
kind = "foreign"
program = "/bin/sleep"
args = ["100000"]
)");
  start(host);
  const v1::Component before = host.component("echo");
  const auto refused = [&](const std::string& program, grpc::StatusCode code, const std::string& why) {
    const grpc::Status status = upgrade(host, program);
    EXPECT_EQ(status.error_code(), code) << program;
    EXPECT_THAT(status.error_message(), HasSubstr(why));
    EXPECT_EQ(status.error_message().find('\n'), std::string::npos);
  };
  using grpc::StatusCode;
  refused("", StatusCode::FAILED_PRECONDITION, "already");  // the same content
  refused(host.path("nothing"), StatusCode::NOT_FOUND, "there is no program");
  refused("/etc/passwd", StatusCode::INVALID_ARGUMENT, "not an executable file");
  refused("program", StatusCode::INVALID_ARGUMENT, "not an absolute path");
  install(host, "2", "", "open");
  ::chmod(host.path("open").c_str(), 0777);
  refused(host.path("open"), StatusCode::FAILED_PRECONDITION, "written to by others");
  const grpc::Status none = upgrade(host, "", true);
  EXPECT_EQ(none.error_code(), StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(none.error_message(), HasSubstr("no older program is kept"));
  v1::UpgradeRequest foreign;
  foreign.set_component("sleeper");
  v1::UpgradeResponse response;
  EXPECT_EQ(host.api().Upgrade(CoreHost::deadline().get(), foreign, &response).error_code(),
            StatusCode::FAILED_PRECONDITION);
  const v1::Component after = host.component("echo");
  EXPECT_EQ(after.active_pid(), before.active_pid());
  EXPECT_EQ(after.standby_pid(), before.standby_pid());
  EXPECT_TRUE(host.incidents("echo").empty());
}

// ---- programs that do not become ready ----

struct Bad {
  const char* flaw;  // empty: /bin/false
  const char* why;
};

class UpgradeToABadOne : public ::testing::TestWithParam<Bad> {};

TEST_P(UpgradeToABadOne, IsAbandonedAndTheActiveNoticesNothing) {
  CoreHost host(R"(
[components.echo]
enabled = false
program = "@DIR@program"
standby = true
socket = "echo.sock"
restart = { backoff_initial = "10ms", backoff_max = "50ms", start_timeout = "5s" }
)");
  start(host);
  const v1::Component before = host.component("echo");
  std::string program = "/bin/false";
  if (*GetParam().flaw != '\0') {
    install(host, "2", GetParam().flaw, "bad");
    program = host.path("bad");
  }
  const grpc::Status status = upgrade(host, program);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr(GetParam().why));
  EXPECT_THAT(status.error_message(), HasSubstr("goes on"));
  const v1::Component after = wait_versions(host, "1", "1");
  EXPECT_EQ(after.active_pid(), before.active_pid());
  EXPECT_EQ(after.incarnation(), 1U);
  EXPECT_FALSE(after.has_kept_program());
  EXPECT_FALSE(after.has_next_program());
  host.wait_incident("echo", "of the standby, over", [](const v1::Incident& i) {
    return i.evidence().contains("standby") && i.outcome() == "recovered";
  });
  // The next one is not held against it.
  install(host, "3");
  ASSERT_TRUE(upgrade(host).ok());
  wait_versions(host, "3", "1");
}

INSTANTIATE_TEST_SUITE_P(All, UpgradeToABadOne,
                         ::testing::Values(Bad{"", "exit status 1"}, Bad{"exits", "of another layout"},
                                           Bad{"unready", "not ready within 5000 ms"}),
                         [](const auto& instance) {
                           const std::string flaw = instance.param.flaw;
                           return flaw.empty() ? std::string("false") : flaw;
                         });

// ---- probation ----

class UpgradeToAFlawedOne : public ::testing::TestWithParam<const char*> {};

TEST_P(UpgradeToAFlawedOne, GoesBackByItself) {
  CoreHost host(kEcho);
  start(host);
  install(host, "2", GetParam());
  ASSERT_TRUE(upgrade(host).ok());
  wait_versions(host, "2", "1");
  EXPECT_EQ(host.echo_count(), 1U);
  EXPECT_EQ(host.echo_count(), 2U);
  EXPECT_EQ(host.echo_count(), 3U);  // by the former one: the new one failed before it counted
  const v1::Component now = wait_versions(host, "1", "1");
  EXPECT_FALSE(now.has_kept_program());
  EXPECT_EQ(now.probation_until_unix_ms(), 0);
  const v1::Incident incident = host.wait_incident("echo", "of the return", [](const v1::Incident& i) {
    return i.outcome() == "recovered" && i.evidence().contains("went back to");
  });
  EXPECT_FALSE(incident.deliberate());
  EXPECT_THAT(incident.evidence(), HasSubstr("(1)"));
  EXPECT_THAT(incident.evidence(), HasSubstr("(2) failed on probation"));
}

INSTANTIATE_TEST_SUITE_P(All, UpgradeToAFlawedOne, ::testing::Values("crashes", "hangs"),
                         [](const auto& instance) { return std::string(instance.param); });

TEST(Upgrade, BothKilledOnProbationIsRebuiltByTheFormerOne) {
  CoreHost host(kEcho);
  start(host);
  EXPECT_EQ(host.echo_count(), 1U);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  const v1::Component now = wait_versions(host, "2", "1");
  ASSERT_EQ(::kill(now.standby_pid(), SIGSTOP), 0);
  ASSERT_EQ(::kill(now.active_pid(), SIGKILL), 0);
  ASSERT_EQ(::kill(now.standby_pid(), SIGKILL), 0);
  EXPECT_EQ(host.echo_count(), 2U);
  wait_versions(host, "1", "1");
}

// Going back would take a rebuild then: a standby of the new program is better than none.
TEST(Upgrade, AFormerProgramThatCannotFollowIsNotWaitedFor) {
  CoreHost host(kEcho);
  install(host, "1", "outrun");
  enable(host);
  wait_versions(host, "1", "1");
  EXPECT_EQ(host.ask_surely("echo", "deposit extra 4096"), "ok");
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  const v1::Component now = wait_versions(host, "2", "2");
  EXPECT_GT(now.probation_until_unix_ms(), 0);
  EXPECT_EQ(now.kept_program().version(), "1");
  // A return that fails leaves things as they are: that program may be able to another time.
  const grpc::Status status = upgrade(host, "", true);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("goes on"));
  const v1::Component after = wait_versions(host, "2", "2");
  EXPECT_EQ(after.active_pid(), now.active_pid());
  EXPECT_EQ(after.kept_program().version(), "1");
}

// An exercise says nothing against the new program.
TEST(Upgrade, AFaultOnPurposeDoesNotEndIt) {
  CoreHost host(kEcho);
  start(host);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  const v1::Component now = wait_versions(host, "2", "1");
  ASSERT_TRUE(host.inject("echo", "crash").ok());
  host.wait("echo", "the new program has taken over again", [&](const v1::Component& c) {
    return c.active_program().version() == "2" && c.active_pid() != now.active_pid() && c.standby_ready() &&
           c.standby_program().version() == "1" && c.probation_until_unix_ms() > 0;
  });
}

TEST(Upgrade, WithoutAStandbyItStopsFirstAndGoesBackIfItMust) {
  CoreHost host(R"(
[components.echo]
enabled = false
program = "@DIR@program"
socket = "echo.sock"
restart = { backoff_initial = "10ms", backoff_max = "50ms", budget = 100 }
)");
  install(host, "1");
  enable(host);
  const auto serves = [&](const std::string& version) {
    host.wait("echo", version + " serves", [&](const v1::Component& c) {
      return c.state() == v1::STATE_SERVING && c.active_program().version() == version;
    });
  };
  serves("1");
  EXPECT_EQ(host.echo_count(), 1U);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  serves("2");
  EXPECT_EQ(host.echo_count(), 2U);
  ASSERT_TRUE(upgrade(host, "", true).ok());
  serves("1");
  install(host, "3", "exits");
  const grpc::Status status = upgrade(host);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("failed on probation"));
  serves("1");
  EXPECT_EQ(host.echo_count(), 3U);
}

TEST(Upgrade, HelpsAComponentThatIsStuck) {
  CoreHost host(kEcho);
  install(host, "1", "exits");
  enable(host);
  host.wait("echo", "it is isolated", [](const v1::Component& c) { return c.state() == v1::STATE_ISOLATED; });
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  EXPECT_EQ(host.echo_count(), 1U);
}

// ---- the core dies meanwhile ----

// Soon after the core was replaced the edge ends what it takes for its predecessor's calls: look, then ask
// again.
void upgrade_after_all(CoreHost& host, const std::string& version, bool rollback = false) {
  for (;;) {
    const grpc::Status status = upgrade(host, "", rollback);
    if (status.ok()) return;
    ASSERT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE) << status.error_message();
    const v1::Component now = host.component("echo");
    if (now.has_next_program() || now.active_program().version() == version) return;
  }
}

// The caller learns nothing; the program does not matter here.
void upgrade_in_vain(CoreHost& host, bool rollback = false) {
  v1::UpgradeRequest request;
  request.set_component("echo");
  request.set_rollback(rollback);
  v1::UpgradeResponse response;
  (void)host.api().Upgrade(CoreHost::deadline().get(), request, &response);
}

void kill_core(CoreHost& host) {
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  host.wait_for_successor(former);
}

TEST(Upgrade, ProgramsOutliveTheCore) {
  CoreHost host(kEcho, "");
  start(host);
  const v1::Component before = host.component("echo");
  install(host, "2");
  kill_core(host);
  v1::Component now = wait_versions(host, "1", "1");
  EXPECT_EQ(now.active_pid(), before.active_pid());
  ASSERT_EQ(::kill(now.standby_pid(), SIGKILL), 0);
  host.wait("echo", "another standby is ready", [&](const v1::Component& c) {
    return c.standby_ready() && c.standby_pid() != now.standby_pid() && c.standby_program().version() == "1";
  });
  upgrade_after_all(host, "2");
  now = wait_versions(host, "2", "1");
  std::filesystem::remove(host.path("program"));
  kill_core(host);
  constexpr std::int64_t kRounding = 1000;
  EXPECT_LE(std::abs(wait_versions(host, "2", "1").probation_until_unix_ms() - now.probation_until_unix_ms()),
            kRounding);
  upgrade_after_all(host, "1", true);
  wait_versions(host, "1", "1");
}

// The end of a probation is known to the next core.
TEST(Upgrade, ProbationEndsInTheNextCoreToo) {
  CoreHost host(std::string(kEcho) + "upgrade = { probation = \"2s\" }\n", "");
  start(host);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  kill_core(host);
  EXPECT_EQ(wait_versions(host, "2", "2").probation_until_unix_ms(), 0);
}

// A new program that fails while there is no core is given up by the kernel and the next core.
TEST(Upgrade, AFailureOnProbationWithoutACoreGoesBackToo) {
  CoreHost host(kEcho, "");
  start(host);
  install(host, "2");
  ASSERT_TRUE(upgrade(host).ok());
  const v1::Component now = wait_versions(host, "2", "1");
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  ASSERT_EQ(::kill(now.active_pid(), SIGKILL), 0);
  EXPECT_EQ(host.echo_count(), 1U);
  host.wait_for_successor(former);
  const v1::Component after = wait_versions(host, "1", "1");
  EXPECT_EQ(after.active_pid(), now.standby_pid());
  EXPECT_FALSE(after.has_kept_program());
}

struct CrashCase {
  std::string point;    // with ":COUNT"
  std::string flaw;     // of version 2
  std::string finally;  // the version that serves in the end
  bool kept;            // and whether another one is kept
};
std::ostream& operator<<(std::ostream& out, const CrashCase& at) {
  return out << at.point;
}

class UpgradeCrashPoint : public ::testing::TestWithParam<CrashCase> {};

TEST_P(UpgradeCrashPoint, IsDoneOrNotDoneButNeverHalf) {
  CoreHost host(kEcho, GetParam().point);
  start(host);
  EXPECT_EQ(host.echo_count(), 1U);
  install(host, "2", GetParam().flaw);
  upgrade_in_vain(host);
  host.wait_for_run(2);  // it has died there
  const v1::Component now = wait_versions(host, GetParam().finally, "1");
  EXPECT_EQ(now.has_kept_program(), GetParam().kept);
  EXPECT_FALSE(now.has_next_program());
  EXPECT_EQ(host.processes_of("echo"), (std::set<pid_t>{now.active_pid(), now.standby_pid()}));
  EXPECT_EQ(host.echo_count(), 2U);
  // All of it works afterwards.
  if (GetParam().kept) {
    upgrade_after_all(host, "1", true);
    wait_versions(host, "1", "1");
  }
  install(host, "3");
  upgrade_after_all(host, "3");
  wait_versions(host, "3", "1");
  EXPECT_EQ(host.echo_count(), 3U);
  EXPECT_EQ(host.core_runs(), 2);
  for (const v1::Incident& incident : host.incidents("")) {
    EXPECT_NE(incident.outcome(), "open") << incident.DebugString();
  }
}

INSTANTIATE_TEST_SUITE_P(
    All, UpgradeCrashPoint,
    ::testing::Values(
        // The first program is parked at the first start; processes before the new standby: edge, owner,
        // standby.
        CrashCase{"core-program-parked:2", "", "1", false}, CrashCase{"core-upgrade-intended", "", "2", true},
        CrashCase{"core-launch-intent:4", "", "2", true}, CrashCase{"core-launch-started:4", "", "2", true},
        CrashCase{"core-launch-recorded:4", "", "2", true}, CrashCase{"core-introduced:3", "", "2", true},
        // The standby of the former program, after the new one has taken over.
        CrashCase{"core-launch-intent:5", "", "2", true}, CrashCase{"core-launch-recorded:5", "", "2", true},
        // Given up: version 2 does not become ready.
        CrashCase{"core-programs-settled", "exits", "1", false},
        CrashCase{"core-program-removed", "exits", "1", false}),
    [](const auto& instance) {
      std::string name = instance.param.point + instance.param.flaw;
      std::erase_if(name, [](unsigned char c) { return std::isalnum(c) == 0; });
      return name;
    });

// Wherever it happens to be.
TEST(Upgrade, TheCoreIsKilledInTheMiddleAgainAndAgain) {
  CoreHost host(kEcho, "");
  start(host);
  for (const std::string version : {"2", "3", "4", "5"}) {
    SCOPED_TRACE(version);
    const v1::Component before = host.component("echo");
    install(host, version);
    const auto call = std::async(std::launch::async, [&] { upgrade_in_vain(host); });
    host.wait("echo", "the upgrade is under way", [&](const v1::Component& c) {
      return c.has_next_program() || c.active_program().version() == version;
    });
    kill_core(host);
    call.wait();
    const v1::Component now = wait_versions(host, version, before.active_program().version());
    EXPECT_EQ(now.kept_program().version(), before.active_program().version());
    // So that the next one may begin.
    upgrade_after_all(host, before.active_program().version(), true);
    wait_versions(host, before.active_program().version(), before.active_program().version());
  }
}

}  // namespace
}  // namespace bulkhead::test
