#include "takeover/stock_daemon.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

namespace bulkhead::takeover {

std::set<int> open_descriptors() {
  std::set<int> numbers;
  for (const auto& entry : std::filesystem::directory_iterator("/proc/self/fd")) {
    const int number = std::stoi(entry.path().filename());
    // Not the one with which the directory is read.
    if (::fcntl(number, F_GETFD) >= 0 && !std::filesystem::is_directory(entry.status()))
      numbers.insert(number);
  }
  return numbers;
}

Error return_to(const std::string& program, std::vector<std::string> arguments, const std::set<int>& kept) {
  for (const int number : open_descriptors()) {
    if (!kept.contains(number)) (void)::fcntl(number, F_SETFD, FD_CLOEXEC);
  }
  if (std::ranges::find(arguments, "-U") == arguments.end()) arguments.emplace_back("-U");
  arguments.insert(arguments.begin(), program);
  std::vector<char*> words;
  words.reserve(arguments.size() + 1);
  for (std::string& argument : arguments) words.push_back(argument.data());
  words.push_back(nullptr);
  ::execv(program.c_str(), words.data());
  return os_failure("cannot start " + program).error();
}

}  // namespace bulkhead::takeover
