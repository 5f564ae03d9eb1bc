// The product as an operator has it: bulkheadd with the real xenstore service, faults through the API, a
// checking load that notices whatever is lost, repeated, torn or out of order.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <thread>

#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

const std::string kXenstore =
    xenstore_table("monitor = { probe = \"xenstore\", probe_interval = \"200ms\" }\n");

std::string bin(const std::string& program) {
  return std::string(BULKHEAD_BIN) + "/" + program;
}

// xs-load until it is stopped. Its own exit code says whether it found anything wrong.
class Load {
 public:
  explicit Load(const CoreHost& host)
      : enough_(host.path("enough")),
        program_({bin("xs-load"), "--socket", host.path("xenstore.sock"), "--clients",
                  "readers=1,writers=2,watchers=1,movers=2,models=1", "--until-file", enough_,
                  "--started-file", host.path("started")},
                 {}) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (!std::filesystem::exists(host.path("started")) && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    EXPECT_TRUE(std::filesystem::exists(host.path("started"))) << program_.errors();
  }

  void expect_nothing_wrong() {
    std::ofstream(enough_).put('\n');
    const std::string report = program_.rest();
    EXPECT_EQ(program_.wait(), 0) << report << program_.errors();
    EXPECT_THAT(report, ::testing::HasSubstr("anomalies 0"));
  }

 private:
  std::string enough_;
  Program program_;
};

void inject(CoreHost& host, const std::string& kind, const std::string& argument = "",
            const std::string& target = "", std::uint32_t for_ms = 0) {
  const grpc::Status status = host.inject("xenstore", kind, argument, target, for_ms);
  ASSERT_TRUE(status.ok()) << status.error_message();
}

void wait_for_takeover(CoreHost& host, const v1::Component& before) {
  host.wait("xenstore", "the standby has taken over", [&](const v1::Component& c) {
    return c.state() == v1::STATE_SERVING && c.active_pid() == before.standby_pid();
  });
}

struct Case {
  const char* fault;
  const char* argument;
};

TEST(XenstoreProduct, FaultsOfTheActiveUnderLoad) {
  CoreHost host(kXenstore);
  host.wait_complete("xenstore");
  Load load(host);
  for (const auto& [fault, argument] :
       {Case{"crash", ""}, Case{"abort", ""}, Case{"exit", ""}, Case{"hang", ""}, Case{"spin", ""},
        Case{"deadlock", ""}, Case{"crash-at", "committed"}, Case{"crash-at", "send-completed"},
        Case{"crash", ""}}) {
    SCOPED_TRACE(std::string(fault) + " " + argument);
    const v1::Component before = host.wait_complete("xenstore");
    inject(host, fault, argument);
    wait_for_takeover(host, before);
    const v1::Incident incident = host.wait_incident("xenstore", "closed", [&](const v1::Incident& i) {
      return i.incarnation() == before.incarnation() && i.outcome() == "recovered";
    });
    EXPECT_TRUE(incident.deliberate());
    EXPECT_EQ(incident.lost(), 0U);
    EXPECT_EQ(incident.refused(), 0U);
  }
  load.expect_nothing_wrong();
}

TEST(XenstoreProduct, FaultsOfTheStandbyUnderLoad) {
  CoreHost host(kXenstore);
  host.wait_complete("xenstore");
  Load load(host);
  for (const char* fault : {"crash", "abort", "exit", "hang"}) {
    SCOPED_TRACE(fault);
    const v1::Component before = host.wait_complete("xenstore");
    inject(host, fault, "", "standby");
    const v1::Component after = host.wait("xenstore", "another standby", [&](const v1::Component& c) {
      return c.standby_ready() && c.standby_pid() != before.standby_pid();
    });
    EXPECT_EQ(after.active_pid(), before.active_pid());
    EXPECT_EQ(after.incarnation(), before.incarnation());
  }
  load.expect_nothing_wrong();
}

// A bit flips in the memory of one of the two. It is found, by whoever needs the node or by the scrub, before
// anybody is told anything wrong; the damaged one is replaced, the other one serves.
TEST(XenstoreProduct, FlippedBitsUnderLoad) {
  CoreHost host(kXenstore);
  host.wait_complete("xenstore");
  Load load(host);
  for (int round = 0; round < 6; ++round) {
    SCOPED_TRACE(round);
    const bool of_standby = round % 2 == 1;
    const v1::Component before = host.wait_complete("xenstore");
    inject(host, "corrupt", "", of_standby ? "standby" : "");
    if (of_standby) {
      const v1::Component after = host.wait("xenstore", "another standby", [&](const v1::Component& c) {
        return c.standby_ready() && c.standby_pid() != before.standby_pid();
      });
      EXPECT_EQ(after.active_pid(), before.active_pid());
    } else {
      wait_for_takeover(host, before);
    }
    // The same failure of a standby again, within the window, belongs to the incident there is.
    const v1::Incident incident = host.wait_incident("xenstore", "closed", [&](const v1::Incident& i) {
      return (of_standby || i.incarnation() == before.incarnation()) && i.outcome() == "recovered" &&
             i.evidence().starts_with("standby") == of_standby;
    });
    EXPECT_EQ(incident.finding(), "integrity") << incident.evidence();
    EXPECT_TRUE(incident.deliberate());
    EXPECT_EQ(incident.lost(), 0U);
  }
  load.expect_nothing_wrong();
}

