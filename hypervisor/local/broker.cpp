#include "hypervisor/local/broker.h"

#include <sys/socket.h>
#include <sys/stat.h>

#include "runtime/unix_address.h"

namespace bulkhead::hypervisor::local {
namespace {

bool bind_to(BorrowedFd socket, const sockaddr_un& address) {
  const mode_t before = ::umask(0177);
  const int bound = ::bind(socket.get(), as_sockaddr(address), sizeof address);
  ::umask(before);
  return bound == 0;
}

Result<UniqueFd> listen_at(const std::string& path) {
  const auto address = unix_address(path);
  if (!address) return failure(ErrorKind::kInvalid, "'" + path + "' is empty or too long");
  UniqueFd socket(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!socket.valid()) return os_failure("cannot create a socket");
  if (!bind_to(socket.borrow(), *address)) {
    if (errno != EADDRINUSE) return os_failure("cannot bind " + path);
    if (somebody_listens(*address, SOCK_SEQPACKET)) return failure(ErrorKind::kRefused, path + " is in use");
    struct stat info{};
    const bool is_socket = ::lstat(path.c_str(), &info) == 0 && S_ISSOCK(info.st_mode);
    if (!is_socket) return failure(ErrorKind::kRefused, path + " exists and is no socket");
    ::unlink(path.c_str());
    if (!bind_to(socket.borrow(), *address)) return os_failure("cannot bind " + path);
  }
  if (::listen(socket.get(), SOMAXCONN) != 0) return os_failure("cannot listen on " + path);
  return socket;
}

Reply refusal(const Error& error) {
  Reply reply;
  reply.set_error_kind(static_cast<std::uint32_t>(error.kind()));
  reply.set_error(error.message());
  return reply;
}

}  // namespace

Result<std::unique_ptr<Broker>> Broker::listen(const std::string& path) {
  auto loop = EventLoop::create();
  if (!loop) return forward(std::move(loop));
  auto listener = listen_at(path);
  if (!listener) return forward(std::move(listener));
  auto domains = Domains::create();
  if (!domains) return forward(std::move(domains));
  return std::unique_ptr<Broker>(new Broker(std::move(*loop), std::move(*listener), std::move(*domains)));
}

Status Broker::run() {
  if (auto watched = watch_listener(); !watched) return watched;
  return loop_.run();
}

Status Broker::watch_listener() {
  auto watched = loop_.watch(listener_.borrow(), EPOLLIN, [this](std::uint32_t) { accept_one(); });
  accepting_ = watched.has_value();
  return watched;
}

void Broker::accept_one() {
  UniqueFd socket;
  if (sessions_.size() < kMaxSessions) {
    socket.reset(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!socket.valid() && errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
  }
  const int key = socket.get();
  if (!socket.valid() ||
      !loop_.watch(socket.borrow(), EPOLLIN, [this, key](std::uint32_t) { receive(key); })) {
    // Until a session ends. To go on asking would be a busy loop.
    loop_.unwatch(listener_.borrow());
    accepting_ = false;
    return;
  }
  sessions_[key].socket = std::move(socket);
}

void Broker::receive(int session) {
  Session& from = sessions_.at(session);
  auto packet = receive_packet(from.socket.borrow());
  if (!packet) return end(session);
  if (!*packet) return;
  Request request;
  if (!request.ParseFromString((*packet)->bytes)) return end(session);
  auto answered = answer(from, request, std::move((*packet)->fds));
  if (answered) answered->reply.set_done(true);
  const Answer out = answered ? std::move(*answered) : Answer{refusal(answered.error()), {}, {}};
  if (!send_packet(from.socket.borrow(), out.reply, out.fds)) end(session);
}

void Broker::end(int session) {
  const auto found = sessions_.find(session);
  loop_.unwatch(found->second.socket.borrow());
  if (found->second.events) channels_.leave(*found->second.events);
  const auto domid = found->second.domid;
  sessions_.erase(found);
  if (domid) {
    end_domain(*domid);
    domains_.remove(*domid);
    channels_.signal_domain_events();
  }
  if (!accepting_) (void)watch_listener();
}

void Broker::end_domain(Domid domid) {
  if (domid == 0) xenstore_port_ = 0;
  domains_.destroy(domid);
  channels_.close_all(domid);
}

}  // namespace bulkhead::hypervisor::local
