// The real CLI against the real edge; only the core is a stand-in.
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "tests/integration/api_programs.h"

namespace bulkhead::test {
namespace {

using contract::v1::EdgeRequest;

v1::Component xenstore() {
  v1::Component component;
  component.set_name("xenstore");
  component.set_state(v1::STATE_SERVING);
  component.set_wanted(true);
  component.set_running(true);
  component.set_ready(true);
  component.set_healthy(true);
  component.set_incarnation(3);
  component.set_active_pid(101);
  component.set_standby_pid(102);
  component.set_standby_ready(true);
  component.set_cause("ready");
  return component;
}

class CliTest : public testing::Test {
 protected:
  CliTest() {
    core().set_component(xenstore());
    edge_.start();
  }

  edge::FakeCore& core() { return edge_.core(); }
  std::vector<std::string> words(std::vector<std::string> arguments) {
    arguments.insert(arguments.begin(), BULKHEAD_BIN "/bulkhead");
    return arguments;
  }
  Ran cli(std::vector<std::string> arguments) {
    return run(words(std::move(arguments)), {{"BULKHEAD_SOCKET", edge_.socket()}});
  }
  std::unique_ptr<Program> start(std::vector<std::string> arguments) {
    return std::make_unique<Program>(words(std::move(arguments)),
                                     Program::Environment{{"BULKHEAD_SOCKET", edge_.socket()}});
  }
  // The request message that the core was sent.
  template <typename Request>
  Request asked(const std::string& method) {
    Request request;
    const auto seen = core().wait_for(method);
    EXPECT_TRUE(seen && request.ParseFromString(seen->body()));
    return request;
  }
  template <typename Message>
  static Message parsed(const std::string& json) {
    Message message;
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(json, &message).ok()) << json;
    return message;
  }

