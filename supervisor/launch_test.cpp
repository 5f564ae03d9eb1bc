#include "supervisor/launch.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

namespace bulkhead::supervisor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr int kPatienceMs = 20000;

LaunchRequest shell(const std::string& script) {
  LaunchRequest request;
  request.program = "/bin/sh";
  request.args = {"-c", script};
  request.environment = {"PATH=/usr/bin:/bin"};
  return request;
}

ExitStatus wait_for_end(PidFd& process) {
  pollfd ended{process.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, kPatienceMs), 1) << "the process did not end";
  const auto status = process.reap();
  return status.value_or(ExitStatus{});
}

// Everything until the last writer is gone.
std::string read_all(const UniqueFd& fd) {
  std::string text;
  std::array<char, 4096> buffer{};
  for (;;) {
    pollfd ready{fd.get(), POLLIN, 0};
    if (::poll(&ready, 1, kPatienceMs) != 1) return text + "<timeout>";
    const ssize_t got = ::read(fd.get(), buffer.data(), buffer.size());
    if (got <= 0) return text;
    text.append(buffer.data(), static_cast<std::size_t>(got));
  }
}

std::string output_of(const LaunchRequest& request) {
  auto launched = launch(request);
  if (!launched) return launched.error().message();
  std::string text = read_all(launched->output);
  EXPECT_EQ(wait_for_end(launched->process).status, 0) << read_all(launched->error_output);
  return text;
}

TEST(Launch, EnvironmentAndArgumentsAreExactlyThoseGiven) {
  LaunchRequest request;
  request.program = "/usr/bin/env";
  request.environment = {"A=1", "B=two words"};
  EXPECT_EQ(output_of(request), "A=1\nB=two words\n");
  request.program = "/bin/echo";
  request.args = {"x y", "", "$HOME"};
  EXPECT_EQ(output_of(request), "x y  $HOME\n");
}

TEST(Launch, StandardErrorHasItsOwnPipe) {
  auto launched = launch(shell("echo out; echo err >&2"));
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  EXPECT_EQ(read_all(launched->output), "out\n");
  EXPECT_EQ(read_all(launched->error_output), "err\n");
  EXPECT_THAT(launched->notes, IsEmpty());
  EXPECT_EQ(wait_for_end(launched->process).status, 0);
}

TEST(Launch, ItsPlaceWhenMemoryIsShortIsItsOwn) {
  LaunchRequest request;
  request.program = "/bin/cat";
  request.args = {"/proc/self/oom_score_adj"};
  request.oom_score_adjust = 321;
  EXPECT_EQ(output_of(request), "321\n");
  request.oom_score_adjust.reset();
  std::ifstream own("/proc/self/oom_score_adj");
  std::string inherited;
  std::getline(own, inherited);
  EXPECT_EQ(output_of(request), inherited + "\n");
}

TEST(Launch, WhatMayNotBeLoweredIsANote) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root to give up the privilege";
  // The child inherits a higher value than it may go back to without CAP_SYS_RESOURCE.
  const pid_t pid = ::fork();
  if (pid == 0) {
    std::ofstream("/proc/self/oom_score_adj") << 100 << std::flush;
    if (::setresuid(65534, 65534, 65534) != 0) ::_exit(2);
    auto request = shell("cat /proc/self/oom_score_adj");
    request.oom_score_adjust = -500;
    auto launched = launch(request);
    const bool fine = launched && read_all(launched->output) == "100\n" && launched->notes.size() == 1 &&
                      launched->notes[0].contains("memory is short");
    ::_exit(fine ? 0 : 1);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  EXPECT_EQ(status, 0);
}

TEST(Launch, AFailedExecSaysWhatAndWhy) {
  LaunchRequest request;
  request.program = "/nonexistent/program";
  auto launched = launch(request);
  ASSERT_FALSE(launched.has_value());
  EXPECT_EQ(launched.error().message(), "cannot exec /nonexistent/program: No such file or directory");
  // The failed child has been reaped.
  EXPECT_EQ(::waitpid(-1, nullptr, WNOHANG), -1);
  EXPECT_EQ(errno, ECHILD);
}

