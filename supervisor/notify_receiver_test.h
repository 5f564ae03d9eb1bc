// The other end of a NOTIFY_SOCKET, for tests of what the core tells its service manager.
#pragma once

#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/fd_store.h"

namespace bulkhead::supervisor {

class NotifyReceiver {
 public:
  struct Message {
    std::string text;
    std::vector<UniqueFd> fds;
  };

  NotifyReceiver() : socket_(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0)) {
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    // An abstract address, chosen by the kernel: no file is left behind.
    ::bind(socket_.get(), reinterpret_cast<sockaddr*>(&address), sizeof(sa_family_t));
    socklen_t length = sizeof address;
    ::getsockname(socket_.get(), reinterpret_cast<sockaddr*>(&address), &length);
    name_ = "@" + std::string(address.sun_path + 1, length - sizeof(sa_family_t) - 1);
  }

  FdStore connect() const {
    ::setenv("NOTIFY_SOCKET", name_.c_str(), 1);
    return FdStore::from_environment();
  }

  std::optional<Message> next() const {
    std::array<char, 4096> text{};
    alignas(cmsghdr) std::array<std::byte, 512> control{};
    iovec data{text.data(), text.size()};
    msghdr header{};
    header.msg_iov = &data;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    const ssize_t got = ::recvmsg(socket_.get(), &header, MSG_CMSG_CLOEXEC);
    if (got < 0) return std::nullopt;
    Message message{std::string(text.data(), static_cast<std::size_t>(got)), {}};
    const cmsghdr* part = CMSG_FIRSTHDR(&header);
    if (part != nullptr && part->cmsg_type == SCM_RIGHTS) {
      int fd = -1;
      std::memcpy(&fd, CMSG_DATA(part), sizeof fd);
      message.fds.emplace_back(fd);
    }
    return message;
  }

 private:
  UniqueFd socket_;
  std::string name_;
};

}  // namespace bulkhead::supervisor
