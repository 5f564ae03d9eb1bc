#include "supervisor/listener.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>

#include "runtime/unix_address.h"

namespace bulkhead::supervisor {
namespace {

constexpr int kBacklog = 4096;  // the kernel lowers it to net.core.somaxconn

UniqueFd new_socket() {
  return UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
}

// Programs call one file by several names (/var/run is a link).
bool same_path(const std::string& a, const std::string& b) {
  std::error_code error;
  return a == b || std::filesystem::weakly_canonical(a, error) == std::filesystem::weakly_canonical(b, error);
}

// Created closed to everybody; opened to those it is for before it listens.
class RestrictiveUmask {
 public:
  RestrictiveUmask() : former_(::umask(0177)) {}
  ~RestrictiveUmask() { ::umask(former_); }
  RestrictiveUmask(const RestrictiveUmask&) = delete;
  RestrictiveUmask& operator=(const RestrictiveUmask&) = delete;

 private:
  mode_t former_;
};

}  // namespace

Result<UniqueFd> listen_unix(const std::string& path, std::uint32_t mode, std::optional<gid_t> group) {
  const auto address = unix_address(path);
  if (!address) {
    return failure(ErrorKind::kInvalid, "cannot listen on " + path + ": the path is longer than " +
                                            std::to_string(kMaxUnixPath) + " bytes");
  }
  std::error_code ignored;  // bind() tells what is wrong with the directory
  std::filesystem::create_directories(std::filesystem::path(path).parent_path(), ignored);
  if (somebody_listens(*address, SOCK_STREAM)) {
    return failure(ErrorKind::kRefused, "cannot listen on " + path + ": another process does");
  }
  struct stat info{};
  if (::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode)) ::unlink(path.c_str());
  UniqueFd socket = new_socket();
  if (!socket.valid()) return os_failure("cannot create a socket");
  {
    const RestrictiveUmask umask;
    if (::bind(socket.get(), as_sockaddr(*address), sizeof *address) != 0)
      return os_failure("cannot bind " + path);
  }
  if (group && ::chown(path.c_str(), static_cast<uid_t>(-1), *group) != 0) {
    return os_failure("cannot give " + path + " to its group");
  }
  if (::chmod(path.c_str(), mode) != 0) return os_failure("cannot set the mode of " + path);
  if (::listen(socket.get(), kBacklog) != 0) return os_failure("cannot listen on " + path);
  return socket;
}

bool listens_at(BorrowedFd socket, const std::string& path) {
  sockaddr_un address{};
  socklen_t length = sizeof address;
  if (::getsockname(socket.get(), reinterpret_cast<sockaddr*>(&address), &length) != 0) return false;
  struct stat info{};
  return same_path(path, address.sun_path) && ::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
}

Status take_over_listener(BorrowedFd socket, const std::string& path) {
  int listens = 0;
  socklen_t length = sizeof listens;
  if (::getsockopt(socket.get(), SOL_SOCKET, SO_ACCEPTCONN, &listens, &length) != 0 || listens == 0 ||
      !listens_at(socket, path)) {
    return failure(ErrorKind::kInvalid, "the socket does not listen at " + path);
  }
  if (::listen(socket.get(), kBacklog) != 0) return os_failure("cannot listen on " + path);
  return {};
}

}  // namespace bulkhead::supervisor