TEST(Launch, AnOpenFileIsExecutedWhateverIsUnderItsNameByNow) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / std::to_string(::getpid());
  std::filesystem::create_directory(folder);
  std::filesystem::copy_file("/bin/echo", folder / "program");
  const UniqueFd file(::open((folder / "program").c_str(), O_RDONLY | O_CLOEXEC));
  std::filesystem::remove(folder / "program");
  std::filesystem::create_symlink("/bin/false", folder / "program");
  LaunchRequest request;
  request.program = folder / "program";
  request.args = {"the first one"};
  request.executable = file.borrow();
  // Its number may be somebody's target.
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  request.descriptors = {{null.borrow(), file.get()}};
  EXPECT_EQ(output_of(request), "the first one\n");
  std::filesystem::remove_all(folder);
}

TEST(Launch, AScriptMayBeAnOpenFileToo) {
  const std::filesystem::path folder = std::filesystem::temp_directory_path() / std::to_string(::getpid());
  std::filesystem::create_directory(folder);
  std::ofstream(folder / "script") << "#!/bin/sh\necho \"script $1\"\n";
  std::filesystem::permissions(folder / "script", std::filesystem::perms::owner_all);
  const UniqueFd file(::open((folder / "script").c_str(), O_RDONLY | O_CLOEXEC));
  std::filesystem::remove_all(folder);
  LaunchRequest request;
  request.program = folder / "script";
  request.args = {"runs"};
  request.executable = file.borrow();
  request.is_script = true;
  EXPECT_EQ(output_of(request), "script runs\n");
}

TEST(Launch, AFailedStepIsNamed) {
  auto request = shell("true");
  request.directory = "/nonexistent";
  auto launched = launch(request);
  ASSERT_FALSE(launched.has_value());
  EXPECT_EQ(launched.error().message(), "cannot change to directory /nonexistent: No such file or directory");
}

TEST(Launch, PassesDescriptorsUnderTheirNumbersAndNoOthers) {
  std::array<int, 2> ends{};
  ASSERT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  const UniqueFd write_end(ends[1]);
  const int leaky = ::dup(write_end.get());  // not close-on-exec, as something inherited by the core could be
  auto request = shell(
      "echo 3:$(readlink /proc/$$/fd/3); echo 4:$(readlink /proc/$$/fd/4); ls /proc/$$/fd; echo hello >&3");
  // Crosswise where the numbers allow it: each target may be another's source.
  request.descriptors = {{write_end.borrow(), 3}, {read_end.borrow(), 4}};
  auto launched = launch(request);
  ::close(leaky);
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  std::istringstream text(read_all(launched->output));
  std::string three;
  std::string four;
  std::getline(text, three);
  std::getline(text, four);
  EXPECT_THAT(three, HasSubstr("3:pipe:"));
  EXPECT_EQ(three.substr(2), four.substr(2));
  std::vector<std::string> open{std::istream_iterator<std::string>(text), {}};
  EXPECT_THAT(open, ElementsAre("0", "1", "2", "3", "4"));
  std::array<char, 16> buffer{};
  EXPECT_EQ(::read(read_end.get(), buffer.data(), buffer.size()), 6);
  EXPECT_STREQ(buffer.data(), "hello\n");
  wait_for_end(launched->process);
}

TEST(Launch, TargetsMayBeEachOthersSources) {
  const UniqueFd null(::open("/dev/null", O_RDWR | O_CLOEXEC));
  const UniqueFd zero(::open("/dev/zero", O_RDWR | O_CLOEXEC));
  auto request = shell("readlink /proc/$$/fd/" + std::to_string(null.get()) + " /proc/$$/fd/" +
                       std::to_string(zero.get()));
  request.descriptors = {{null.borrow(), zero.get()}, {zero.borrow(), null.get()}};
  EXPECT_EQ(output_of(request), "/dev/zero\n/dev/null\n");
}

