// Result<T>: how every function of this project that can fail says so.
#pragma once

#include <cerrno>
#include <expected>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>

namespace bulkhead {

// Sorted by what the caller should do next, not by what broke.
enum class ErrorKind : unsigned char {
  kFailed,        // the system refused or broke; trying again later may work
  kInvalid,       // the caller's mistake: change the request
  kRefused,       // understood, but not allowed or not possible in this state
  kNotFound,      // what was named does not exist
  kDisconnected,  // the other side is gone
  kExhausted,     // a limit was reached
  kTimeout,       // a deadline passed
};

// What went wrong, in words for an operator. Contexts are put in front as the error travels outwards:
// "cannot start xenstore: cannot bind /run/x: Permission denied".
class [[nodiscard]] Error {
 public:
  Error(ErrorKind kind, std::string message) : kind_(kind), message_(std::move(message)) {}

  ErrorKind kind() const { return kind_; }
  // The errno of the failed call, 0 if the error did not come from the system.
  int os_error() const { return os_error_; }
  const std::string& message() const { return message_; }

  Error&& within(std::string_view context) && {
    message_.insert(0, ": ");
    message_.insert(0, context);
    return std::move(*this);
  }

  // Captures `os_error` (errno unless told otherwise) at the point of failure.
  static Error from_errno(std::string_view what, int os_error = errno) {
    Error error(ErrorKind::kFailed, std::string(what) + ": " + std::generic_category().message(os_error));
    error.os_error_ = os_error;
    return error;
  }

 private:
  ErrorKind kind_;
  int os_error_ = 0;
  std::string message_;
};

template <typename T>
using Result = std::expected<T, Error>;

using Status = Result<void>;

// `return failure("cannot open " + path);` with errno captured.
inline std::unexpected<Error> os_failure(std::string_view what, int os_error = errno) {
  return std::unexpected(Error::from_errno(what, os_error));
}

inline std::unexpected<Error> failure(ErrorKind kind, std::string message) {
  return std::unexpected(Error(kind, std::move(message)));
}

// Passes a failure on: `if (!r) return forward(std::move(r), "cannot load the snapshot");`
template <typename T>
std::unexpected<Error> forward(Result<T>&& result) {
  return std::unexpected(std::move(result).error());
}
template <typename T>
std::unexpected<Error> forward(Result<T>&& result, std::string_view context) {
  return std::unexpected(std::move(result).error().within(context));
}

}  // namespace bulkhead
