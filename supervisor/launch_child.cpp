#include "supervisor/launch_child.h"

#include <fcntl.h>
#include <grp.h>
#include <linux/close_range.h>
#include <linux/sched.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <csignal>
#include <cstdint>

namespace bulkhead::supervisor {

namespace {

constexpr std::array<std::string_view, 13> kSteps = {"start a session",
                                                     "reset signals",
                                                     "set up standard input and output",
                                                     "pass on descriptors",
                                                     "change to directory",
                                                     "set a resource limit",
                                                     "set its place when memory is short",
                                                     "set supplementary groups",
                                                     "set the group",
                                                     "set the user",
                                                     "give up gaining privileges",
                                                     "die with the supervisor",
                                                     "exec"};

void report(const ChildPlan& plan, ChildStep step, bool fatal) {
  const ChildReport what{step, fatal, errno};
  // Nobody to tell if this fails; the exit status remains.
  [[maybe_unused]] const ssize_t written = ::write(plan.reports, &what, sizeof what);
}

[[noreturn]] void fail(const ChildPlan& plan, ChildStep step) {
  report(plan, step, true);
  ::_exit(127);
}

// Handlers are reset by exec, ignored signals and the mask are not.
bool reset_signals() {
  struct sigaction standard{};
  standard.sa_handler = SIG_DFL;
  for (int number = 1; number < NSIG; ++number)
    ::sigaction(number, &standard, nullptr);  // KILL, STOP: refused
  sigset_t none;
  ::sigemptyset(&none);
  return ::sigprocmask(SIG_SETMASK, &none, nullptr) == 0;
}

bool set_output(const ChildPlan& plan) {
  const int null = ::open("/dev/null", O_RDWR | O_CLOEXEC);
  if (null < 0 || ::dup2(null, STDIN_FILENO) < 0) return false;
  switch (plan.request->output) {
    case LaunchRequest::Output::kInherit:
      return true;
    case LaunchRequest::Output::kDiscard:
      return ::dup2(null, STDOUT_FILENO) >= 0 && ::dup2(null, STDERR_FILENO) >= 0;
    case LaunchRequest::Output::kPipe:
      return ::dup2(plan.output, STDOUT_FILENO) >= 0 && ::dup2(plan.error_output, STDERR_FILENO) >= 0;
  }
  return false;
}

// Sources, the report pipe and the program are moved out of the way first, since a target may be another
// one's number.
bool pass_descriptors(ChildPlan& plan) {
  constexpr std::size_t kMax = 64;
  const auto& wanted = plan.request->descriptors;
  if (wanted.size() > kMax) {
    errno = E2BIG;
    return false;
  }
  int above = 3;
  for (const auto& inherited : wanted) above = std::max(above, inherited.target + 1);
  std::array<int, kMax> moved{};
  for (std::size_t i = 0; i < wanted.size(); ++i) {
    moved[i] = ::fcntl(wanted[i].fd.get(), F_DUPFD_CLOEXEC, above);
    if (moved[i] < 0) return false;
  }
  const int reports = ::fcntl(plan.reports, F_DUPFD_CLOEXEC, above);
  if (reports < 0) return false;
  plan.reports = reports;
  if (plan.executable >= 0) plan.executable = ::fcntl(plan.executable, F_DUPFD_CLOEXEC, above);
  if (plan.executable < 0 && plan.request->executable.valid()) return false;
  // Ours are close-on-exec from birth; what the core itself inherited may not be.
  ::close_range(3, ~0U, CLOSE_RANGE_CLOEXEC);
  for (std::size_t i = 0; i < wanted.size(); ++i)
    if (::dup2(moved[i], wanted[i].target) < 0) return false;
  return true;
}

// A limit above what we may raise to is lowered to that and reported: better started with less than not at
// all.
bool set_limits(const ChildPlan& plan) {
  for (const auto& limit : plan.request->limits) {
    const auto resource = static_cast<__rlimit_resource>(limit.resource);
    rlimit value{limit.value, limit.value};
    if (::setrlimit(resource, &value) == 0) continue;
    if (errno != EPERM) return false;
    report(plan, ChildStep::kLimits, false);
    rlimit have{};
    if (::getrlimit(resource, &have) != 0) return false;
    value = {std::min<rlim_t>(limit.value, have.rlim_max), std::min<rlim_t>(limit.value, have.rlim_max)};
    if (::setrlimit(resource, &value) != 0) return false;
  }
  return true;
}

// Without privilege it can be raised only. A process that keeps the core's is no less able to serve.
void set_oom_score(const ChildPlan& plan) {
  if (!plan.request->oom_score_adjust) return;
  std::array<char, 16> text{};
  const auto [end, bad] =
      std::to_chars(text.data(), text.data() + text.size(), *plan.request->oom_score_adjust);
  const auto length = static_cast<std::size_t>(end - text.data());
  const int file = ::open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (file < 0 || bad != std::errc() || ::write(file, text.data(), length) < 0)
    report(plan, ChildStep::kOomScore, false);
}

// By raw system calls: the C library's versions coordinate with threads that this copy of the process lacks.
void become(const ChildPlan& plan) {
  if (plan.account == nullptr) return;
  const Account& account = *plan.account;
  if (::syscall(SYS_setgroups, account.groups.size(), account.groups.data()) != 0)
    fail(plan, ChildStep::kGroups);
  if (::syscall(SYS_setresgid, account.gid, account.gid, account.gid) != 0) fail(plan, ChildStep::kGroup);
  if (::syscall(SYS_setresuid, account.uid, account.uid, account.uid) != 0) fail(plan, ChildStep::kUser);
}

// After the change of user, which clears the setting (prctl(2)). If the parent died before, nobody will tell
// us.
bool die_with_parent(const ChildPlan& plan) {
  if (::prctl(PR_SET_PDEATHSIG, SIGKILL) != 0) return false;
  if (::syscall(SYS_getppid) != plan.parent) ::_exit(127);
  return true;
}

void execute(const ChildPlan& plan) {
  if (plan.executable < 0) {
    ::execve(plan.request->program.c_str(), plan.argv, plan.environment);
    return;
  }
  if (plan.request->is_script) ::fcntl(plan.executable, F_SETFD, 0);
  ::execveat(plan.executable, "", plan.argv, plan.environment, AT_EMPTY_PATH);
}

[[noreturn]] void run_child(ChildPlan plan) {
  const LaunchRequest& request = *plan.request;
  if (::setsid() < 0) fail(plan, ChildStep::kSession);
  if (!reset_signals()) fail(plan, ChildStep::kSignals);
  if (!set_output(plan)) fail(plan, ChildStep::kOutput);
  if (!pass_descriptors(plan)) fail(plan, ChildStep::kDescriptors);
  ::umask(022);
  if (::chdir(request.directory.c_str()) != 0) fail(plan, ChildStep::kDirectory);
  if (!set_limits(plan)) fail(plan, ChildStep::kLimits);
  set_oom_score(plan);
  become(plan);
  if (request.no_new_privs && ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0)
    fail(plan, ChildStep::kNoNewPrivs);
  if (request.die_with_core && !die_with_parent(plan)) fail(plan, ChildStep::kParentDeath);
  execute(plan);
  fail(plan, ChildStep::kExec);
}

}  // namespace

std::string_view name_of(ChildStep step) {
  return kSteps[static_cast<std::size_t>(step)];
}

// Without CLONE_VM the child works on a copy, so it cannot harm the suspended parent's memory.
pid_t clone_child(const ChildPlan& plan, int* pidfd, int cgroup) {
  clone_args args{};
  args.flags = CLONE_PIDFD | CLONE_VFORK;
  args.pidfd = reinterpret_cast<std::uintptr_t>(pidfd);
  args.exit_signal = SIGCHLD;
  if (cgroup >= 0) {
    args.flags |= CLONE_INTO_CGROUP;
    args.cgroup = static_cast<__u64>(cgroup);
  }
  const long pid = ::syscall(SYS_clone3, &args, sizeof args);
  if (pid == 0) run_child(plan);
  return static_cast<pid_t>(pid);
}

pid_t fork_child(const ChildPlan& plan) {
  const pid_t pid = ::fork();
  if (pid == 0) run_child(plan);
  return pid;
}

}  // namespace bulkhead::supervisor
