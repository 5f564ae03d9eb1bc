// UniqueFd owns a file descriptor; BorrowedFd says "I use it, I do not close it".
#pragma once

#include <unistd.h>

#include <utility>

namespace bulkhead {

class BorrowedFd {
 public:
  explicit BorrowedFd(int fd) : fd_(fd) {}
  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }

 private:
  int fd_;
};

// Move only. 0 is a valid descriptor, so there is no conversion to bool: ask valid(). Close is never retried:
// on Linux the descriptor is gone even when close() says EINTR.
class UniqueFd {
 public:
  UniqueFd() = default;
  explicit UniqueFd(int fd) : fd_(fd) {}
  UniqueFd(UniqueFd&& other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
  UniqueFd& operator=(UniqueFd&& other) noexcept {
    if (this != &other) reset(std::exchange(other.fd_, -1));
    return *this;
  }
  UniqueFd(const UniqueFd&) = delete;
  UniqueFd& operator=(const UniqueFd&) = delete;
  ~UniqueFd() { reset(); }

  int get() const { return fd_; }
  bool valid() const { return fd_ >= 0; }
  BorrowedFd borrow() const { return BorrowedFd(fd_); }
  // The caller owns the returned descriptor.
  [[nodiscard]] int release() { return std::exchange(fd_, -1); }
  void reset(int fd = -1) {
    if (fd_ >= 0) ::close(fd_);
    fd_ = fd;
  }

 private:
  int fd_ = -1;
};

}  // namespace bulkhead
