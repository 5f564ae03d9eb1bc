// Paths of Unix sockets.
#pragma once

#include <sys/socket.h>
#include <sys/un.h>

#include <optional>
#include <string>

namespace bulkhead {

inline constexpr std::size_t kMaxUnixPath = sizeof(sockaddr_un::sun_path) - 1;  // bytes

// nullopt: the path is empty or longer than kMaxUnixPath.
std::optional<sockaddr_un> unix_address(const std::string& path);

inline const sockaddr* as_sockaddr(const sockaddr_un& address) {
  return reinterpret_cast<const sockaddr*>(&address);
}

// Whether somebody takes connections of this type (SOCK_STREAM, SOCK_SEQPACKET) there.
bool somebody_listens(const sockaddr_un& address, int type);

}  // namespace bulkhead
