// Real programs under test: bulkhead-api with a stand-in core and a listening socket in this process's
// custody, and clients (the CLI, Python) run against it.
#pragma once

#include <chrono>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/unique_fd.h"
#include "supervisor/api/fake_core.h"

namespace bulkhead::test {

inline constexpr std::chrono::seconds kPatience(20);

// A directory that goes away with its contents.
class ScratchDirectory {
 public:
  ScratchDirectory();
  ScratchDirectory(const ScratchDirectory&) = delete;
  ScratchDirectory& operator=(const ScratchDirectory&) = delete;
  ~ScratchDirectory();
  std::string operator/(const std::string& name) const { return (path_ / name).string(); }

 private:
  std::filesystem::path path_;
};

// A child process with its standard output on a pipe and its standard error in a file. Killed if it still
// runs at the end.
class Program {
 public:
  using Environment = std::map<std::string, std::string>;
  // `inherit`: descriptor numbers in the child, and what they are. `environment` is added to ours.
  Program(const std::vector<std::string>& words, const Environment& environment,
          const std::map<int, BorrowedFd>& inherit = {});
  Program(const Program&) = delete;
  Program& operator=(const Program&) = delete;
  ~Program();

  pid_t pid() const { return pid_; }
  void kill(int signal) const;
  // The next line of output; nothing at its end or when kPatience is over.
  std::optional<std::string> line();
  // Ends reading: the program's next write fails.
  void close_output() { output_.reset(); }
  // Everything up to the end of the output.
  std::string rest();
  std::string errors() const;
  // The exit code, or minus the signal. Waits, at most kPatience.
  int wait();

 private:
  bool fill();

  pid_t pid_ = -1;
  UniqueFd output_;
  UniqueFd errors_;
  std::string buffer_;
  std::optional<int> status_;
};

struct Ran {
  int code = 0;
  std::string output;
  std::string errors;
};
Ran run(const std::vector<std::string>& words, const Program::Environment& environment = {});

// bulkhead-api as bulkheadd starts it.
class Edge {
 public:
  explicit Edge(std::vector<std::string> flags = {});

  edge::FakeCore& core() { return core_; }
  const std::string& socket() const { return socket_; }
  // Starts the program (again), waits for READY=1. Returns its STATUS=.
  std::string start();
  Program& program() { return *program_; }

 private:
  std::string wait_until_ready();

  ScratchDirectory directory_;
  std::string socket_;
  std::vector<std::string> flags_;
  UniqueFd listening_;
  UniqueFd notify_;
  edge::FakeCore core_;
  std::unique_ptr<Program> program_;
};

}  // namespace bulkhead::test
