#include "hypervisor/local/machine_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstdlib>

namespace bulkhead::hypervisor::local {
namespace {

Result<pid_t> spawn(const std::string& program, const std::string& socket, BorrowedFd output) {
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child < 0) return os_failure("cannot fork");
  if (child > 0) return child;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(127);
  ::dup2(output.get(), STDOUT_FILENO);
  ::execl(program.c_str(), program.c_str(), "--socket", socket.c_str(), nullptr);
  ::_exit(127);
}

// It says so by its first line; the pipe ends if it cannot.
bool wait_until_ready(BorrowedFd output) {
  std::array<char, 16> line{};
  ssize_t got = -1;
  do {
    got = ::read(output.get(), line.data(), line.size());
  } while (got < 0 && errno == EINTR);
  return got > 0;
}

}  // namespace

MachineProcess::MachineProcess(std::string directory, PidFd process)
    : directory_(std::move(directory)), socket_(directory_ + "/hypervisor"), process_(std::move(process)) {}

Result<std::unique_ptr<MachineProcess>> MachineProcess::start(const std::string& program) {
  std::string directory = "/tmp/bulkhead-machine-XXXXXX";
  if (::mkdtemp(directory.data()) == nullptr) return os_failure("cannot create a directory");
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return os_failure("cannot create a pipe");
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  auto child = spawn(program, directory + "/hypervisor", write_end.borrow());
  if (!child) return forward(std::move(child));
  write_end.reset();
  auto process = PidFd::open(*child);
  if (!process) return forward(std::move(process));
  std::unique_ptr<MachineProcess> machine(new MachineProcess(std::move(directory), std::move(*process)));
  if (!wait_until_ready(read_end.borrow())) return failure(ErrorKind::kFailed, program + " does not start");
  return machine;
}

MachineProcess::~MachineProcess() {
  (void)process_.signal(SIGKILL);
  ::waitpid(process_.pid(), nullptr, 0);
  ::unlink(socket_.c_str());
  ::rmdir(directory_.c_str());
}

}  // namespace bulkhead::hypervisor::local
