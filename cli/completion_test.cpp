#include "cli/completion.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "cli/commands.h"

namespace bulkhead::cli {
namespace {

using testing::Contains;
using testing::ElementsAre;
using testing::IsEmpty;
using testing::IsSupersetOf;
using testing::Not;

class CompletionTest : public testing::Test {
 protected:
  CompletionTest() : tree_("", "bulkhead") { add_commands(tree_, invocation_); }

  std::vector<std::string> offered(const std::vector<std::string>& words) {
    std::vector<std::string> found;
    for (const Candidate& candidate : complete(tree_, words, names_)) found.push_back(candidate.word);
    return found;
  }

  CLI::App tree_;
  Invocation invocation_;
  DynamicNames names_{[] { return std::vector<std::string>{"netback", "xenstore"}; },
                      [](const std::string& component) {
                        return component == "xenstore" ? std::vector<std::string>{"crash", "crash-at", "hang"}
                                                       : std::vector<std::string>{};
                      }};
};

TEST_F(CompletionTest, OffersEveryCommandOfTheTree) {
  std::vector<std::string> commands;
  for (const CLI::App* command : tree_.get_subcommands([](CLI::App*) { return true; }))
    commands.push_back(command->get_name());
  EXPECT_GE(commands.size(), 18U);
  EXPECT_EQ(offered({""}), commands);
}

TEST_F(CompletionTest, NarrowsByWhatIsTyped) {
  EXPECT_THAT(offered({"in"}), ElementsAre("incidents", "inject"));
  EXPECT_THAT(offered({"nonsense"}), IsEmpty());
}

TEST_F(CompletionTest, OffersComponentsAndFaults) {
  EXPECT_THAT(offered({"handover", ""}), ElementsAre("netback", "xenstore"));
  EXPECT_THAT(offered({"inject", "x"}), ElementsAre("xenstore"));
  EXPECT_THAT(offered({"inject", "xenstore", "cr"}), ElementsAre("crash", "crash-at"));
  EXPECT_THAT(offered({"incidents", "--component", ""}), ElementsAre("netback", "xenstore"));
  EXPECT_THAT(offered({"clear", "--component", "n"}), ElementsAre("netback"));
  EXPECT_THAT(offered({"handover", "xenstore", ""}), IsEmpty());
}

TEST_F(CompletionTest, OffersOptionsOfTheCommandAndGlobalOnes) {
  EXPECT_THAT(offered({"inject", "--"}),
              IsSupersetOf({"--for", "--standby", "--socket", "--timeout", "--help"}));
  EXPECT_THAT(offered({"status", "--"}), Not(Contains("--for")));
  EXPECT_THAT(offered({"clear", "--a"}), ElementsAre("--all"));
  EXPECT_THAT(offered({"upgrade", "xenstore", "--"}), IsSupersetOf({"--program", "--rollback"}));
}

TEST_F(CompletionTest, OffersChoicesAndFiles) {
  EXPECT_THAT(offered({"-o", ""}), ElementsAre("table", "json"));
  EXPECT_THAT(offered({"log-level", "w"}), ElementsAre("warning"));
  EXPECT_THAT(offered({"log-level", "info", ""}), ElementsAre("netback", "xenstore"));
  EXPECT_THAT(offered({"completion", ""}), ElementsAre("bash", "zsh", "fish"));
  EXPECT_THAT(offered({"config", ""}), ElementsAre("check"));
  EXPECT_THAT(offered({"config", "check", ""}), ElementsAre(kFiles));
  EXPECT_THAT(offered({"--socket", ""}), ElementsAre(kFiles));
  EXPECT_THAT(offered({"upgrade", "xenstore", "--program", ""}), ElementsAre(kFiles));
}

TEST_F(CompletionTest, SkipsOptionsThatWereTyped) {
  EXPECT_THAT(offered({"--socket", "/x", "handover", ""}), ElementsAre("netback", "xenstore"));
  EXPECT_THAT(offered({"--socket=/x", "inject", "--standby", "xenstore", "h"}), ElementsAre("hang"));
}

TEST_F(CompletionTest, EveryShellHasAScriptThatAsksTheProgram) {
  for (const char* shell : {"bash", "zsh", "fish"}) {
    EXPECT_NE(completion_script(shell).find("__complete"), std::string::npos) << shell;
  }
}

}  // namespace
}  // namespace bulkhead::cli
