// Shell completion. The scripts only ask this program ("bulkhead __complete WORD..."), and the answers come
// from the command tree itself and from the running supervisor, so there is no second list of commands to
// keep.
#pragma once

#include <CLI/App.hpp>
#include <functional>
#include <string>
#include <vector>

namespace bulkhead::cli {

// For "bash", "zsh" or "fish".
std::string completion_script(const std::string& shell);

struct Candidate {
  std::string word;
  std::string description;
};

// Names of components or faults, from the supervisor; none if it is not there.
struct DynamicNames {
  std::function<std::vector<std::string>()> components;
  std::function<std::vector<std::string>(const std::string& component)> faults;
};

// What may stand in place of the last of `words`, which are those after the program's name. A single
// candidate kFiles: any file name.
inline constexpr const char* kFiles = ":files";
std::vector<Candidate> complete(CLI::App& tree, const std::vector<std::string>& words,
                                const DynamicNames& names);

}  // namespace bulkhead::cli
