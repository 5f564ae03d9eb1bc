#include "runtime/seqpacket.h"

#include <sys/socket.h>

#include <array>
#include <cstring>

namespace bulkhead {
namespace {

constexpr std::size_t kControlBytes = CMSG_SPACE(kMaxPacketFds * sizeof(int));

// Takes ownership of every descriptor in the ancillary data, even of packets that will be refused.
std::vector<UniqueFd> take_fds(msghdr& header) {
  std::vector<UniqueFd> fds;
  for (cmsghdr* part = CMSG_FIRSTHDR(&header); part != nullptr; part = CMSG_NXTHDR(&header, part)) {
    if (part->cmsg_level != SOL_SOCKET || part->cmsg_type != SCM_RIGHTS) continue;
    const std::size_t count = (part->cmsg_len - CMSG_LEN(0)) / sizeof(int);
    for (std::size_t i = 0; i < count; ++i) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part) + i * sizeof(int), sizeof fd);
      fds.emplace_back(fd);
    }
  }
  return fds;
}

}  // namespace

Result<std::pair<UniqueFd, UniqueFd>> seqpacket_pair() {
  std::array<int, 2> ends{};
  if (::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return os_failure("cannot create a socket pair");
  }
  return std::pair(UniqueFd(ends[0]), UniqueFd(ends[1]));
}

Status send_packet(BorrowedFd socket, const google::protobuf::MessageLite& message,
                   const std::vector<BorrowedFd>& fds) {
  const std::string bytes = message.SerializeAsString();
  if (bytes.size() > kMaxPacketBytes) {
    return failure(ErrorKind::kInvalid, "message of " + std::to_string(bytes.size()) +
                                            " bytes is over the limit of " + std::to_string(kMaxPacketBytes));
  }
  if (fds.size() > kMaxPacketFds) return failure(ErrorKind::kInvalid, "too many descriptors in one message");
  iovec data{const_cast<char*>(bytes.data()), bytes.size()};
  alignas(cmsghdr) std::array<std::byte, kControlBytes> control{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  if (!fds.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(fds.size() * sizeof(int));
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(fds.size() * sizeof(int));
    for (std::size_t i = 0; i < fds.size(); ++i) {
      const int fd = fds[i].get();
      std::memcpy(CMSG_DATA(part) + i * sizeof(int), &fd, sizeof fd);
    }
  }
  ssize_t sent = -1;
  do {
    sent = ::sendmsg(socket.get(), &header, MSG_DONTWAIT | MSG_NOSIGNAL);
  } while (sent < 0 && errno == EINTR);
  if (sent >= 0) return {};
  switch (errno) {
    case EAGAIN:
    case ENOBUFS:
      return failure(ErrorKind::kExhausted, "the peer does not read its messages");
    case EPIPE:
    case ECONNRESET:
    case ENOTCONN:
      return failure(ErrorKind::kDisconnected, "the peer is gone");
    default:
      return os_failure("cannot send a message");
  }
}

namespace {

Result<std::optional<Packet>> read_packet(BorrowedFd socket, int flags) {
  Packet packet;
  packet.bytes.resize(kMaxPacketBytes);
  iovec data{packet.bytes.data(), packet.bytes.size()};
  alignas(cmsghdr) std::array<std::byte, kControlBytes> control{};
  msghdr header{};
  header.msg_iov = &data;
  header.msg_iovlen = 1;
  header.msg_control = control.data();
  header.msg_controllen = control.size();
  ssize_t got = -1;
  do {
    got = ::recvmsg(socket.get(), &header, MSG_DONTWAIT | MSG_CMSG_CLOEXEC | flags);
  } while (got < 0 && errno == EINTR);
  if (got < 0) {
    if (errno == EAGAIN) return std::optional<Packet>();
    if (errno == ECONNRESET || errno == ENOTCONN)
      return failure(ErrorKind::kDisconnected, "the peer is gone");
    return os_failure("cannot receive a message");
  }
  packet.fds = take_fds(header);
  // An empty packet cannot be told from the end of the stream, so nobody sends one.
  if (got == 0) return failure(ErrorKind::kDisconnected, "the peer closed the connection");
  if ((header.msg_flags & (MSG_TRUNC | MSG_CTRUNC)) != 0) {
    return failure(ErrorKind::kInvalid, "message over the limits");
  }
  packet.bytes.resize(static_cast<std::size_t>(got));
  return std::optional<Packet>(std::move(packet));
}

}  // namespace

Result<std::optional<Packet>> receive_packet(BorrowedFd socket) {
  return read_packet(socket, 0);
}

Result<std::optional<Packet>> peek_packet(BorrowedFd socket) {
  auto packet = read_packet(socket, MSG_PEEK);
  if (!packet && packet.error().kind() == ErrorKind::kInvalid) discard_packet(socket);
  return packet;
}

void discard_packet(BorrowedFd socket) {
  std::byte nothing{};
  // The rest of the packet and its descriptors are dropped by the kernel.
  (void)!::recv(socket.get(), &nothing, sizeof nothing, MSG_DONTWAIT | MSG_TRUNC);
}

}  // namespace bulkhead
