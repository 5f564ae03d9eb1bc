#include "monitors/notify.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

#include "runtime/clock.h"
#include "runtime/unix_address.h"

namespace bulkhead::monitors {

namespace {

constexpr std::size_t kMaxMessage = 4096;
constexpr std::size_t kMaxStatus = 256;

std::string printable(std::string_view text) {
  std::string line(text.substr(0, kMaxStatus));
  for (char& c : line) {
    const auto byte = static_cast<unsigned char>(c);
    if (byte < 0x20 || byte == 0x7f) c = '?';
  }
  return line;
}

template <typename Number>
std::optional<Number> number(std::string_view text) {
  Number value{};
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (bad != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

void assign(Notification& to, std::string_view name, std::string_view value) {
  if (name == "READY") to.ready |= value == "1";
  if (name == "STOPPING") to.stopping |= value == "1";
  if (name == "RELOADING") to.reloading |= value == "1";
  if (name == "WATCHDOG") {
    to.watchdog |= value == "1";
    to.watchdog_trigger |= value == "trigger";
  }
  if (name == "STATUS") to.status = printable(value);
  if (name == "ERRNO") to.error = number<int>(value);
  if (name == "EXTEND_TIMEOUT_USEC") {
    const auto us = number<std::int64_t>(value);
    if (us && *us >= 0) to.extend_timeout_us = us;
  }
}

// Credentials of the sender; descriptors that came along are closed.
std::optional<pid_t> take_control(msghdr& header) {
  std::optional<pid_t> sender;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET) continue;
    if (part->cmsg_type == SCM_CREDENTIALS && part->cmsg_len == CMSG_LEN(sizeof(ucred))) {
      ucred credentials{};
      std::memcpy(&credentials, CMSG_DATA(part), sizeof credentials);
      sender = credentials.pid;
    }
    if (part->cmsg_type == SCM_RIGHTS) {
      const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
      for (std::size_t i = 0; i < count; ++i) {
        int fd = -1;
        std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
        ::close(fd);
      }
    }
  }
  return sender;
}

}  // namespace

Notification parse_notification(std::string_view text) {
  Notification notification;
  while (!text.empty()) {
    const auto end = text.find('\n');
    const std::string_view line = text.substr(0, end);
    const auto equals = line.find('=');
    if (equals != std::string_view::npos)
      assign(notification, line.substr(0, equals), line.substr(equals + 1));
    text = end == std::string_view::npos ? std::string_view() : text.substr(end + 1);
  }
  return notification;
}

std::optional<Finding> NotifyWatchdog::heard(const Notification& notification, std::int64_t now_ns) {
  if (heard_ns_ < 0) return std::nullopt;
  if (notification.watchdog_trigger) {
    stop();
    return Finding{"probe", Severity::kFailed, "it reported its own failure (WATCHDOG=trigger)", now_ns,
                   now_ns};
  }
  if (notification.watchdog) heard_ns_ = now_ns;
  return std::nullopt;
}

std::optional<std::int64_t> NotifyWatchdog::deadline_ns() const {
  if (heard_ns_ < 0) return std::nullopt;
  return heard_ns_ + interval_ns_;
}

std::optional<Finding> NotifyWatchdog::check(std::int64_t now_ns) {
  if (heard_ns_ < 0 || now_ns < heard_ns_ + interval_ns_) return std::nullopt;
  const std::int64_t since = heard_ns_;
  stop();
  return Finding{"probe", Severity::kFailed,
                 "no WATCHDOG=1 for " + std::to_string((now_ns - since) / kMillisecond) + " ms", since,
                 now_ns};
}

Result<NotifySocket> NotifySocket::create(const std::string& path, uid_t uid) {
  const auto address = unix_address(path);
  if (!address) return failure(ErrorKind::kInvalid, "the path " + path + " is too long for a socket");
  UniqueFd fd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return os_failure("cannot make a socket");
  const int on = 1;
  ::setsockopt(fd.get(), SOL_SOCKET, SO_PASSCRED, &on, sizeof on);
  // On the descriptor, so that the socket is never there with wider permissions (Linux applies them at bind).
  if (::fchmod(fd.get(), 0600) != 0) return os_failure("cannot set permissions of " + path);
  ::unlink(path.c_str());
  if (::bind(fd.get(), as_sockaddr(*address), sizeof *address) != 0) return os_failure("cannot bind " + path);
  NotifySocket socket(std::move(fd), path);
  if (uid != ::geteuid() && ::chown(path.c_str(), uid, static_cast<gid_t>(-1)) != 0)
    return os_failure("cannot give " + path + " to its component");
  return socket;
}

NotifySocket::~NotifySocket() {
  if (fd_.valid()) ::unlink(path_.c_str());
}

std::optional<NotifySocket::Received> NotifySocket::receive() {
  for (;;) {
    std::array<char, kMaxMessage> buffer{};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(sizeof(ucred)) + CMSG_SPACE(64 * sizeof(int))> control{};
    iovec part{buffer.data(), buffer.size()};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(fd_.get(), &header, MSG_CMSG_CLOEXEC | MSG_DONTWAIT);
    if (got < 0) return std::nullopt;
    const auto sender = take_control(header);
    if (!sender || (header.msg_flags & MSG_TRUNC) != 0) continue;
    return Received{parse_notification({buffer.data(), static_cast<std::size_t>(got)}), *sender};
  }
}

}  // namespace bulkhead::monitors
