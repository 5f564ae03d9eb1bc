// The smallest server worth restarting: answers each byte with a byte on the Unix socket given. Runs under
// every supervisor of the `restart` suite, so that only the supervisors differ.
#include <poll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstdio>
#include <vector>

namespace {

int listen_on(const char* path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s", path);
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  ::unlink(path);
  if (fd < 0 || ::bind(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0 ||
      ::listen(fd, 64) != 0) {
    std::perror(path);
    return -1;
  }
  return fd;
}

bool answer(int fd) {
  char byte = 0;
  return ::read(fd, &byte, 1) == 1 && ::write(fd, &byte, 1) == 1;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 2) {
    std::fputs("usage: tiny-server SOCKET\n", stderr);
    return 2;
  }
  std::vector<pollfd> fds{{listen_on(argv[1]), POLLIN, 0}};
  if (fds[0].fd < 0) return 1;
  for (;;) {
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    for (size_t i = fds.size() - 1; i > 0; --i) {
      if (fds[i].revents == 0 || answer(fds[i].fd)) continue;
      ::close(fds[i].fd);
      fds.erase(fds.begin() + static_cast<std::ptrdiff_t>(i));
    }
    if (fds[0].revents != 0) {
      const int client = ::accept4(fds[0].fd, nullptr, nullptr, SOCK_CLOEXEC);
      if (client >= 0) fds.push_back({client, POLLIN, 0});
    }
  }
}