TEST(Launch, RefusesTargetsThatAreNotSensible) {
  auto request = shell("true");
  request.descriptors = {{BorrowedFd(0), 1}};
  EXPECT_EQ(launch(request).error().kind(), ErrorKind::kInvalid);
  request.descriptors = {{BorrowedFd(-1), 3}};
  EXPECT_EQ(launch(request).error().kind(), ErrorKind::kInvalid);
}

TEST(Launch, SignalsSessionAndPrivilegesAreReset) {
  struct sigaction ignore{};
  ignore.sa_handler = SIG_IGN;
  struct sigaction before{};
  ASSERT_EQ(::sigaction(SIGUSR1, &ignore, &before), 0);
  sigset_t blocked;
  sigset_t old;
  ::sigemptyset(&blocked);
  ::sigaddset(&blocked, SIGUSR2);
  ASSERT_EQ(::sigprocmask(SIG_BLOCK, &blocked, &old), 0);
  const std::string status =
      output_of(shell("grep -E '^(SigBlk|SigIgn|NoNewPrivs)' /proc/self/status; ps -o sid= -p $$; echo $$"));
  ::sigaction(SIGUSR1, &before, nullptr);
  ::sigprocmask(SIG_SETMASK, &old, nullptr);
  EXPECT_THAT(status, HasSubstr("SigBlk:\t0000000000000000"));
  EXPECT_THAT(status, HasSubstr("SigIgn:\t0000000000000000"));
  EXPECT_THAT(status, HasSubstr("NoNewPrivs:\t1"));
  std::istringstream tail(status.substr(status.rfind("NoNewPrivs:\t1") + 13));
  int session = 0;
  int pid = 0;
  tail >> session >> pid;
  EXPECT_EQ(session, pid);
}

TEST(Launch, SetsResourceLimits) {
  auto request = shell("ulimit -n; ulimit -c; ulimit -Hn");
  request.limits = {{RLIMIT_NOFILE, 77}, {RLIMIT_CORE, 0}};
  EXPECT_EQ(output_of(request), "77\n0\n77\n");
}

TEST(Launch, ALimitOutOfReachIsLoweredWithANote) {
  rlimit have{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &have), 0);
  auto request = shell("ulimit -n");
  request.limits = {{RLIMIT_NOFILE, std::uint64_t{1} << 40}};  // above fs.nr_open, refused even to root
  auto launched = launch(request);
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  EXPECT_THAT(launched->notes, ElementsAre(HasSubstr("cannot set a resource limit")));
  EXPECT_EQ(read_all(launched->output), std::to_string(have.rlim_max) + "\n");
  wait_for_end(launched->process);
}

TEST(Launch, RunsAsAnotherUser) {
  if (::geteuid() != 0) GTEST_SKIP() << "needs root";
  auto account = resolve_account("nobody", "nogroup");
  ASSERT_TRUE(account.has_value()) << account.error().message();
  auto request = shell("id -u; id -g; id -G");
  request.account = *account;
  const std::string ids = std::to_string(account->uid) + "\n" + std::to_string(account->gid) + "\n" +
                          std::to_string(account->gid) + "\n";
  EXPECT_EQ(output_of(request), ids);
}