  Edge edge_;
};

TEST_F(CliTest, StatusForPeople) {
  const Ran all = cli({"status"});
  EXPECT_EQ(all.code, 0) << all.errors;
  EXPECT_NE(all.output.find("xenstore  serving  healthy"), std::string::npos) << all.output;
  EXPECT_EQ(all.output.find('\x1b'), std::string::npos) << "no colour into a pipe";
  EXPECT_NE(cli({"status", "xenstore"}).output.find("incarnation  3"), std::string::npos);
  EXPECT_NE(cli({"status", "--color", "always"}).output.find('\x1b'), std::string::npos);
}

TEST_F(CliTest, StatusForScripts) {
  const Ran ran = cli({"status", "-o", "json"});
  EXPECT_EQ(ran.code, 0);
  const auto list = parsed<v1::ListComponentsResponse>(ran.output);
  ASSERT_EQ(list.components_size(), 1);
  EXPECT_EQ(list.components(0).name(), "xenstore");
  EXPECT_EQ(list.components(0).state(), v1::STATE_SERVING);
  EXPECT_EQ(list.components(0).incarnation(), 3U);
  EXPECT_EQ(list.components(0).active_pid(), 101);
  EXPECT_EQ(list.components(0).standby_pid(), 102);
}

TEST_F(CliTest, ARefusalIsOneLineAndCodeOne) {
  core().on("HandOver", [&](const EdgeRequest& request) {
    core().refuse(request.id(), edge::Code{9}, "no standby is ready");
  });
  const Ran ran = cli({"handover", "xenstore"});
  EXPECT_EQ(ran.code, 1);
  EXPECT_EQ(ran.output, "");
  EXPECT_EQ(ran.errors, "bulkhead: no standby is ready\n");
  const Ran unknown = cli({"status", "nobody"});
  EXPECT_EQ(unknown.code, 1);
  EXPECT_EQ(unknown.errors, "bulkhead: no component is named nobody\n");
}

TEST_F(CliTest, ActionsCarryTheComponentAndShowTheResult) {
  core().on("HandOver", [&](const EdgeRequest& request) {
    v1::HandOverResponse response;
    *response.mutable_component() = xenstore();
    response.set_blackout_us(310);
    core().answer(request.id(), response);
  });
  const Ran ran = cli({"handover", "xenstore"});
  EXPECT_EQ(ran.code, 0) << ran.errors;
  EXPECT_NE(ran.output.find("not serving for 0.31 ms"), std::string::npos);
  EXPECT_EQ(asked<v1::HandOverRequest>("HandOver").component(), "xenstore");
  for (const char* verb : {"Restart", "Drain", "Enable", "Disable"}) {
    core().on(verb, [&](const EdgeRequest& request) { core().answer(request.id(), v1::RestartResponse()); });
    std::string word(verb);
    word[0] = static_cast<char>(std::tolower(word[0]));
    EXPECT_EQ(cli({word, "xenstore"}).code, 0);
    EXPECT_EQ(asked<v1::RestartRequest>(verb).component(), "xenstore");
  }
}

TEST_F(CliTest, UpgradeSaysWhichProgramAndShowsWhatRuns) {
  v1::UpgradeRequest request;  // the newest
  core().on("Upgrade", [&](const EdgeRequest& call) {
    EXPECT_TRUE(request.ParseFromString(call.body()));
    v1::UpgradeResponse response;
    *response.mutable_component() = xenstore();
    response.mutable_component()->mutable_active_program()->set_path("/new");
    response.mutable_component()->mutable_active_program()->set_version("7");
    response.set_blackout_us(310);
    core().answer(call.id(), response);
  });
  const Ran ran = cli({"upgrade", "xenstore"});
  EXPECT_EQ(ran.code, 0) << ran.errors;
  EXPECT_NE(ran.output.find("running /new  version 7"), std::string::npos) << ran.output;
  EXPECT_NE(ran.output.find("not serving for 0.31 ms"), std::string::npos) << ran.output;
  EXPECT_EQ(request.component(), "xenstore");
  EXPECT_EQ(request.program(), "");
  EXPECT_FALSE(request.rollback());
  ASSERT_EQ(cli({"upgrade", "xenstore", "--program", "thing"}).code, 0);
  EXPECT_EQ(request.program(), std::filesystem::current_path() / "thing");
  ASSERT_EQ(cli({"upgrade", "--rollback", "xenstore"}).code, 0);
  EXPECT_TRUE(request.rollback());
}

TEST_F(CliTest, InjectAndClearSayWhatIsMeant) {
  core().on("InjectFault", [&](const EdgeRequest& request) {
    v1::InjectFaultResponse response;
    response.mutable_fault()->set_id(5);
    core().answer(request.id(), response);
  });
  core().on("ClearFaults",
            [&](const EdgeRequest& request) { core().answer(request.id(), v1::ClearFaultsResponse()); });
  ASSERT_EQ(cli({"inject", "xenstore", "slow", "5ms", "--for", "2m", "--standby"}).code, 0);
  const auto injected = asked<v1::InjectFaultRequest>("InjectFault");
  EXPECT_EQ(injected.component(), "xenstore");
  EXPECT_EQ(injected.kind(), "slow");
  EXPECT_EQ(injected.argument(), "5ms");
  EXPECT_EQ(injected.target(), "standby");
  EXPECT_EQ(injected.for_ms(), 120'000U);
  ASSERT_EQ(cli({"clear", "5"}).code, 0);
  EXPECT_EQ(asked<v1::ClearFaultsRequest>("ClearFaults").id(), 5U);
}

TEST_F(CliTest, UsageErrorsAreOneLineAndCodeTwo) {
  for (const std::vector<std::string>& wrong :
       std::vector<std::vector<std::string>>{{},
                                             {"nonsense"},
                                             {"handover"},
                                             {"handover", "a", "b"},
                                             {"status", "--nonsense"},
                                             {"status", "-o", "xml"},
                                             {"status", "--timeout", "5"},
                                             {"clear"},
                                             {"clear", "5", "--all"},
                                             {"clear", "--component", "xenstore", "--all"},
                                             {"upgrade"},
                                             {"upgrade", "xenstore", "--rollback", "--program", "/x"},
                                             {"inject", "xenstore"},
                                             {"inject", "xenstore", "crash", "--for", "2h"},
                                             {"inject", "xenstore", "crash", "--for", "0s"},
                                             {"incidents", "--limit", "501"},
                                             {"log-level", "loud"},
                                             {"config"},
                                             {"completion", "tcsh"}}) {
    const Ran ran = cli(wrong);
    EXPECT_EQ(ran.code, 2) << testing::PrintToString(wrong) << ran.errors;
    EXPECT_EQ(std::ranges::count(ran.errors, '\n'), 1) << ran.errors;
    EXPECT_EQ(ran.output, "");
  }
}

TEST_F(CliTest, UnreachableIsCodeThree) {
  const Ran nobody = cli({"--socket", edge_.socket() + ".none", "status"});
  EXPECT_EQ(nobody.code, 3);
  EXPECT_NE(nobody.errors.find("is bulkheadd running? (systemctl status bulkhead)\n"), std::string::npos);
  core().pause();
  const Ran silent = cli({"--timeout", "100ms", "status"});
  EXPECT_EQ(silent.code, 3);
  EXPECT_NE(silent.errors.find("no answer within 100 ms"), std::string::npos) << silent.errors;
  const Ran action = cli({"--timeout", "100ms", "restart", "xenstore"});
  EXPECT_EQ(action.code, 1) << "it may have been done: not the same as unreachable";
}

TEST_F(CliTest, WatchPrintsALinePerChange) {
  const auto watch = start({"watch", "-o", "json"});
  EXPECT_EQ(parsed<v1::ComponentChange>(watch->line().value_or("")).component().incarnation(), 3U);
  v1::Component changed = xenstore();
  changed.set_incarnation(4);
  core().set_component(changed);
  EXPECT_EQ(parsed<v1::ComponentChange>(watch->line().value_or("")).component().incarnation(), 4U);
}

TEST_F(CliTest, WatchSurvivesTheDeathOfTheEdge) {
  const auto watch = start({"watch", "-o", "json"});
  ASSERT_TRUE(watch->line());
  edge_.program().kill(SIGKILL);
  edge_.program().wait();
  edge_.start();
  const auto again = watch->line();
  ASSERT_TRUE(again) << watch->errors();
  EXPECT_EQ(parsed<v1::ComponentChange>(*again).component().name(), "xenstore");
}

TEST_F(CliTest, AQuerySurvivesTheDeathOfTheEdge) {
  core().on("ListQuotas", [](const EdgeRequest&) {});
  const auto quotas = start({"quotas", "-o", "json", "--timeout", "20s"});
  ASSERT_TRUE(core().wait_for("ListQuotas"));
  core().on("ListQuotas",
            [&](const EdgeRequest& request) { core().answer(request.id(), v1::ListQuotasResponse()); });
  edge_.program().kill(SIGKILL);
  edge_.program().wait();
  edge_.start();
  EXPECT_EQ(quotas->wait(), 0) << quotas->errors();
}

TEST_F(CliTest, IncidentsAreListedAndFollowedWithoutGaps) {
  const auto incident = [](std::int64_t id) {
    v1::Incident one;
    one.set_id(id);
    one.set_component("xenstore");
    one.set_finding("exit");
    one.set_outcome("recovered");
    return one;
  };
  core().on("ListIncidents", [&](const EdgeRequest& request) {
    v1::ListIncidentsResponse list;
    const std::int64_t newest =
        core().count("WatchIncidents") == 0 ? 2 : 4;  // 3 happens between list and stream
    for (std::int64_t id = newest; id > 0; --id) *list.add_incidents() = incident(id);
    core().answer(request.id(), list);
  });
  core().on("WatchIncidents", [&](const EdgeRequest& request) { core().element(request.id(), incident(4)); });
  const Ran listed = cli({"incidents", "--limit", "2"});
  EXPECT_EQ(listed.code, 0);
  EXPECT_LT(listed.output.find("#2  "), listed.output.find("#1  "));
  EXPECT_EQ(asked<v1::ListIncidentsRequest>("ListIncidents").limit(), 2U);
  const auto followed = start({"incidents", "--follow", "-o", "json"});
  for (std::int64_t id = 1; id <= 4; ++id)
    EXPECT_EQ(parsed<v1::Incident>(followed->line().value_or("")).id(), id);
}

TEST_F(CliTest, AReaderThatHasSeenEnoughIsNoFailure) {
  core().on("WatchEvents", [&](const EdgeRequest& request) {
    for (int i = 0; i < 200; ++i) core().element(request.id(), v1::Event());
  });
  const auto events = start({"events"});
  ASSERT_TRUE(events->line());
  events->close_output();
  core().on("WatchEvents", [](const EdgeRequest&) {});
  for (int i = 0; i < 3; ++i) core().element(core().wait_for("WatchEvents")->id(), v1::Event());
  EXPECT_EQ(events->wait(), 0) << events->errors();
}

TEST_F(CliTest, OutputThatCannotBeWrittenIsAFailure) {
  const Ran full =
      run({"/bin/sh", "-c", BULKHEAD_BIN "/bulkhead --socket " + edge_.socket() + " status > /dev/full"});
  EXPECT_EQ(full.code, 1);
  EXPECT_NE(full.errors.find("No space left"), std::string::npos) << full.errors;
  const Ran closed =
      run({"/bin/sh", "-c", BULKHEAD_BIN "/bulkhead --socket " + edge_.socket() + " status >&-"});
  EXPECT_EQ(closed.code, 1);
}

TEST_F(CliTest, VersionTellsBoth) {
  const Ran ran = cli({"version"});
  EXPECT_EQ(ran.code, 0);
  EXPECT_NE(ran.output.find("supervisor  9.9.9"), std::string::npos) << ran.output;
}

TEST_F(CliTest, CompletionAsksTheSupervisorForNames) {
  EXPECT_EQ(cli({"__complete", "handover", ""}).output, "xenstore\t\n");
  const Ran none = cli({"__complete", "--socket", "/none", "handover", ""});
  EXPECT_EQ(none.output, "");
  EXPECT_EQ(none.code, 0);
}

// The script does what a shell does with it: bash itself judges.
TEST_F(CliTest, BashCompletesWithTheScript) {
  const std::string script =
      "set -e; PATH=" BULKHEAD_BIN
      ":$PATH; source <(bulkhead completion bash);"
      "COMP_WORDS=(bulkhead handover xe); COMP_CWORD=2; _bulkhead; echo \"${COMPREPLY[*]}\";"
      "COMP_WORDS=(bulkhead inc); COMP_CWORD=1; _bulkhead; echo \"${COMPREPLY[*]}\"";
  const Ran ran = run({"/bin/bash", "-c", script}, {{"BULKHEAD_SOCKET", edge_.socket()}});
  EXPECT_EQ(ran.code, 0) << ran.errors;
  EXPECT_EQ(ran.output, "xenstore\nincidents\n");
}

TEST_F(CliTest, ConfigCheckRunsTheBulkheaddBesideIt) {
  const ScratchDirectory directory;
  std::filesystem::copy_file(BULKHEAD_BIN "/bulkhead", directory / "bulkhead");
  std::ofstream(directory / "bulkheadd") << "#!/bin/sh\necho \"$@\"\nexit 2\n";
  std::filesystem::permissions(directory / "bulkheadd", std::filesystem::perms::owner_all);
  const Ran ran = run({directory / "bulkhead", "config", "check", "some file.toml"});
  EXPECT_EQ(ran.code, 2);
  EXPECT_EQ(ran.output, "--check --config some file.toml\n");
}

}  // namespace
}  // namespace bulkhead::test
