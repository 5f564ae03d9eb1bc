#include "runtime/pidfd.h"

#include <poll.h>
#include <sys/pidfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#include <cerrno>

namespace bulkhead {

Result<PidFd> PidFd::open(pid_t pid) {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
  if (!fd.valid()) return os_failure("cannot open process " + std::to_string(pid));
  return PidFd(pid, std::move(fd));
}

Status PidFd::signal(int signal_number) const {
  if (::syscall(SYS_pidfd_send_signal, fd_.get(), signal_number, nullptr, 0) == 0) return {};
  if (errno == ESRCH) return failure(ErrorKind::kNotFound, "process " + std::to_string(pid_) + " has ended");
  return os_failure("cannot signal process " + std::to_string(pid_));
}

Result<UniqueFd> PidFd::get_fd(int target) const {
  UniqueFd fd(static_cast<int>(::syscall(SYS_pidfd_getfd, fd_.get(), target, 0)));
  if (!fd.valid()) return os_failure("cannot take a descriptor of process " + std::to_string(pid_));
  return fd;
}

bool PidFd::has_ended() const {
  pollfd end{fd_.get(), POLLIN, 0};
  return ::poll(&end, 1, 0) > 0;
}

std::optional<ExitStatus> PidFd::reap() {
  siginfo_t info{};
  if (::waitid(P_PIDFD, static_cast<id_t>(fd_.get()), &info, WEXITED | WNOHANG) == 0) {
    if (info.si_pid == 0) return std::nullopt;
    return ExitStatus{true, info.si_code, info.si_status};
  }
  if (errno != ECHILD) return std::nullopt;
  // Not our child: its end is all there is to know.
  if (has_ended()) return ExitStatus{};
  return std::nullopt;
}

}  // namespace bulkhead
