#include "runtime/unix_address.h"

#include <cerrno>

#include "runtime/unique_fd.h"

namespace bulkhead {

std::optional<sockaddr_un> unix_address(const std::string& path) {
  if (path.empty() || path.size() > kMaxUnixPath) return std::nullopt;
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, kMaxUnixPath);
  return address;
}

bool somebody_listens(const sockaddr_un& address, int type) {
  const UniqueFd probe(::socket(AF_UNIX, type | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  // EAGAIN: its backlog is full.
  return ::connect(probe.get(), as_sockaddr(address), sizeof address) == 0 || errno == EAGAIN;
}

}  // namespace bulkhead
