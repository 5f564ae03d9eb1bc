#include "supervisor/priority.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cerrno>
#include <string>

namespace bulkhead::supervisor {

Status set_priority(const PidFd& process, int nice) {
  // Its number may be another process's once it has been reaped.
  if (process.has_ended()) return failure(ErrorKind::kNotFound, "the process has ended");
  // A process's number is its main thread's: PRIO_PROCESS means one thread here (setpriority(2), "C
  // library/kernel differences").
  if (::setpriority(PRIO_PROCESS, static_cast<id_t>(process.pid()), nice) == 0) return {};
  return os_failure("cannot set the nice value " + std::to_string(nice));
}

Status set_session_priority(const PidFd& process, int nice) {
  if (process.has_ended()) return failure(ErrorKind::kNotFound, "the process has ended");
  const std::string path = "/proc/" + std::to_string(process.pid()) + "/autogroup";
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return {};
  const std::string text = std::to_string(nice);
  if (::write(file.get(), text.data(), text.size()) >= 0) return {};
  return os_failure("cannot set the session's nice value " + text);
}

}  // namespace bulkhead::supervisor
