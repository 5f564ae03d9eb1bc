#include "tests/support/xs_client.h"

#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <optional>

namespace bulkhead::xs {
namespace {

constexpr size_t kReadAtOnce = size_t{64} * 1024;
constexpr int kCallDeadlineMs = 20000;
constexpr timeval kConnectTimeout{5, 0};

std::string describe(const xsd_sockmsg& header) {
  return "type " + std::to_string(header.type) + ", request " + std::to_string(header.req_id) +
         ", transaction " + std::to_string(header.tx_id) + ", length " + std::to_string(header.len);
}

// Keeps the one reply that call() waits for.
class OneReply final : public Listener {
 public:
  explicit OneReply(Listener* events) : events_(events) {}
  void on_reply(const Reply& reply) override {
    error_ = reply.error;
    payload_ = std::string(reply.payload);
  }
  void on_event(XsClient& client, std::string_view path, std::string_view token) override {
    if (events_ != nullptr) events_->on_event(client, path, token);
  }
  bool arrived() const { return payload_.has_value(); }
  Result<std::string> result() && {
    if (error_) return failure(ErrorKind::kRefused, std::move(*payload_));
    return std::move(*payload_);
  }

 private:
  Listener* events_;
  bool error_ = false;
  std::optional<std::string> payload_;
};

}  // namespace

int64_t monotonic_ns() {
  timespec now{};
  clock_gettime(CLOCK_MONOTONIC, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

Result<UniqueFd> XsClient::connect(const std::string& socket_path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket_path.size() >= sizeof address.sun_path) {
    return failure(ErrorKind::kInvalid, "socket path is longer than 107 bytes: " + socket_path);
  }
  std::memcpy(address.sun_path, socket_path.data(), socket_path.size());
  UniqueFd fd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd.valid()) return os_failure("cannot create a socket");
  // Blocking, because the stock daemons listen with a backlog of 1; the send timeout bounds a connect, too.
  ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &kConnectTimeout, sizeof kConnectTimeout);
  // Whoever made an io_uring is interrupted, without a signal, when the kernel takes it apart after its
  // close.
  while (::connect(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    if (errno != EINTR) return os_failure("cannot connect to " + socket_path);
  }
  return fd;
}

void XsClient::send(xsd_sockmsg_type type, uint32_t transaction, std::string_view payload, uint64_t cookie) {
  const xsd_sockmsg header{static_cast<uint32_t>(type), next_id_, transaction,
                           static_cast<uint32_t>(payload.size())};
  output_.append(reinterpret_cast<const char*>(&header), sizeof header);
  output_.append(payload);
  pending_.push_back({next_id_, type, transaction, false, cookie, monotonic_ns()});
  ++next_id_;
}

void XsClient::flush() {
  while (!closed_ && output_pending()) {
    const ssize_t n = ::send(socket_.get(), output_.data() + written_, output_.size() - written_,
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) return;
    if (n < 0) return disconnected(std::string("send failed: ") + std::strerror(errno));
    written_ += static_cast<size_t>(n);
  }
  output_.clear();
  written_ = 0;
}

size_t XsClient::receive(Listener& listener) {
  if (closed_) return 0;
  const ssize_t n = ::recv(socket_.get(), input_.data() + have_, std::min(kReadAtOnce, input_.size() - have_),
                           MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return 0;
  if (n <= 0) {
    disconnected(n == 0 ? "end of stream" : std::strerror(errno));
    return 0;
  }
  have_ += static_cast<size_t>(n);
  read_ns_ = monotonic_ns();
  size_t messages = 0;
  if (!dispatch(listener, messages)) disconnected("gave up on a stream of garbage");
  return messages;
}

// False: the stream cannot be followed any more.
bool XsClient::dispatch(Listener& listener, size_t& messages) {
  size_t at = 0;
  while (have_ - at >= sizeof(xsd_sockmsg)) {
    xsd_sockmsg header{};
    std::memcpy(&header, input_.data() + at, sizeof header);
    if (header.type >= XS_TYPE_COUNT || header.len > XENSTORE_PAYLOAD_MAX) {
      log_.add(Anomaly::kTorn, name_, "not a message header: " + describe(header));
      return false;
    }
    if (have_ - at < sizeof header + header.len) break;
    const std::string_view payload(input_.data() + at + sizeof header, header.len);
    at += sizeof header + header.len;
    ++messages;
    if (header.type == XS_WATCH_EVENT) {
      event(payload, listener);
    } else {
      reply(header, payload, listener);
    }
  }
  std::memmove(input_.data(), input_.data() + at, have_ - at);
  have_ -= at;
  return true;
}

void XsClient::event(std::string_view payload, Listener& listener) {
  const size_t first = payload.find('\0');
  if (first == std::string_view::npos || payload.back() != '\0' || first + 1 >= payload.size()) {
    log_.add(Anomaly::kTorn, name_, "a watch event that is not two strings");
    return;
  }
  const std::string_view token = payload.substr(first + 1, payload.find('\0', first + 1) - first - 1);
  listener.on_event(*this, payload.substr(0, first), token);
}

bool XsClient::take_pending(const xsd_sockmsg& header, Pending& taken) {
  auto found = pending_.begin();
  while (found != pending_.end() && found->id != header.req_id) ++found;
  if (found == pending_.end()) {
    const bool asked = header.req_id != 0 && header.req_id < next_id_;
    log_.add(asked ? Anomaly::kRepeated : Anomaly::kWrong, name_,
             (asked ? "a second reply: " : "a reply to nothing: ") + describe(header));
    return false;
  }
  if (found->overtaken) {
    log_.add(Anomaly::kOutOfOrder, name_, "a late reply: " + describe(header));
    --overtaken_;
  }
  for (auto earlier = pending_.begin(); earlier != found; ++earlier) {
    if (earlier->overtaken) continue;
    earlier->overtaken = true;
    ++overtaken_;
  }
  taken = *found;
  pending_.erase(found);
  return true;
}

void XsClient::reply(const xsd_sockmsg& header, std::string_view payload, Listener& listener) {
  Pending asked{};
  if (!take_pending(header, asked)) return;
  const bool error = header.type == XS_ERROR;
  if ((!error && header.type != asked.type) || header.tx_id != asked.transaction) {
    log_.add(Anomaly::kWrong, name_, "a reply of another request: " + describe(header));
  }
  if (error) {
    if (payload.empty() || payload.back() != '\0') {
      log_.add(Anomaly::kTorn, name_, "an error without its NUL: " + describe(header));
    } else {
      payload.remove_suffix(1);
    }
  }
  ++replies_;
  listener.on_reply({this, asked.type, error, asked.cookie, asked.sent_ns, read_ns_, payload});
}

void XsClient::expire(int64_t now_ns, int64_t limit_ns) {
  while (!pending_.empty() && now_ns - pending_.front().sent_ns >= limit_ns) {
    const Pending& oldest = pending_.front();
    log_.add(oldest.overtaken ? Anomaly::kLost : Anomaly::kNoReply, name_,
             "no reply to request " + std::to_string(oldest.id) + " of type " + std::to_string(oldest.type));
    if (oldest.overtaken) {
      --overtaken_;
    } else {
      unanswered_ = true;
    }
    pending_.pop_front();
  }
}

void XsClient::disconnected(std::string_view why) {
  if (closed_) return;
  closed_ = true;
  log_.add(Anomaly::kDisconnected, name_,
           std::string(why) + " with " + std::to_string(pending_.size()) + " requests unanswered");
}

Result<std::string> XsClient::call(xsd_sockmsg_type type, uint32_t transaction, std::string_view payload,
                                   Listener* listener) {
  OneReply answer(listener);
  send(type, transaction, payload);
  const int64_t end = monotonic_ns() + int64_t{kCallDeadlineMs} * 1000000;
  while (!answer.arrived()) {
    flush();
    if (closed_) return failure(ErrorKind::kDisconnected, name_ + ": the connection ended");
    const int64_t left_ms = (end - monotonic_ns()) / 1000000;
    if (left_ms <= 0) return failure(ErrorKind::kTimeout, name_ + ": no reply");
    pollfd ready{socket_.get(), static_cast<short>(output_pending() ? POLLIN | POLLOUT : POLLIN), 0};
    if (::poll(&ready, 1, static_cast<int>(left_ms)) < 0 && errno != EINTR) return os_failure("poll");
    receive(answer);
  }
  return std::move(answer).result();
}

}  // namespace bulkhead::xs
