#include "tests/support/hostile_socket.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>

#include "tests/support/xs_client.h"

namespace bulkhead::xs {
namespace {

constexpr std::uint32_t kLastType = 26;  // SET_QUOTA; Debian's header ends before it
constexpr std::size_t kReadAtOnce = std::size_t{64} * 1024;

}  // namespace

std::string wire_message(std::uint32_t type, std::uint32_t transaction, std::string_view payload,
                         std::int64_t claimed) {
  const auto length =
      static_cast<std::uint32_t>(claimed < 0 ? static_cast<std::int64_t>(payload.size()) : claimed);
  const xsd_sockmsg header{type, 1, transaction, length};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return bytes.append(payload);
}

Result<HostileSocket> HostileSocket::connect(const std::string& socket_path) {
  constexpr std::int64_t kPatienceNs = std::int64_t{20} * 1'000'000'000;
  const std::int64_t end = monotonic_ns() + kPatienceNs;
  for (;;) {
    auto socket = XsClient::connect(socket_path);  // blocks while the backlog is full, 5 s at most
    if (socket) return HostileSocket(std::move(*socket));
    if (monotonic_ns() > end) return forward(std::move(socket));
  }
}

std::size_t HostileSocket::push(std::size_t most) {
  std::size_t pushed = 0;
  while (!closed_ && unsent() > 0 && pushed < most) {
    const ssize_t n = ::send(socket_.get(), output_.data() + written_, std::min(unsent(), most - pushed),
                             MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK)) break;
    if (n < 0) {
      closed_ = true;
      break;
    }
    written_ += static_cast<std::size_t>(n);
    pushed += static_cast<std::size_t>(n);
  }
  if (unsent() == 0) {
    output_.clear();
    written_ = 0;
  }
  sent_ += pushed;
  return pushed;
}

void HostileSocket::pull(Heard& heard, const std::vector<std::string>& forbidden) {
  if (closed_) return;
  std::array<char, kReadAtOnce> buffer;
  const ssize_t n = ::recv(socket_.get(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (n < 0 && (errno == EAGAIN || errno == EWOULDBLOCK || errno == EINTR)) return;
  if (n <= 0) {
    closed_ = true;
    return;
  }
  input_.append(buffer.data(), static_cast<std::size_t>(n));
  std::size_t at = 0;
  while (input_.size() - at >= sizeof(xsd_sockmsg)) {
    xsd_sockmsg header{};
    std::memcpy(&header, input_.data() + at, sizeof header);
    if (header.type > kLastType || header.len > XENSTORE_PAYLOAD_MAX) {
      heard.broken = "type " + std::to_string(header.type) + ", length " + std::to_string(header.len);
      closed_ = true;
      return;
    }
    if (input_.size() - at < sizeof header + header.len) break;
    message(header.type, std::string_view(input_).substr(at + sizeof header, header.len), heard, forbidden);
    at += sizeof header + header.len;
  }
  input_.erase(0, at);
}

void HostileSocket::notice_close() {
  pollfd state{socket_.get(), 0, 0};
  if (::poll(&state, 1, 0) == 1 && (state.revents & (POLLHUP | POLLERR)) != 0) closed_ = true;
}

void HostileSocket::message(std::uint32_t type, std::string_view payload, Heard& heard,
                            const std::vector<std::string>& forbidden) {
  for (const std::string& text : forbidden) {
    if (payload.find(text) != std::string_view::npos && heard.forbidden.size() < 10) {
      heard.forbidden.push_back(text + " in a message of type " + std::to_string(type));
    }
  }
  if (type == XS_WATCH_EVENT) {
    ++heard.events;
    return;
  }
  ++replies_;
  ++heard.replies;
  last_failed_ = type == XS_ERROR;
  last_reply_ = payload;
  while (!last_reply_.empty() && last_reply_.back() == '\0') last_reply_.pop_back();
  if (last_failed_) ++heard.errors[last_reply_];
}

}  // namespace bulkhead::xs
