#include "tests/support/fault_proxy.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace bulkhead::xs {
namespace {

void write_all(BorrowedFd fd, std::string_view bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;
    bytes.remove_prefix(static_cast<size_t>(n));
  }
}

std::string packed(const xsd_sockmsg& header, std::string_view payload) {
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  return bytes.append(payload);
}

std::string packed_reply(xsd_sockmsg header, xsd_sockmsg_type type, std::string_view payload) {
  header.type = static_cast<uint32_t>(type);
  header.len = static_cast<uint32_t>(payload.size());
  return packed(header, payload);
}

[[noreturn]] void give_up(const char* what) {
  std::perror(what);
  std::abort();
}

}  // namespace

FaultProxy::FaultProxy(const std::string& socket_path, std::string upstream_path, FaultPlan plan)
    : upstream_path_(std::move(upstream_path)),
      plan_(plan),
      listener_(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0)),
      wake_(::eventfd(0, EFD_CLOEXEC)) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::snprintf(address.sun_path, sizeof address.sun_path, "%s", socket_path.c_str());
  if (::bind(listener_.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0)
    give_up("bind");
  if (::listen(listener_.get(), SOMAXCONN) != 0) give_up("listen");
  thread_ = std::thread([this] { run(); });
}

FaultProxy::~FaultProxy() {
  const uint64_t one = 1;
  if (::write(wake_.get(), &one, sizeof one) != sizeof one) give_up("eventfd");
  thread_.join();
}

void FaultProxy::run() {
  for (;;) {
    std::vector<pollfd> fds{{wake_.get(), POLLIN, 0}, {listener_.get(), POLLIN, 0}};
    for (const Pair& pair : pairs_) {
      fds.push_back({pair.client.get(), POLLIN, 0});
      fds.push_back({pair.server.get(), POLLIN, 0});
    }
    if (::poll(fds.data(), fds.size(), -1) < 0) continue;
    if (fds[0].revents != 0) return;
    size_t at = 2;
    for (Pair& pair : pairs_) {
      if (fds[at++].revents != 0) relay(pair, false);
      if (fds[at++].revents != 0 && !pair.ended) relay(pair, true);
    }
    pairs_.remove_if([](const Pair& pair) { return pair.ended; });
    if (fds[1].revents != 0) accept_one();
  }
}

void FaultProxy::accept_one() {
  UniqueFd client(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  Result<UniqueFd> server = XsClient::connect(upstream_path_);
  if (!client.valid() || !server) return;
  Pair& pair = pairs_.emplace_back();
  pair.client = std::move(client);
  pair.server = std::move(*server);
}

void FaultProxy::relay(Pair& pair, bool to_client) {
  std::array<char, 65536> buffer{};
  const int source = to_client ? pair.server.get() : pair.client.get();
  const ssize_t n = ::recv(source, buffer.data(), buffer.size(), 0);
  if (n <= 0) {
    pair.ended = true;
    return;
  }
  std::string& bytes = to_client ? pair.from_server : pair.from_client;
  bytes.append(buffer.data(), static_cast<size_t>(n));
  size_t at = 0;
  while (bytes.size() - at >= sizeof(xsd_sockmsg)) {
    Message message{};
    std::memcpy(&message.header, bytes.data() + at, sizeof message.header);
    if (bytes.size() - at - sizeof message.header < message.header.len) break;
    message.payload = bytes.substr(at + sizeof message.header, message.header.len);
    at += sizeof message.header + message.header.len;
    to_client ? answer(pair, std::move(message)) : request(pair, std::move(message));
  }
  bytes.erase(0, at);
}

bool FaultProxy::strikes(const xsd_sockmsg& header) {
  if ((struck_ && !plan_.lasting) || header.type != static_cast<uint32_t>(plan_.type) ||
      ++matched_ < plan_.nth)
    return false;
  struck_ = true;
  return true;
}

void FaultProxy::request(Pair& pair, Message message) {
  std::string& payload = message.payload;
  const size_t path_end = payload.find('\0');
  const bool well_formed = path_end != std::string::npos && path_end > 0 && payload.size() >= 2;
  if (plan_.fault >= Fault::kDivertRequest && well_formed && strikes(message.header)) {
    switch (plan_.fault) {
      case Fault::kDivertRequest:
        payload[path_end - 1] = 'Z';
        break;
      case Fault::kAlterRequest:
        payload[payload.size() - 2] ^= 0x01;
        break;
      case Fault::kLoseWrite:
        payload.replace(0, path_end, "/lost");
        message.header.len = static_cast<uint32_t>(payload.size());
        break;
      default:
        payload[0] = payload[0] == 'T' ? 'F' : 'T';
    }
  }
  write_all(pair.server.borrow(), packed(message.header, message.payload));
}

void FaultProxy::answer(Pair& pair, Message message) {
  if (pair.hung) return;
  const bool nothing_to_garble = plan_.fault == Fault::kGarble && message.payload.empty();
  const bool mine = plan_.fault < Fault::kDivertRequest && plan_.fault != Fault::kNone && !nothing_to_garble;
  if (mine && message.header.type == static_cast<uint32_t>(plan_.type) && first_payload_.empty()) {
    first_payload_ = message.payload;
  }
  if (mine && strikes(message.header)) return spoil(pair, std::move(message));
  write_all(pair.client.borrow(), packed(message.header, message.payload));
  write_all(pair.client.borrow(), std::exchange(pair.held, {}));
}

void FaultProxy::spoil(Pair& pair, Message message) {
  std::string bytes = packed(message.header, message.payload);
  switch (plan_.fault) {
    case Fault::kDrop:
      return;
    case Fault::kRepeat:
      return write_all(pair.client.borrow(), bytes + bytes);
    case Fault::kSwap:
      pair.held = std::move(bytes);
      return;
    case Fault::kGarble:
      bytes[sizeof message.header + message.payload.size() / 2] ^= 0x01;
      return write_all(pair.client.borrow(), bytes);
    case Fault::kBadHeader:
      message.header.len = XENSTORE_PAYLOAD_MAX + 1;
      return write_all(pair.client.borrow(), packed(message.header, message.payload));
    case Fault::kStale:
      message.header.len = static_cast<uint32_t>(first_payload_.size());
      return write_all(pair.client.borrow(), packed(message.header, first_payload_));
    case Fault::kRefuse:
      return write_all(pair.client.borrow(),
                       packed_reply(message.header, XS_ERROR, std::string_view("EACCES\0", 7)));
    case Fault::kHang:
      pair.hung = true;
      return;
    default:
      pair.ended = true;
  }
}

}  // namespace bulkhead::xs
