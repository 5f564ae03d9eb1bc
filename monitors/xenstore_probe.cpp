#include "monitors/xenstore_probe.h"

#include <sys/epoll.h>
#include <sys/socket.h>

#include <array>
#include <cstring>
#include <utility>

#include "runtime/unique_fd.h"
#include "runtime/unix_address.h"

namespace bulkhead::monitors {

namespace {

// struct xsd_sockmsg and enum xsd_sockmsg_type of xs_wire.h.
struct Header {
  std::uint32_t type, request_id, transaction_id, length;
};
constexpr std::uint32_t kRead = 2;
constexpr std::uint32_t kWrite = 11;
constexpr std::uint32_t kError = 16;
constexpr std::uint32_t kMaxPayload = 4096;

std::string message(std::uint32_t type, const std::string& payload) {
  const Header header{type, type, 0, static_cast<std::uint32_t>(payload.size())};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return bytes + payload;
}

class XenstoreProbe : public Probe {
 public:
  XenstoreProbe(const std::string& path, std::uint64_t token) : path_(path), value_(std::to_string(token)) {}

  ProbeStep step() override {
    if (!fd_.valid()) {
      if (auto problem = connect(); !problem.empty()) return ProbeStep::failed(problem);
      ask(kWrite, std::string(kXenstoreProbeNode) + '\0' + value_);
    }
    for (;;) {
      if (!out_.empty()) {
        const ssize_t sent = ::send(fd_.get(), out_.data(), out_.size(), MSG_NOSIGNAL);
        if (sent < 0 && errno == EAGAIN) return ProbeStep::pending(fd_.get(), EPOLLOUT);
        if (sent < 0) return failed_by_errno("cannot send to ");
        out_.erase(0, static_cast<std::size_t>(sent));
        continue;
      }
      std::array<char, 4096> buffer{};
      const ssize_t got = ::recv(fd_.get(), buffer.data(), buffer.size(), 0);
      if (got < 0 && errno == EAGAIN) return ProbeStep::pending(fd_.get(), EPOLLIN);
      if (got < 0) return failed_by_errno("cannot receive from ");
      if (got == 0)
        return ProbeStep::failed(path_ + " closed the connection instead of answering " + asked_name());
      in_.append(buffer.data(), static_cast<std::size_t>(got));
      if (auto done = answer()) return *done;
    }
  }

 private:
  std::string connect() {
    const auto address = unix_address(path_);
    if (!address) return "the path " + path_ + " is too long for a socket";
    fd_ = UniqueFd(::socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
    if (!fd_.valid()) return Error::from_errno("cannot make a socket").message();
    // A Unix socket connects at once or not at all (EAGAIN: the backlog is full).
    if (::connect(fd_.get(), as_sockaddr(*address), sizeof *address) == 0) return {};
    return Error::from_errno("cannot connect to " + path_).message();
  }

  void ask(std::uint32_t type, const std::string& payload) {
    asked_ = type;
    out_ = message(type, payload);
  }
  std::string asked_name() const { return asked_ == kWrite ? "WRITE" : "READ"; }
  ProbeStep failed_by_errno(const std::string& what) const {
    return ProbeStep::failed(Error::from_errno(what + path_).message());
  }

  // Unset: more to do.
  std::optional<ProbeStep> answer() {
    Header header{};
    if (in_.size() < sizeof header) return std::nullopt;
    std::memcpy(&header, in_.data(), sizeof header);
    if (header.length > kMaxPayload)
      return ProbeStep::failed("answered " + asked_name() + " with an oversized message");
    if (in_.size() < sizeof header + header.length) return std::nullopt;
    const std::string payload = in_.substr(sizeof header, header.length);
    in_.erase(0, sizeof header + header.length);
    if (header.request_id != asked_)
      return ProbeStep::failed("answered another request than " + asked_name());
    if (header.type == kError)
      return ProbeStep::failed("answered " + asked_name() + " with " + payload.substr(0, payload.find('\0')));
    if (header.type != asked_) return ProbeStep::failed("answered " + asked_name() + " with another type");
    if (asked_ == kWrite) {
      ask(kRead, std::string(kXenstoreProbeNode) + '\0');
      return std::nullopt;
    }
    if (payload == value_) return ProbeStep::passed();
    return ProbeStep::failed("read back another value than was written");
  }

  std::string path_;
  std::string value_;
  UniqueFd fd_;
  std::uint32_t asked_ = 0;
  std::string out_, in_;
};

}  // namespace

std::unique_ptr<Probe> make_xenstore_probe(const std::string& socket_path, std::uint64_t token) {
  return std::make_unique<XenstoreProbe>(socket_path, token);
}

}  // namespace bulkhead::monitors
