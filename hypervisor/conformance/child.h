// Processes of a test: forked, killed at the end, and one number at a time between them and the test.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <utility>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::hypervisor::conformance {

inline constexpr int kPatienceMs = 60'000;  // a machine may be busy; passing it is always a failure

// Waits until it is readable; false after kPatienceMs.
bool wait_readable(BorrowedFd fd);

struct Message {
  std::int64_t value = 0;
  UniqueFd fd;
};

// One end of a connection between two processes of a test.
class Line {
 public:
  explicit Line(UniqueFd socket) : socket_(std::move(socket)) {}
  Status send(std::int64_t value) const;
  Status send(std::int64_t value, BorrowedFd fd) const;
  // kTimeout after kPatienceMs; kDisconnected when the other process has ended.
  Result<Message> receive() const;

 private:
  UniqueFd socket_;
};

// A process that runs `body` and then waits to be killed.
class Child {
 public:
  explicit Child(const std::function<void(const Line&)>& body);
  ~Child() { kill(); }
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  const Line& line() const { return line_; }
  // SIGKILL; returns when it is gone. Again: nothing.
  void kill();
  void stop() const;  // SIGSTOP, until it is killed

 private:
  Child(const std::function<void(const Line&)>& body, std::pair<UniqueFd, UniqueFd> ends);

  Line line_;
  pid_t pid_ = 0;
};

}  // namespace bulkhead::hypervisor::conformance
