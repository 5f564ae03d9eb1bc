#include "supervisor/priority.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <string>

namespace bulkhead::supervisor {
namespace {

class PriorityTest : public testing::Test {
 protected:
  PriorityTest() {
    std::array<int, 2> pipe{};
    EXPECT_EQ(::pipe(pipe.data()), 0);
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setsid();
      ::close(pipe[1]);
      for (;;) ::pause();
    }
    ::close(pipe[1]);
    char end = 0;
    EXPECT_EQ(::read(pipe[0], &end, 1), 0);  // it has a session of its own
    ::close(pipe[0]);
    process_ = std::move(*PidFd::open(pid));
  }
  ~PriorityTest() override { end(); }
  void end() {
    if (!process_.signal(SIGKILL)) return;
    pollfd ended{process_.fd().get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
  }
  int nice() {
    errno = 0;
    return ::getpriority(PRIO_PROCESS, static_cast<id_t>(process_.pid()));
  }

  PidFd process_;
};

TEST_F(PriorityTest, IsThatOfTheProcess) {
  const int own = ::getpriority(PRIO_PROCESS, 0);
  ASSERT_TRUE(set_priority(process_, 7));
  EXPECT_EQ(nice(), 7);
  EXPECT_EQ(::getpriority(PRIO_PROCESS, 0), own);
  if (::geteuid() != 0) GTEST_SKIP() << "only root may lower it";
  ASSERT_TRUE(set_priority(process_, -3));
  EXPECT_EQ(nice(), -3);
}

TEST_F(PriorityTest, OneThatHasEndedIsNotFound) {
  end();
  EXPECT_EQ(set_priority(process_, 7).error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(set_session_priority(process_, 7).error().kind(), ErrorKind::kNotFound);
  EXPECT_TRUE(process_.reap());
}

TEST_F(PriorityTest, OfTheSessionWhereTheKernelHasSuch) {
  const std::string path = "/proc/" + std::to_string(process_.pid()) + "/autogroup";
  ASSERT_TRUE(set_session_priority(process_, 5));
  std::string shown;
  if (!std::getline(std::ifstream(path), shown)) GTEST_SKIP() << "this kernel has no autogroups";
  EXPECT_TRUE(shown.ends_with("nice 5")) << shown;
}

}  // namespace
}  // namespace bulkhead::supervisor
