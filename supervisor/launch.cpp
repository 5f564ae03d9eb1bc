#include "supervisor/launch.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <filesystem>

#include "supervisor/launch_child.h"

#ifndef BULKHEAD_LIBEXECDIR
#define BULKHEAD_LIBEXECDIR "/usr/libexec/bulkhead"
#endif

namespace bulkhead::supervisor {

namespace {

struct Pipe {
  UniqueFd read, write;
};

Result<Pipe> make_pipe(int flags) {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC | flags) != 0) return os_failure("cannot make a pipe");
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

bool executable(const std::string& path) {
  struct stat info{};
  return ::stat(path.c_str(), &info) == 0 && S_ISREG(info.st_mode) && ::access(path.c_str(), X_OK) == 0;
}

// Where programs without a slash are looked for, in order.
std::vector<std::string> program_directories() {
  std::vector<std::string> places;
  std::error_code error;
  const auto self = std::filesystem::read_symlink("/proc/self/exe", error);
  if (!error) places.push_back(self.parent_path());
  places.emplace_back(BULKHEAD_LIBEXECDIR);
  const char* path = ::getenv("PATH");  // NOLINT(concurrency-mt-unsafe): one thread
  std::string_view rest = path != nullptr ? path : "/usr/sbin:/usr/bin:/sbin:/bin";
  while (!rest.empty()) {
    const auto colon = rest.find(':');
    const auto entry = rest.substr(0, colon);
    if (entry.starts_with('/')) places.emplace_back(entry);
    rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  }
  return places;
}

std::vector<char*> c_strings(const std::vector<std::string>& strings) {
  std::vector<char*> pointers;
  pointers.reserve(strings.size() + 1);
  // execve takes char* for historical reasons and does not write.
  for (const auto& string : strings) pointers.push_back(const_cast<char*>(string.c_str()));
  pointers.push_back(nullptr);
  return pointers;
}

// What the child says before exec. The kernel wakes us from the vfork before it closes close-on-exec
// descriptors, so the end of file may come microseconds later; the poll bounds even a kernel that stalls
// there.
struct Reports {
  std::vector<ChildReport> notes;
  std::optional<ChildReport> fatal;
};
Reports read_reports(const UniqueFd& pipe) {
  constexpr int kPatienceMs = 5000;
  Reports reports;
  for (;;) {
    pollfd ready{pipe.get(), POLLIN, 0};
    if (::poll(&ready, 1, kPatienceMs) == 0) return reports;
    ChildReport report{};
    const ssize_t got = ::read(pipe.get(), &report, sizeof report);
    if (got < 0 && errno == EINTR) continue;
    if (got != ssize_t{sizeof report}) return reports;
    if (report.fatal) {
      reports.fatal = report;
      return reports;
    }
    reports.notes.push_back(report);
  }
}

struct Started {
  pid_t pid;
  UniqueFd pidfd;
};

// Tries the best way first: straight into its control group; then without; then with a plain fork, where a
// sandbox forbids clone3.
Result<Started> start(const ChildPlan& plan, int cgroup, std::vector<std::string>& notes) {
  int pidfd = -1;
  if (cgroup >= 0) {
    const pid_t pid = clone_child(plan, &pidfd, cgroup);
    if (pid > 0) return Started{pid, UniqueFd(pidfd)};
    notes.push_back(Error::from_errno("runs outside its control group: cannot be started in it").message());
  }
  const pid_t cloned = clone_child(plan, &pidfd, -1);
  if (cloned > 0) return Started{cloned, UniqueFd(pidfd)};
  if (errno != ENOSYS && errno != EPERM && errno != EINVAL) return os_failure("cannot create a process");
  const pid_t pid = fork_child(plan);
  if (pid < 0) return os_failure("cannot create a process");
  // Our own child, not reaped yet: its pid cannot have passed to another process.
  auto process = PidFd::open(pid);
  if (!process) {
    ::kill(pid, SIGKILL);
    return forward(std::move(process));
  }
  return Started{pid, UniqueFd(::fcntl(process->fd().get(), F_DUPFD_CLOEXEC, 0))};
}

Status check(const LaunchRequest& request) {
  if (request.program.empty()) return failure(ErrorKind::kInvalid, "no program to launch");
  for (const auto& inherited : request.descriptors) {
    if (inherited.target < 3 || inherited.target > 1000) {
      return failure(ErrorKind::kInvalid, "descriptor number " + std::to_string(inherited.target) + " for " +
                                              request.program + " is not within 3 and 1000");
    }
    if (!inherited.fd.valid()) {
      return failure(ErrorKind::kInvalid, "descriptor " + std::to_string(inherited.target) + " for " +
                                              request.program + " is not open");
    }
  }
  return {};
}

std::string describe(const ChildReport& report, const LaunchRequest& request) {
  std::string what = "cannot " + std::string(name_of(report.step));
  if (report.step == ChildStep::kExec) what += " " + request.program;
  if (report.step == ChildStep::kDirectory) what += " " + request.directory;
  return Error::from_errno(what, report.error).message();
}

}  // namespace

