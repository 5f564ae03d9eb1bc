#include "monitors/exit.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <functional>

namespace bulkhead::monitors {
namespace {

ExitStatus end_of(const std::function<void()>& body) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const rlimit none{0, 0};
    ::setrlimit(RLIMIT_CORE, &none);
    body();
    ::_exit(0);
  }
  auto process = PidFd::open(pid);
  EXPECT_TRUE(process.has_value());
  pollfd ended{process->fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 20000), 1);
  return process->reap().value_or(ExitStatus{});
}

TEST(Exit, RealEndsInWords) {
  EXPECT_EQ(describe_exit(end_of([] { ::_exit(3); })), "exit status 3");
  EXPECT_EQ(describe_exit(end_of([] { ::raise(SIGKILL); })), "killed by signal 9 (Killed)");
  EXPECT_EQ(describe_exit(end_of([] { ::signal(SIGTERM, SIG_DFL), ::raise(SIGTERM); })),
            "killed by signal 15 (Terminated)");
  EXPECT_TRUE(ended_well(end_of([] {})));
  EXPECT_FALSE(ended_well(end_of([] { ::_exit(1); })));
}

TEST(Exit, CoreDumpsAndTheUnknown) {
  EXPECT_EQ(describe_exit({true, CLD_DUMPED, SIGSEGV}),
            "killed by signal 11 (Segmentation fault), core dumped");
  EXPECT_EQ(describe_exit({true, CLD_KILLED, 99}), "killed by signal 99 (unknown)");
  EXPECT_EQ(describe_exit({}), "ended (status unknown: started by an earlier core)");
  EXPECT_FALSE(ended_well({}));
}

}  // namespace
}  // namespace bulkhead::monitors
