#include "runtime/lease.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstdlib>

#include "runtime/pidfd.h"

namespace bulkhead {
namespace {

// A process that acquires the lease, tells so through the pipe, and waits to be killed.
pid_t spawn_owner(BorrowedFd segment, int told) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  auto lease = Lease::open(segment);
  if (!lease) ::_exit(2);
  auto acquired = lease->acquire();
  const char answer = !acquired ? 'e' : *acquired ? 'd' : 'f';
  if (::write(told, &answer, 1) != 1) ::_exit(3);
  for (;;) ::pause();
}

char wait_told(int fd) {
  char answer = 0;
  EXPECT_EQ(::read(fd, &answer, 1), 1);
  return answer;
}

TEST(LeaseTest, PassesFromTheDeadToTheWaiting) {
  auto segment = Lease::create();
  ASSERT_TRUE(segment.has_value());
  auto lease = Lease::open(segment->borrow());
  ASSERT_TRUE(lease.has_value());
  EXPECT_EQ(lease->owner().incarnation, 0U);

  int told[2];
  ASSERT_EQ(::pipe(told), 0);
  pid_t owner = spawn_owner(segment->borrow(), told[1]);
  EXPECT_EQ(wait_told(told[0]), 'f');
  for (std::uint64_t incarnation = 1; incarnation < 20; ++incarnation) {
    EXPECT_EQ(lease->owner().incarnation, incarnation);
    EXPECT_EQ(lease->owner().pid, owner);
    const pid_t next = spawn_owner(segment->borrow(), told[1]);
    if (incarnation % 2 == 0) ::kill(owner, SIGSTOP);  // a frozen owner is fenced the same way
    ::kill(owner, SIGKILL);
    EXPECT_EQ(wait_told(told[0]), 'd');
    ::waitpid(owner, nullptr, 0);
    owner = next;
  }
  ::kill(owner, SIGKILL);
  ::waitpid(owner, nullptr, 0);
}

// An owner that ends by itself, its objects destroyed one by one, leaves the lease to the next one all the
// same.
TEST(LeaseTest, PassesFromOneThatEndedInAnOrderlyWay) {
  auto segment = Lease::create();
  ASSERT_TRUE(segment.has_value());
  for (int i = 0; i < 3; ++i) {
    std::fflush(stdout);
    const pid_t pid = ::fork();
    if (pid == 0) {
      {
        auto lease = Lease::open(segment->borrow());
        if (!lease || !lease->acquire()) std::exit(2);
      }
      std::exit(0);
    }
    ::waitpid(pid, nullptr, 0);
    int told[2];
    ASSERT_EQ(::pipe(told), 0);
    const UniqueFd ours(told[0]);
    const UniqueFd theirs(told[1]);
    const pid_t next = spawn_owner(segment->borrow(), told[1]);
    pollfd waiting{told[0], POLLIN, 0};
    EXPECT_EQ(::poll(&waiting, 1, 10'000), 1) << "the lease is stuck with the dead";
    ::kill(next, SIGKILL);
    ::waitpid(next, nullptr, 0);
  }
}

TEST(LeaseTest, ForeignSegmentIsRefused) {
  auto other = create_memfd("other", kLeaseBytes);
  ASSERT_TRUE(other.has_value());
  EXPECT_FALSE(Lease::open(other->borrow()).has_value());
}

TEST(PidFdTest, ReapsItsChildOnce) {
  const pid_t pid = ::fork();
  if (pid == 0) ::_exit(7);
  auto process = PidFd::open(pid);
  ASSERT_TRUE(process.has_value());
  std::optional<ExitStatus> status;
  while (!(status = process->reap())) {
  }
  EXPECT_TRUE(status->known);
  EXPECT_EQ(status->code, CLD_EXITED);
  EXPECT_EQ(status->status, 7);
  EXPECT_EQ(process->signal(0).error().kind(), ErrorKind::kNotFound);
}

}  // namespace
}  // namespace bulkhead
