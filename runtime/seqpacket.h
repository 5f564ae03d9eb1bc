// One protobuf message per packet over SOCK_SEQPACKET, descriptors riding along.
#pragma once

#include <google/protobuf/message_lite.h>

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

// Below the kernel's default socket buffer of 208 KiB.
inline constexpr std::size_t kMaxPacketBytes = std::size_t{192} * 1024;
inline constexpr std::size_t kMaxPacketFds = 8;

struct Packet {
  std::string bytes;
  std::vector<UniqueFd> fds;
};

// Both ends non-blocking and close-on-exec, with the sender's credentials of the creating process.
Result<std::pair<UniqueFd, UniqueFd>> seqpacket_pair();

// Never blocks: kExhausted when the peer does not read (the packet was not sent), kDisconnected when it is
// gone.
Status send_packet(BorrowedFd socket, const google::protobuf::MessageLite& message,
                   const std::vector<BorrowedFd>& fds = {});

// Never blocks: an empty optional when there is nothing to read, kDisconnected at the end of the stream,
// kInvalid for a packet over the limits (it is consumed, its descriptors are closed).
Result<std::optional<Packet>> receive_packet(BorrowedFd socket);

// The same, but the packet stays at the head of the queue until discard_packet(): a reader that dies between
// the two leaves it for its successor. The descriptors are copies.
Result<std::optional<Packet>> peek_packet(BorrowedFd socket);
void discard_packet(BorrowedFd socket);

}  // namespace bulkhead
