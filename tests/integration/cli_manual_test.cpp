// The manual pages tell of everything there is: commands and options of the CLI, keys of the configuration.
#include <gtest/gtest.h>
#include <CLI/CLI.hpp>

#include <fstream>
#include <iterator>
#include <regex>

#include "cli/commands.h"
#include "supervisor/config.h"

namespace bulkhead::test {
namespace {

std::string page(const std::string& name) {
  std::ifstream file(BULKHEAD_SOURCE "/docs/man/" + name);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

TEST(ManualTest, EveryCommandAndOptionIsInBulkhead1) {
  const std::string text = page("bulkhead.1");
  CLI::App tree("", "bulkhead");
  cli::Invocation invocation;
  cli::add_commands(tree, invocation);
  std::vector<CLI::App*> apps{&tree};
  for (std::size_t i = 0; i < apps.size(); ++i) {
    const std::string name = apps[i]->get_name();
    if (i > 0 && !name.empty()) {
      EXPECT_TRUE(std::regex_search(text, std::regex("\\.It Cm (config |quota )?" + name + "\\b"))) << name;
    }
    for (const CLI::Option* option : apps[i]->get_options()) {
      if (option->get_lnames().empty()) continue;
      const std::string flag = "Fl -" + option->get_lnames()[0];
      EXPECT_TRUE(text.contains(flag) || text.contains(", " + flag)) << name << " " << flag;
    }
    for (CLI::App* below : apps[i]->get_subcommands([](CLI::App*) { return true; })) apps.push_back(below);
  }
  EXPECT_GE(apps.size(), 19U);
}

TEST(ManualTest, EveryKeyIsInBulkheadToml5AndNoOther) {
  const std::string text = page("bulkhead.toml.5");
  constexpr std::string_view kComponent = "components.NAME.";
  std::size_t keys = 0;
  for (const supervisor::KeyDescription& described : supervisor::describe_keys()) {
    std::string key = described.key;
    if (key.starts_with(kComponent)) key.erase(0, kComponent.size());
    EXPECT_TRUE(text.contains("\n.It Ic " + key + " ")) << key;
    ++keys;
  }
  const std::regex item("\n\\.It Ic ");
  EXPECT_EQ(std::distance(std::sregex_iterator(text.begin(), text.end(), item), std::sregex_iterator()),
            static_cast<std::ptrdiff_t>(keys));
}

}  // namespace
}  // namespace bulkhead::test
