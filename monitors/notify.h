// The notify protocol of sd_notify(3): what a foreign component says about itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "monitors/finding.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::monitors {

struct Notification {
  bool ready = false;
  bool stopping = false;
  bool reloading = false;
  bool watchdog = false;              // WATCHDOG=1: it is alive
  bool watchdog_trigger = false;      // WATCHDOG=trigger: it says it has failed
  std::optional<std::string> status;  // one line, unprintable bytes replaced, at most 256
  std::optional<int> error;           // ERRNO=
  std::optional<std::int64_t> extend_timeout_us;
};

// Unknown assignments are ignored, as are malformed ones: the sender is not trusted.
Notification parse_notification(std::string_view text);

// Liveness by notification: the component promises WATCHDOG=1 at least every `interval_ns` (told to it as
// WATCHDOG_USEC). Pure; late timers of the core must be left out by the caller, as with every deadline.
class NotifyWatchdog {
 public:
  explicit NotifyWatchdog(std::int64_t interval_ns) : interval_ns_(interval_ns) {}

  void start(std::int64_t now_ns) {
    heard_ns_ = now_ns;
  }  // it serves: the first one is due within the interval
  void stop() { heard_ns_ = -1; }
  // A notification of the component; only WATCHDOG= matters.
  std::optional<Finding> heard(const Notification& notification, std::int64_t now_ns);
  // When to call check() next; unset while stopped.
  std::optional<std::int64_t> deadline_ns() const;
  // A finding once the deadline has passed; stops then.
  std::optional<Finding> check(std::int64_t now_ns);

 private:
  std::int64_t interval_ns_;
  std::int64_t heard_ns_ = -1;  // -1: stopped
};

// The component's NOTIFY_SOCKET: a datagram socket under the runtime directory.
class NotifySocket {
 public:
  // Binds `path` (replacing a left-over), mode 0600 owned by `uid`: only the component's account may send.
  static Result<NotifySocket> create(const std::string& path, uid_t uid);

  BorrowedFd fd() const { return fd_.borrow(); }
  const std::string& path() const { return path_; }

  struct Received {
    Notification notification;
    pid_t sender = 0;  // from SCM_CREDENTIALS
  };
  // The next message, unset when there is none. Descriptors sent along are closed; oversized messages and
  // such without credentials are dropped.
  std::optional<Received> receive();

  NotifySocket(NotifySocket&&) noexcept = default;
  NotifySocket& operator=(NotifySocket&&) noexcept = default;
  ~NotifySocket();

 private:
  NotifySocket(UniqueFd fd, std::string path) : fd_(std::move(fd)), path_(std::move(path)) {}

  UniqueFd fd_;
  std::string path_;
};

}  // namespace bulkhead::monitors
