// The notify protocol of sd_notify(3): what a foreign component says about itself.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

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
