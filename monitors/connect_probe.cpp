// Probes that only connect: TCP and Unix sockets.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <charconv>
#include <cstring>
#include <utility>

#include "monitors/probe.h"
#include "runtime/unique_fd.h"

namespace bulkhead::monitors {

namespace {

struct Address {
  sockaddr_storage storage{};
  socklen_t length = 0;
  std::string text;
};

class ConnectProbe : public Probe {
 public:
  explicit ConnectProbe(Address address) : address_(std::move(address)) {}

  ProbeStep step() override { return fd_.valid() ? outcome() : begin(); }

 private:
  ProbeStep begin() {
    fd_ = UniqueFd(::socket(address_.storage.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd_.valid()) return ProbeStep::failed(Error::from_errno("cannot make a socket").message());
    const auto* where = reinterpret_cast<const sockaddr*>(&address_.storage);
    if (::connect(fd_.get(), where, address_.length) == 0) return ProbeStep::passed();
    if (errno == EINPROGRESS) return ProbeStep::pending(fd_.get(), EPOLLOUT);
    return refused(errno);  // EAGAIN on a Unix socket: its backlog is full
  }

  ProbeStep outcome() {
    pollfd ready{fd_.get(), POLLOUT, 0};
    if (::poll(&ready, 1, 0) == 0) return ProbeStep::pending(fd_.get(), EPOLLOUT);
    int error = 0;
    socklen_t length = sizeof error;
    if (::getsockopt(fd_.get(), SOL_SOCKET, SO_ERROR, &error, &length) != 0) error = errno;
    return error == 0 ? ProbeStep::passed() : refused(error);
  }

  ProbeStep refused(int error) const {
    return ProbeStep::failed(Error::from_errno("cannot connect to " + address_.text, error).message());
  }

  Address address_;
  UniqueFd fd_;
};

Error bad_address(const std::string& text) {
  return {ErrorKind::kInvalid,
          "is \"" + text + "\"; HOST:PORT with a numeric host is needed, such as 127.0.0.1:53"};
}

bool parse_port(std::string_view text, in_port_t& port) {
  std::uint16_t number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (bad != std::errc() || end != text.data() + text.size() || number == 0) return false;
  port = htons(number);
  return true;
}

Result<Address> parse_tcp(const std::string& text) {
  const auto colon = text.rfind(':');
  if (colon == std::string::npos) return std::unexpected(bad_address(text));
  std::string host = text.substr(0, colon);
  Address address;
  address.text = text;
  in_port_t port = 0;
  if (!parse_port(std::string_view(text).substr(colon + 1), port)) return std::unexpected(bad_address(text));
  if (host.starts_with('[') && host.ends_with(']')) {
    host = host.substr(1, host.size() - 2);
    auto* in6 = reinterpret_cast<sockaddr_in6*>(&address.storage);
    if (::inet_pton(AF_INET6, host.c_str(), &in6->sin6_addr) != 1) return std::unexpected(bad_address(text));
    in6->sin6_family = AF_INET6;
    in6->sin6_port = port;
    address.length = sizeof *in6;
    return address;
  }
  auto* in4 = reinterpret_cast<sockaddr_in*>(&address.storage);
  if (::inet_pton(AF_INET, host.c_str(), &in4->sin_addr) != 1) return std::unexpected(bad_address(text));
  in4->sin_family = AF_INET;
  in4->sin_port = port;
  address.length = sizeof *in4;
  return address;
}

}  // namespace

Result<std::unique_ptr<Probe>> make_tcp_probe(const std::string& address) {
  auto parsed = parse_tcp(address);
  if (!parsed) return forward(std::move(parsed));
  return std::make_unique<ConnectProbe>(std::move(*parsed));
}

Result<std::unique_ptr<Probe>> make_unix_probe(const std::string& path) {
  Address address;
  auto* un = reinterpret_cast<sockaddr_un*>(&address.storage);
  if (path.empty() || path.size() >= sizeof un->sun_path) {
    return failure(ErrorKind::kInvalid,
                   "is \"" + path + "\"; a path that fits into a socket address is needed");
  }
  un->sun_family = AF_UNIX;
  std::memcpy(un->sun_path, path.data(), path.size());
  address.length = sizeof *un;
  address.text = path;
  return std::make_unique<ConnectProbe>(std::move(address));
}

}  // namespace bulkhead::monitors
