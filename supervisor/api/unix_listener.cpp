#include "supervisor/api/unix_listener.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <utility>
#include <vector>

namespace bulkhead::edge {
namespace {

constexpr std::size_t kMaxGroups = 4096;     // they travel with each request, in a packet of bounded size
constexpr int kShortageWaitMs = 100;         // out of descriptors or memory: look again after this
constexpr std::uint64_t kStop = UINT64_MAX;  // epoll tags; a connection's tag is its number
constexpr std::uint64_t kListening = UINT64_MAX - 1;

// Above 65,536 the kernel's descriptor table would cost more memory than distinct numbers are worth.
int highest_number() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return 1023;
  return static_cast<int>(std::min<rlim_t>(limit.rlim_cur, 65'536)) - 1;
}

Status watch(BorrowedFd epoll, BorrowedFd fd, std::uint32_t events, std::uint64_t tag) {
  epoll_event event{};
  event.events = events;
  event.data.u64 = tag;
  if (::epoll_ctl(epoll.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0)
    return os_failure("cannot watch a descriptor");
  return {};
}

// Beyond kMaxGroups groups are left out: that can only take rights away.
Result<std::vector<gid_t>> peer_groups(BorrowedFd connection) {
  std::vector<gid_t> groups(64);
  for (;;) {
    auto bytes = static_cast<socklen_t>(groups.size() * sizeof(gid_t));
    if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERGROUPS, groups.data(), &bytes) == 0) {
      groups.resize(std::min(bytes / sizeof(gid_t), kMaxGroups));
      return groups;
    }
    if (errno != ERANGE) return os_failure("cannot read the peer's groups");
    groups.resize(bytes / sizeof(gid_t));  // ERANGE reports how much there is
  }
}

}  // namespace

Result<contract::v1::PeerCredentials> peer_credentials(BorrowedFd connection) {
  ucred credentials{};
  socklen_t bytes = sizeof credentials;
  if (::getsockopt(connection.get(), SOL_SOCKET, SO_PEERCRED, &credentials, &bytes) != 0) {
    return os_failure("cannot read the peer's credentials");
  }
  Result<std::vector<gid_t>> groups = peer_groups(connection);
  if (!groups) return forward(std::move(groups));
  contract::v1::PeerCredentials peer;
  peer.set_uid(credentials.uid);
  peer.set_gid(credentials.gid);
  peer.set_pid(credentials.pid);
  for (const gid_t group : *groups) peer.add_groups(group);
  return peer;
}

Result<std::unique_ptr<UnixListener>> UnixListener::create(UniqueFd listening, ListenerLimits limits,
                                                           Receiver receiver) {
  const int flags = ::fcntl(listening.get(), F_GETFL);
  if (flags < 0 || ::fcntl(listening.get(), F_SETFL, flags | O_NONBLOCK) != 0) {
    return os_failure("cannot use the listening socket");
  }
  UniqueFd stop(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!stop.valid()) return os_failure("cannot create an eventfd");
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return os_failure("cannot create an epoll instance");
  if (Status s = watch(epoll.borrow(), stop.borrow(), EPOLLIN, kStop); !s) return forward(std::move(s));
  if (Status s = watch(epoll.borrow(), listening.borrow(), EPOLLIN, kListening); !s)
    return forward(std::move(s));
  return std::unique_ptr<UnixListener>(
      new UnixListener(std::move(listening), std::move(stop), std::move(epoll), limits, std::move(receiver)));
}

UnixListener::UnixListener(UniqueFd listening, UniqueFd stop, UniqueFd epoll, ListenerLimits limits,
                           Receiver receiver)
    : listening_(std::move(listening)),
      stop_(std::move(stop)),
      epoll_(std::move(epoll)),
      limits_(limits),
      receiver_(std::move(receiver)),
      last_number_(highest_number()),
      next_number_(last_number_ / 2) {}

void UnixListener::start() {
  thread_ = std::thread([this] { run(); });
}

void UnixListener::stop() {
  if (!thread_.joinable()) return;
  ::eventfd_write(stop_.get(), 1);
  thread_.join();
}

std::optional<contract::v1::PeerCredentials> UnixListener::peer(int fd) const {
  const std::lock_guard lock(mutex_);
  const auto found = connections_.find(fd);
  if (found == connections_.end()) return std::nullopt;
  return found->second.peer;
}

std::size_t UnixListener::connections() const {
  const std::lock_guard lock(mutex_);
  return connections_.size();
}

void UnixListener::run() {
  std::array<epoll_event, 64> events{};
  for (;;) {
    const int count = ::epoll_wait(epoll_.get(), events.data(), events.size(), -1);
    for (int i = 0; i < count; ++i) {
      const std::uint64_t tag = events.at(static_cast<std::size_t>(i)).data.u64;
      if (tag == kStop) return;
      if (tag == kListening) {
        accept_one();
      } else {
        forget(static_cast<int>(tag));
      }
    }
  }
}

void UnixListener::accept_one() {
  UniqueFd connection(::accept4(listening_.get(), nullptr, nullptr, SOCK_CLOEXEC | SOCK_NONBLOCK));
  if (connection.valid()) {
    if (!admit(connection)) ++refused_;
    return;
  }
  if (errno != EMFILE && errno != ENFILE && errno != ENOMEM && errno != ENOBUFS) return;
  pollfd stop{stop_.get(), POLLIN, 0};
  ::poll(&stop, 1, kShortageWaitMs);
}

// Takes the connection only if it succeeds.
Status UnixListener::admit(UniqueFd& connection) {
  Result<contract::v1::PeerCredentials> peer = peer_credentials(connection.borrow());
  if (!peer) return forward(std::move(peer));
  if (!has_room_for(peer->uid())) return failure(ErrorKind::kExhausted, "too many connections");
  Result<UniqueFd> numbered = at_fresh_number(connection.borrow());
  if (!numbered) return forward(std::move(numbered));
  const int number = numbered->get();
  const BorrowedFd watched = connection.borrow();
  {
    const std::lock_guard lock(mutex_);
    connections_.emplace(number, Connection{std::move(connection), std::move(*peer)});
  }
  // No events asked for: a hang-up is always reported.
  if (Status s = watch(epoll_.borrow(), watched, 0, static_cast<std::uint64_t>(number)); !s) {
    forget(number);
    return s;
  }
  receiver_(std::move(*numbered));
  return {};
}

bool UnixListener::has_room_for(std::uint32_t uid) const {
  const std::lock_guard lock(mutex_);
  if (connections_.size() >= limits_.connections) return false;
  const auto same_user = std::ranges::count_if(
      connections_, [uid](const auto& connection) { return connection.second.peer.uid() == uid; });
  return uid == 0 || static_cast<std::size_t>(same_user) < limits_.connections_per_user;
}

Result<UniqueFd> UnixListener::at_fresh_number(BorrowedFd connection) {
  for (int attempt = 0; attempt < 2; ++attempt) {
    UniqueFd numbered(::fcntl(connection.get(), F_DUPFD_CLOEXEC, next_number_));
    if (numbered.valid() && numbered.get() <= last_number_) {
      next_number_ = numbered.get() == last_number_ ? last_number_ / 2 : numbered.get() + 1;
      return numbered;
    }
    next_number_ = last_number_ / 2;
  }
  return os_failure("cannot renumber a connection");
}

void UnixListener::forget(int fd) {
  const std::lock_guard lock(mutex_);
  connections_.erase(fd);
}

}  // namespace bulkhead::edge
