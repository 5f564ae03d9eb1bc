#include "bench/wire.h"

#include <poll.h>
#include <sys/socket.h>

#include <cerrno>
#include <cstring>

#include "tests/support/xs_client.h"

namespace bulkhead::bench {
namespace {

constexpr int kCallTimeoutMs = 60000;

}  // namespace

std::string path_payload(std::string_view path) {
  return std::string(path) + '\0';
}

std::string write_payload(std::string_view path, std::string_view value) {
  return path_payload(path).append(value);
}

Result<Wire> Wire::connect(const std::string& socket_path) {
  auto socket = xs::XsClient::connect(socket_path);
  if (!socket) return forward(std::move(socket));
  return Wire(std::move(*socket));
}

void Wire::queue(std::uint32_t type, std::uint32_t transaction, std::string_view payload) {
  const xsd_sockmsg header{type, 1, transaction, static_cast<std::uint32_t>(payload.size())};
  output_.append(reinterpret_cast<const char*>(&header), sizeof header);
  output_.append(payload);
}

bool Wire::flush() {
  while (queued() > 0) {
    const ssize_t n = ::send(socket_.get(), output_.data() + written_, queued(), MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return false;
    if (n < 0) break;
    written_ += static_cast<std::size_t>(n);
  }
  if (queued() == 0 || written_ > std::size_t{256} * 1024) {
    output_.erase(0, written_);
    written_ = 0;
  }
  return true;
}

bool Wire::fill() {
  std::memmove(input_.data(), input_.data() + begin_, end_ - begin_);
  end_ -= begin_;
  begin_ = 0;
  const ssize_t n = ::recv(socket_.get(), input_.data() + end_, input_.size() - end_, MSG_DONTWAIT);
  if (n < 0) return errno == EAGAIN || errno == EINTR;
  end_ += static_cast<std::size_t>(n);
  return n > 0;
}

bool Wire::next(Message& message) {
  xsd_sockmsg header{};
  if (end_ - begin_ < sizeof header) return false;
  std::memcpy(&header, input_.data() + begin_, sizeof header);
  if (end_ - begin_ < sizeof header + header.len) return false;
  message = {header.type, header.tx_id, {input_.data() + begin_ + sizeof header, header.len}};
  begin_ += sizeof header + header.len;
  return true;
}

void Wire::wait(int timeout_ms) const {
  pollfd ready{socket_.get(), static_cast<short>(queued() > 0 ? POLLIN | POLLOUT : POLLIN), 0};
  ::poll(&ready, 1, timeout_ms);
}

Result<std::string> Wire::call(std::uint32_t type, std::uint32_t transaction, std::string_view payload) {
  queue(type, transaction, payload);
  Message message;
  for (;;) {
    if (!flush()) return failure(ErrorKind::kDisconnected, "the connection ended");
    while (next(message)) {
      if (message.type == XS_WATCH_EVENT) continue;
      if (message.type != XS_ERROR) return std::string(message.payload);
      return failure(ErrorKind::kRefused, std::string(message.payload.data()));
    }
    pollfd ready{socket_.get(), static_cast<short>(queued() > 0 ? POLLIN | POLLOUT : POLLIN), 0};
    if (::poll(&ready, 1, kCallTimeoutMs) == 0) return failure(ErrorKind::kTimeout, "no reply within 60 s");
    if ((ready.revents & ~POLLOUT) != 0 && !fill())
      return failure(ErrorKind::kDisconnected, "the connection ended");
  }
}

}  // namespace bulkhead::bench