TEST(Launch, AccountsAreResolvedByName) {
  EXPECT_EQ(resolve_account("no-such-user", "").error().message(), "there is no user no-such-user");
  EXPECT_EQ(resolve_account("nobody", "no-such-group").error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(resolve_group("no-such-group").error().kind(), ErrorKind::kNotFound);
  const auto optional = resolve_account("-no-such-user", "");
  ASSERT_TRUE(optional.has_value());
  EXPECT_EQ(optional->uid, ::geteuid());
  EXPECT_EQ(optional->note, "runs as the core's own user: there is no user no-such-user");
  EXPECT_EQ(resolve_account("root", "-no-such-group")->gid, 0U);
  EXPECT_EQ(resolve_account("-root", "")->note, "");
}

TEST(Launch, NobodyReadingTheOutputBlocksNobody) {
  // Far more than a pipe holds. The writer gets errors instead of blocking, and ends.
  auto launched = launch(shell("head -c 4000000 /dev/zero 2>/dev/null; exit 5"));
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  EXPECT_EQ(wait_for_end(launched->process).status, 5);
}

// A process that launches `sleep` and dies at once; returns a pidfd of the orphan.
PidFd orphan(bool die_with_core) {
  std::array<int, 2> ends{};
  EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC), 0);
  const UniqueFd read_end(ends[0]);
  UniqueFd write_end(ends[1]);
  const pid_t core = ::fork();
  if (core == 0) {
    LaunchRequest request;
    request.program = "/bin/sleep";
    request.args = {"1000"};
    request.die_with_core = die_with_core;
    auto launched = launch(request);
    const pid_t pid = launched ? launched->process.pid() : -1;
    [[maybe_unused]] const ssize_t written = ::write(write_end.get(), &pid, sizeof pid);
    ::pause();  // killed below
    ::_exit(0);
  }
  write_end.reset();
  pid_t pid = -1;
  EXPECT_EQ(::read(read_end.get(), &pid, sizeof pid), ssize_t{sizeof pid});
  auto process = PidFd::open(pid);
  EXPECT_TRUE(process.has_value());
  ::kill(core, SIGKILL);
  ::waitpid(core, nullptr, 0);
  return process ? std::move(*process) : PidFd();
}

TEST(Launch, DiesWithTheCoreOnlyWhenAsked) {
  PidFd mortal = orphan(true);
  ASSERT_TRUE(mortal.valid());
  pollfd ended{mortal.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, kPatienceMs), 1);

  PidFd survivor = orphan(false);
  ASSERT_TRUE(survivor.valid());
  EXPECT_FALSE(survivor.reap().has_value());
  EXPECT_TRUE(survivor.signal(SIGKILL).has_value());
  ended = {survivor.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, kPatienceMs), 1);
  // Not our child: how it ended is unknown.
  const auto exit = survivor.reap();
  ASSERT_TRUE(exit.has_value());
  EXPECT_FALSE(exit->known);
}

TEST(Launch, FindsProgramsByName) {
  EXPECT_EQ(find_program("/bin/sh").value_or(""), "/bin/sh");
  EXPECT_EQ(find_program("/nonexistent/x").error().message(),
            "there is no executable program /nonexistent/x");
  EXPECT_THAT(find_program("no-such-program").error().message(),
              HasSubstr("there is no executable program no-such-program in "));
  EXPECT_FALSE(find_program("").has_value());
  EXPECT_FALSE(find_program("/etc/passwd").has_value());  // not executable
  EXPECT_TRUE(find_program("sh").has_value());
  // Beside the running program first.
  const std::string self = std::filesystem::read_symlink("/proc/self/exe").filename();
  EXPECT_EQ(find_program(self).value_or(""), std::filesystem::read_symlink("/proc/self/exe").string());
}

TEST(Launch, TakesLittleOfTheCoresTime) {
  // Not a benchmark: only that launching does not wait for the program.
  auto launched = launch(shell("sleep 1000"));
  ASSERT_TRUE(launched.has_value());
  EXPECT_FALSE(launched->process.reap().has_value());
  EXPECT_TRUE(launched->process.signal(SIGKILL).has_value());
  const ExitStatus exit = wait_for_end(launched->process);
  EXPECT_TRUE(exit.known);
  EXPECT_EQ(exit.code, CLD_KILLED);
  EXPECT_EQ(exit.status, SIGKILL);
}

}  // namespace
}  // namespace bulkhead::supervisor