// The same with nobody there who would need the node: the scrub finds it.
TEST(XenstoreProduct, FlippedBitsOfAnIdleService) {
  CoreHost host(kXenstore);
  for (const char* target : {"active", "standby"}) {
    SCOPED_TRACE(target);
    const v1::Component before = host.wait_complete("xenstore");
    inject(host, "corrupt", "", target);
    host.wait_incident("xenstore", "closed", [&](const v1::Incident& i) {
      return i.incarnation() == before.incarnation() && i.outcome() == "recovered" &&
             i.finding() == "integrity";
    });
  }
}

// A call may end as unavailable (docs/api.md): then it is asked again.
void wait_for_faults_to_end(CoreHost& host) {
  const auto deadline = std::chrono::steady_clock::now() + kPatience;
  v1::ListFaultsResponse faults;
  grpc::Status asked;
  do {
    asked = host.api().ListFaults(CoreHost::deadline().get(), {}, &faults);
  } while ((!asked.ok() || faults.faults_size() > 0) && std::chrono::steady_clock::now() < deadline);
  EXPECT_TRUE(asked.ok()) << asked.error_message();
  EXPECT_EQ(faults.faults_size(), 0);
}

// The supervisor's own probe is a client, too: what it is told as a guest says nothing of the service's
// health.
TEST(XenstoreProduct, AFaultThatMakesGuestsOfClientsExcusesTheProbe) {
  CoreHost host(kXenstore);
  const v1::Component before = host.wait_complete("xenstore");
  inject(host, "as-guest", "5", "", 1500);  // seven probes long, and three failures are a finding
  wait_for_faults_to_end(host);
  const v1::Component after = host.wait_complete("xenstore");
  EXPECT_EQ(after.active_pid(), before.active_pid());
  EXPECT_EQ(after.incarnation(), before.incarnation());
}

// These the service survives by itself; when their time is up, nothing of them is left.
TEST(XenstoreProduct, FaultsThatEndByThemselves) {
  CoreHost host(kXenstore);
  host.wait_complete("xenstore");
  Load load(host);
  inject(host, "slow", "1ms", "", 300);
  inject(host, "leak", "1MiB", "", 300);
  inject(host, "fdleak", "100", "", 300);
  wait_for_faults_to_end(host);
  load.expect_nothing_wrong();
}

TEST(XenstoreProduct, BothKilledUnderLoad) {
  CoreHost host(kXenstore);
  Load load(host);
  for (int round = 0; round < 3; ++round) {
    const v1::Component before = host.wait_complete("xenstore");
    ::kill(static_cast<pid_t>(before.standby_pid()), SIGKILL);
    ::kill(static_cast<pid_t>(before.active_pid()), SIGKILL);
    host.wait("xenstore", "a new pair", [&](const v1::Component& c) {
      return c.state() == v1::STATE_SERVING && c.incarnation() > before.incarnation();
    });
  }
  host.wait_complete("xenstore");
  load.expect_nothing_wrong();
}

TEST(XenstoreProduct, PlannedHandoversAndRestartsUnderLoad) {
  CoreHost host(kXenstore);
  host.wait_complete("xenstore");
  Load load(host);
  for (int round = 0; round < 3; ++round) {
    host.wait_complete("xenstore");
    v1::HandOverRequest hand_over;
    hand_over.set_component("xenstore");
    v1::HandOverResponse handed;
    const grpc::Status done = host.api().HandOver(CoreHost::deadline().get(), hand_over, &handed);
    ASSERT_TRUE(done.ok()) << done.error_message();
    host.wait_complete("xenstore");
    v1::RestartRequest restart;
    restart.set_component("xenstore");
    v1::RestartResponse restarted;
    const grpc::Status renewed = host.api().Restart(CoreHost::deadline().get(), restart, &restarted);
    ASSERT_TRUE(renewed.ok()) << renewed.error_message();
  }
  load.expect_nothing_wrong();
}

grpc::Status upgrade(CoreHost& host, const std::string& program, bool rollback = false) {
  v1::UpgradeRequest request;
  request.set_component("xenstore");
  request.set_program(program);
  request.set_rollback(rollback);
  v1::UpgradeResponse response;
  grpc::Status status = host.api().Upgrade(CoreHost::deadline().get(), request, &response);
  if (status.ok()) std::cout << "not serving for " << response.blackout_us() << " us\n";
  return status;
}