Result<std::string> find_program(const std::string& program) {
  if (program.contains('/')) {
    if (executable(program)) return program;
    return failure(ErrorKind::kNotFound, "there is no executable program " + program);
  }
  std::string searched;
  for (const auto& place : program_directories()) {
    std::string path = std::filesystem::path(place) / program;
    if (!program.empty() && executable(path)) return path;
    searched += searched.empty() ? "" : ", ";
    searched += place;
  }
  return failure(ErrorKind::kNotFound, "there is no executable program " + program + " in " + searched);
}

Result<Launched> launch(const LaunchRequest& request) {
  if (auto checked = check(request); !checked) return forward(std::move(checked));
  Launched launched;
  auto reports = make_pipe(0);
  if (!reports) return forward(std::move(reports));
  Pipe out;
  Pipe err;
  if (request.output == LaunchRequest::Output::kPipe) {
    auto made = make_pipe(O_NONBLOCK);
    if (!made) return forward(std::move(made));
    out = std::move(*made);
    made = make_pipe(O_NONBLOCK);
    if (!made) return forward(std::move(made));
    err = std::move(*made);
  }

  std::vector<std::string> arguments = {request.program};
  arguments.insert(arguments.end(), request.args.begin(), request.args.end());
  const auto argv = c_strings(arguments);
  const auto environment = c_strings(request.environment);
  const bool switch_account = request.account.has_value() && ::geteuid() == 0;
  if (request.account && !request.account->note.empty()) launched.notes.push_back(request.account->note);
  if (request.account && !switch_account && request.account->uid != ::geteuid()) {
    launched.notes.push_back("runs as the core's own user, not as " + request.account->name +
                             ": the core is not root");
  }

  const ChildPlan plan{.request = &request,
                       .argv = argv.data(),
                       .environment = environment.data(),
                       .account = switch_account ? &*request.account : nullptr,
                       .output = out.write.get(),
                       .error_output = err.write.get(),
                       .reports = reports->write.get(),
                       .executable = request.executable.get(),
                       .parent = ::getpid()};
  auto started = start(plan, request.cgroup.get(), launched.notes);
  if (!started) return forward(std::move(started), "cannot launch " + request.program);
  launched.process = PidFd(started->pid, std::move(started->pidfd));
  reports->write.reset();

  const Reports said = read_reports(reports->read);
  if (said.fatal) {
    // It ends by itself right after the report; waiting for that is waiting for a process without any memory.
    ::waitpid(started->pid, nullptr, 0);
    Error error(ErrorKind::kFailed, describe(*said.fatal, request));
    return std::unexpected(std::move(error));
  }
  for (const auto& note : said.notes) launched.notes.push_back(describe(note, request));
  launched.output = std::move(out.read);
  launched.error_output = std::move(err.read);
  return launched;
}

}  // namespace bulkhead::supervisor
