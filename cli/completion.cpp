#include "cli/completion.h"

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <algorithm>

namespace bulkhead::cli {
namespace {

// Each candidate is a line: the word, a tab, its description.
constexpr const char* kBash = R"(# bash completion for bulkhead
_bulkhead() {
  local current=${COMP_WORDS[COMP_CWORD]} line
  local -a words=("${COMP_WORDS[@]:1:COMP_CWORD}")
  COMPREPLY=()
  while IFS= read -r line; do
    if [[ $line == :files* ]]; then
      compopt -o filenames 2>/dev/null
      mapfile -t COMPREPLY < <(compgen -f -- "$current")
      return
    fi
    COMPREPLY+=("${line%%$'\t'*}")
  done < <("${COMP_WORDS[0]}" __complete "${words[@]}" 2>/dev/null)
}
complete -F _bulkhead bulkhead
)";

constexpr const char* kZsh = R"(#compdef bulkhead
_bulkhead() {
  local line
  local -a candidates
  for line in "${(@f)$("${words[1]}" __complete "${(@)words[2,CURRENT]}" 2>/dev/null)}"; do
    if [[ $line == :files* ]]; then
      _files
      return
    fi
    [[ -n $line ]] && candidates+=("${${line%%$'\t'*}//:/\\:}:${line#*$'\t'}")
  done
  _describe 'bulkhead' candidates
}
if [ "$funcstack[1]" = "_bulkhead" ]; then
  _bulkhead "$@"
else
  compdef _bulkhead bulkhead
fi
)";

constexpr const char* kFish = R"(# fish completion for bulkhead
function __bulkhead_complete
    set -l words (commandline -opc) (commandline -ct)
    for line in ($words[1] __complete $words[2..-1] 2>/dev/null)
        if string match -q ':files*' -- $line
            __fish_complete_path (commandline -ct)
        else
            echo $line
        end
    end
end
complete -c bulkhead -f -a '(__bulkhead_complete)'
)";

// What has been typed before the word to complete.
struct Position {
  CLI::App* command;
  std::vector<std::string> arguments;     // positional ones of `command`
  const CLI::Option* awaiting = nullptr;  // an option whose value comes next
};

CLI::Option* option_named(CLI::App& command, const std::string& word) {
  for (CLI::App* level = &command; level != nullptr; level = level->get_parent()) {
    for (CLI::App* group : level->get_subcommands([](CLI::App* app) { return app->get_name().empty(); })) {
      if (CLI::Option* found = group->get_option_no_throw(word)) return found;
    }
    if (CLI::Option* found = level->get_option_no_throw(word)) return found;
  }
  return nullptr;
}

CLI::App* subcommand_named(CLI::App& command, const std::string& word) {
  const auto found = command.get_subcommands([&](CLI::App* app) { return app->get_name() == word; });
  return found.empty() ? nullptr : found[0];
}

Position position_after(CLI::App& tree, const std::vector<std::string>& words) {
  Position at{&tree, {}, nullptr};
  for (std::size_t i = 0; i + 1 < words.size(); ++i) {
    const std::string& word = words[i];
    if (at.awaiting != nullptr) {
      at.awaiting = nullptr;
    } else if (word.starts_with('-')) {
      const CLI::Option* option = word.contains('=') ? nullptr : option_named(*at.command, word);
      if (option != nullptr && option->get_items_expected_max() > 0) at.awaiting = option;
    } else if (CLI::App* sub = at.arguments.empty() ? subcommand_named(*at.command, word) : nullptr) {
      at.command = sub;
    } else {
      at.arguments.push_back(word);
    }
  }
  return at;
}

// "{a,b}" inside a type name, as CLI::IsMember writes it.
std::vector<std::string> choices_in(const std::string& type) {
  const std::size_t open = type.find('{');
  const std::size_t close = type.find('}');
  std::vector<std::string> choices;
  if (open == std::string::npos || close == std::string::npos) return choices;
  std::string list = type.substr(open + 1, close - open - 1);
  while (!list.empty()) {
    const std::size_t comma = std::min(list.find(','), list.size());
    choices.push_back(list.substr(0, comma));
    list.erase(0, comma + 1);
  }
  return choices;
}

std::vector<Candidate> values_of(const CLI::Option& option, const Position& at, const DynamicNames& names) {
  const std::string type = option.get_type_name();
  std::vector<std::string> words = choices_in(type);
  if (type.starts_with("FILE")) return {{kFiles, ""}};
  if (type.starts_with("COMPONENT")) words = names.components();
  if (type.starts_with("FAULT")) words = names.faults(at.arguments.empty() ? "" : at.arguments[0]);
  std::vector<Candidate> candidates;
  candidates.reserve(words.size());
  for (std::string& word : words) candidates.push_back({std::move(word), ""});
  return candidates;
}

// An option group is a nameless subcommand: its options belong to the command.
std::vector<CLI::Option*> options_of(CLI::App& command) {
  std::vector<CLI::Option*> options = command.get_options();
  for (CLI::App* group : command.get_subcommands([](CLI::App* app) { return app->get_name().empty(); })) {
    std::ranges::copy(group->get_options(), std::back_inserter(options));
  }
  return options;
}

std::vector<Candidate> options_at(CLI::App& command) {
  std::vector<Candidate> candidates;
  for (CLI::App* level = &command; level != nullptr; level = level->get_parent()) {
    for (const CLI::Option* option : options_of(*level)) {
      const bool help_again = level != &command && option == level->get_help_ptr();
      if (option->get_positional() || help_again || option->get_lnames().empty()) continue;
      candidates.push_back({"--" + option->get_lnames()[0], option->get_description()});
    }
  }
  return candidates;
}

std::vector<Candidate> arguments_at(const Position& at, const DynamicNames& names) {
  std::vector<Candidate> candidates;
  if (at.arguments.empty()) {
    for (const CLI::App* sub :
         at.command->get_subcommands([](CLI::App* app) { return !app->get_name().empty(); })) {
      candidates.push_back({sub->get_name(), sub->get_description()});
    }
  }
  std::size_t index = 0;
  for (const CLI::Option* option : options_of(*at.command)) {
    if (option->get_positional() && index++ == at.arguments.size()) {
      std::ranges::copy(values_of(*option, at, names), std::back_inserter(candidates));
    }
  }
  return candidates;
}

}  // namespace

std::string completion_script(const std::string& shell) {
  return shell == "bash" ? kBash : shell == "zsh" ? kZsh : kFish;
}

std::vector<Candidate> complete(CLI::App& tree, const std::vector<std::string>& words,
                                const DynamicNames& names) {
  const std::string current = words.empty() ? "" : words.back();
  const Position at = position_after(tree, words);
  std::vector<Candidate> candidates = at.awaiting != nullptr     ? values_of(*at.awaiting, at, names)
                                      : current.starts_with('-') ? options_at(*at.command)
                                                                 : arguments_at(at, names);
  std::erase_if(candidates, [&](const Candidate& candidate) {
    return candidate.word != kFiles && !candidate.word.starts_with(current);
  });
  return candidates;
}

}  // namespace bulkhead::cli
