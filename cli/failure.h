// What a command that did not succeed tells its user and its caller.
#pragma once

#include <expected>
#include <string>
#include <utility>

namespace bulkhead::cli {

// The program's exit codes; documented in bulkhead(1).
enum class ExitCode : int {
  kOk = 0,
  kFailed = 1,       // refused or failed
  kUsage = 2,        // the command line is wrong
  kUnreachable = 3,  // no answer from the supervisor
};

// `message` is one line for stderr: what is wrong and what to do about it.
struct Failure {
  ExitCode code = ExitCode::kFailed;
  std::string message;
};

template <typename T>
using Outcome = std::expected<T, Failure>;

inline std::unexpected<Failure> fail(ExitCode code, std::string message) {
  return std::unexpected(Failure{code, std::move(message)});
}

}  // namespace bulkhead::cli