// Another version of the real service takes over, fails, is returned from; other programs cannot take over at
// all. Clients notice nothing.
TEST(XenstoreProduct, UpgradesUnderLoad) {
  CoreHost host(kXenstore);
  const std::string former = host.wait_complete("xenstore").active_program().version();
  ASSERT_NE(former, "next");
  const auto wait_versions = [&](const std::string& active, const std::string& standby) {
    return host.wait("xenstore", active + " serves with " + standby, [&](const v1::Component& c) {
      return c.state() == v1::STATE_SERVING && c.standby_ready() && c.active_program().version() == active &&
             c.standby_program().version() == standby;
    });
  };
  Load load(host);
  for (const std::string& bad : {std::string("/bin/false"), std::string("/bin/nothing"), bin("xs-load")}) {
    EXPECT_FALSE(upgrade(host, bad).ok());
    wait_versions(former, former);
  }
  ASSERT_TRUE(upgrade(host, bin("bulkhead-xenstored-next")).ok());
  wait_versions("next", former);
  ASSERT_TRUE(upgrade(host, "", true).ok());
  wait_versions(former, former);
  ASSERT_TRUE(upgrade(host, bin("bulkhead-xenstored-next")).ok());
  const v1::Component now = wait_versions("next", former);
  ::kill(static_cast<pid_t>(now.active_pid()), SIGKILL);  // a failure, as far as the core can tell
  EXPECT_EQ(wait_versions(former, former).active_pid(), now.standby_pid());
  load.expect_nothing_wrong();
}

// The core and the active instance die together, again and again: the standby serves without anybody's help.
TEST(XenstoreProduct, CoreKilledUnderLoad) {
  CoreHost host(kXenstore, "");
  host.wait_complete("xenstore");
  Load load(host);
  for (int round = 0; round < 4; ++round) {
    const v1::Component before = host.wait_complete("xenstore");
    const pid_t core = host.core_pid();
    const bool with_active = round % 2 == 1;
    host.signal_core(SIGKILL);
    if (with_active) ::kill(static_cast<pid_t>(before.active_pid()), SIGKILL);
    host.wait_for_successor(core);
    if (with_active) wait_for_takeover(host, before);
    const v1::Component after = host.wait_complete("xenstore");
    EXPECT_EQ(after.active_pid(), with_active ? before.standby_pid() : before.active_pid());
    EXPECT_EQ(after.incarnation(), before.incarnation() + (with_active ? 1 : 0));
  }
  load.expect_nothing_wrong();
}

TEST(XenstoreProduct, EdgeKilledUnderLoad) {
  CoreHost host(kXenstore);
  const v1::Component before = host.wait_complete("xenstore");
  Load load(host);
  const v1::Component edge = host.component("api");
  ::kill(static_cast<pid_t>(edge.active_pid()), SIGKILL);
  host.wait("api", "another edge", [&](const v1::Component& c) {
    return c.state() == v1::STATE_SERVING && c.active_pid() != edge.active_pid();
  });
  EXPECT_EQ(host.component("xenstore").active_pid(), before.active_pid());
  load.expect_nothing_wrong();
}

// Ten minutes are the promise (BULKHEAD_OVERLOAD_SECONDS=600); a test run takes seconds.
std::chrono::seconds overload_duration() {
  const char* seconds = std::getenv("BULKHEAD_OVERLOAD_SECONDS");
  return std::chrono::seconds(seconds != nullptr ? std::atoi(seconds) : 5);
}

// All CPUs busy many times over with other people's work, and the service busy too.
TEST(XenstoreProduct, NoFalseKillUnderCpuOverload) {
  CoreHost host(kXenstore);
  const v1::Component before = host.wait_complete("xenstore");
  const pid_t edge = static_cast<pid_t>(host.component("api").active_pid());
  Load load(host);
  std::vector<std::unique_ptr<Program>> others;
  for (unsigned i = 0; i < 8 * std::thread::hardware_concurrency(); ++i) {
    others.push_back(std::make_unique<Program>(
        std::vector<std::string>{"/bin/sh", "-c", "while :; do :; done"}, Program::Environment{}));
  }
  const auto end = std::chrono::steady_clock::now() + overload_duration();
  while (std::chrono::steady_clock::now() < end && !::testing::Test::HasFailure()) {
    const v1::Component now = host.component("xenstore");
    EXPECT_EQ(now.active_pid(), before.active_pid()) << now.cause();
    EXPECT_EQ(now.standby_pid(), before.standby_pid()) << now.cause();
  }
  others.clear();
  EXPECT_EQ(host.component("api").active_pid(), edge);
  EXPECT_TRUE(host.incidents("xenstore").empty());
  EXPECT_TRUE(host.incidents("api").empty());
  load.expect_nothing_wrong();
}

// What waited for a core that was not there is undone by its successor.
TEST(XenstoreProduct, FaultsAreUndoneWhenTheCoreDies) {
  CoreHost host(kXenstore, "");
  host.wait_complete("xenstore");
  Load load(host);
  inject(host, "slow", "20ms", "", 60'000);
  const pid_t core = host.core_pid();
  host.signal_core(SIGKILL);
  host.wait_for_successor(core);
  v1::ListFaultsResponse faults;
  ASSERT_TRUE(host.api().ListFaults(CoreHost::deadline().get(), {}, &faults).ok());
  EXPECT_EQ(faults.faults_size(), 0);
  load.expect_nothing_wrong();
}

}  // namespace
}  // namespace bulkhead::test
