#include "hypervisor/local/connection.h"

#include <poll.h>
#include <sys/socket.h>

#include <cstring>

#include "runtime/clock.h"
#include "runtime/seqpacket.h"
#include "runtime/unix_address.h"

namespace bulkhead::hypervisor::local {
namespace {

constexpr std::int64_t kReplyLimit = 60 * kSecond;

Status wait_readable(BorrowedFd socket) {
  const std::int64_t deadline = monotonic_ns() + kReplyLimit;
  for (;;) {
    const std::int64_t left = deadline - monotonic_ns();
    if (left <= 0) return failure(ErrorKind::kTimeout, "the local hypervisor does not answer");
    pollfd waiting{socket.get(), POLLIN, 0};
    const int ready = ::poll(&waiting, 1, static_cast<int>(left / kMillisecond) + 1);
    if (ready > 0) return {};
    if (ready < 0 && errno != EINTR) return os_failure("cannot wait for the local hypervisor");
  }
}

ErrorKind kind_of(std::uint32_t number) {
  return number <= static_cast<std::uint32_t>(ErrorKind::kTimeout) ? static_cast<ErrorKind>(number)
                                                                   : ErrorKind::kFailed;
}

}  // namespace

Result<Connection> Connection::open(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return failure(ErrorKind::kInvalid, "'" + path + "' is no path of a socket");
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!socket.valid()) return os_failure("cannot create a socket");
  if (::connect(socket.get(), as_sockaddr(*address), sizeof *address) != 0) {
    return failure(ErrorKind::kNotFound, "no local hypervisor at " + path + ": " + std::strerror(errno));
  }
  return Connection(std::move(socket));
}

Result<Answer> Connection::exchange(const Request& request, const std::vector<BorrowedFd>& fds) {
  if (!socket_.valid()) return failure(ErrorKind::kDisconnected, "the local hypervisor is gone");
  if (auto sent = send_packet(socket_.borrow(), request, fds); !sent) return forward(std::move(sent));
  if (auto waited = wait_readable(socket_.borrow()); !waited) return forward(std::move(waited));
  auto packet = receive_packet(socket_.borrow());
  if (!packet) return forward(std::move(packet));
  Answer answer;
  if (!*packet || !answer.reply.ParseFromString((*packet)->bytes)) {
    return failure(ErrorKind::kInvalid, "the local hypervisor answers nonsense");
  }
  answer.fds = std::move((*packet)->fds);
  return answer;
}

Result<Answer> Connection::call(const Request& request, std::size_t fds_expected,
                                const std::vector<BorrowedFd>& fds) {
  auto answer = exchange(request, fds);
  if (!answer) {
    // A reply that comes later would be taken for that of another request.
    socket_.reset();
    return answer;
  }
  if (!answer->reply.done()) return failure(kind_of(answer->reply.error_kind()), answer->reply.error());
  if (answer->fds.size() != fds_expected) {
    return failure(ErrorKind::kInvalid, "the local hypervisor answers nonsense");
  }
  return answer;
}

}  // namespace bulkhead::hypervisor::local
