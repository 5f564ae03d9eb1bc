// PidFd: a process that cannot be confused with another one, and the duty to reap it.
#pragma once

#include <sys/types.h>

#include <optional>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

// How a process ended. Unknown when it was not our child (a component re-adopted by a restarted core).
struct ExitStatus {
  bool known = false;
  int code = 0;    // siginfo si_code: CLD_EXITED, CLD_KILLED, CLD_DUMPED
  int status = 0;  // exit status or signal
};

class PidFd {
 public:
  PidFd() = default;
  PidFd(pid_t pid, UniqueFd fd) : pid_(pid), fd_(std::move(fd)) {}

  static Result<PidFd> open(pid_t pid);

  pid_t pid() const { return pid_; }
  bool valid() const { return fd_.valid(); }
  // Readable once the process has ended.
  BorrowedFd fd() const { return fd_.borrow(); }

  // Sends a signal; kNotFound if the process has ended.
  Status signal(int signal_number) const;
  // A copy of descriptor `target` of the process; needs ptrace rights over it.
  Result<UniqueFd> get_fd(int target) const;
  // A zombie has, too. Never blocks.
  bool has_ended() const;
  // Has it ended? Reaps it if it is our child. Never blocks.
  std::optional<ExitStatus> reap();

 private:
  pid_t pid_ = 0;
  UniqueFd fd_;
};

}  // namespace bulkhead
