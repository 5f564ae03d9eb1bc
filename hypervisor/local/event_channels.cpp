#include "hypervisor/local/event_channels.h"

#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>

namespace bulkhead::hypervisor::local {
namespace {

UniqueFd make_eventfd(unsigned value) {
  return UniqueFd(::eventfd(value, EFD_CLOEXEC | EFD_NONBLOCK));
}

bool change(BorrowedFd epoll, int operation, BorrowedFd fd, Port port) {
  epoll_event event{};
  event.events = EPOLLIN | EPOLLET;
  event.data.u64 = port;
  return ::epoll_ctl(epoll.get(), operation, fd.get(), &event) == 0;
}

// The lowest number from 1 on that is not a key.
template <typename Map>
Port free_port(const Map& ports) {
  Port port = 1;
  for (auto it = ports.begin(); it != ports.end() && it->first == port; ++it) ++port;
  return port;
}

}  // namespace

Result<EventChannels::Allocated> EventChannels::allocate(Domid domid) {
  auto& ports = channels_[domid];
  if (ports.size() >= kMaxPortsPerDomain) return failure(ErrorKind::kExhausted, "too many ports");
  auto channel = std::make_shared<Channel>(Channel{domid, free_port(ports), make_eventfd(1), {}});
  std::array<int, 2> ends{};
  if (!channel->to_backend.valid() ||
      ::socketpair(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends.data()) != 0) {
    return os_failure("cannot make an event channel");
  }
  channel->to_frontend.reset(ends[0]);
  // The least there is: a few datagrams say all that thousands could.
  const int least = 0;
  (void)::setsockopt(ends[0], SOL_SOCKET, SO_SNDBUF, &least, sizeof least);
  Allocated allocated{channel->remote, channel->to_backend.borrow(), UniqueFd(ends[1])};
  ports.emplace(channel->remote, std::move(channel));
  return allocated;
}

bool EventChannels::has(Domid domid, Port port) const {
  const auto ports = channels_.find(domid);
  return ports != channels_.end() && ports->second.contains(port);
}

void EventChannels::close_all(Domid domid) {
  channels_.erase(domid);
}

Result<EventChannels::EventsId> EventChannels::use(UniqueFd epoll) {
  for (auto& [id, events] : events_) {
    if (!change(epoll.borrow(), EPOLL_CTL_MOD, events.marker.borrow(), 0)) continue;
    ++events.users;
    return id;
  }
  return add_events(std::move(epoll));
}

Result<EventChannels::EventsId> EventChannels::add_events(UniqueFd epoll) {
  if (events_.size() >= kMaxEvents && !make_room()) {
    return failure(ErrorKind::kExhausted, "too many events descriptors");
  }
  UniqueFd marker = make_eventfd(0);
  if (!marker.valid()) return os_failure("cannot make an eventfd");
  if (!change(epoll.borrow(), EPOLL_CTL_ADD, marker.borrow(), 0)) {
    return failure(ErrorKind::kInvalid, "not an events descriptor of the local hypervisor");
  }
  events_.emplace(++last_events_, Events{std::move(epoll), std::move(marker), 1});
  return last_events_;
}

// The oldest of those that nobody uses goes.
bool EventChannels::make_room() {
  const auto unused =
      std::find_if(events_.begin(), events_.end(), [](const auto& entry) { return entry.second.users == 0; });
  if (unused == events_.end()) return false;
  drop(unused->first);
  return true;
}

void EventChannels::drop(EventsId events) {
  for (auto it = locals_.begin(); it != locals_.end();) {
    const auto port = it++;
    if (port->second.events == events) remove_local(port->first);
  }
  change(events_.at(events).epoll.borrow(), EPOLL_CTL_DEL, events_.at(events).marker.borrow(), 0);
  events_.erase(events);
}

void EventChannels::leave(EventsId events) {
  const auto found = events_.find(events);
  if (found != events_.end() && found->second.users > 0) --found->second.users;
}

Result<Port> EventChannels::add_local(Local local) {
  const Port port = free_port(locals_);
  if (port >= kMaxPort) return failure(ErrorKind::kExhausted, "no free port");
  const BorrowedFd fd = local.channel ? local.channel->to_backend.borrow() : local.domain_events.borrow();
  if (!change(events_.at(local.events).epoll.borrow(), EPOLL_CTL_ADD, fd, port)) {
    return os_failure("cannot bind an event channel");
  }
  if (local.channel) local.channel->bound = port;
  locals_.emplace(port, std::move(local));
  return port;
}

void EventChannels::remove_local(Port port) {
  const auto found = locals_.find(port);
  Local& local = found->second;
  const BorrowedFd fd = local.channel ? local.channel->to_backend.borrow() : local.domain_events.borrow();
  change(events_.at(local.events).epoll.borrow(), EPOLL_CTL_DEL, fd, port);
  if (local.channel) local.channel->bound = 0;
  locals_.erase(found);
}

Result<EventChannels::Bound> EventChannels::bind(EventsId events, Domid domid, Port remote) {
  if (!has(domid, remote)) return failure(ErrorKind::kRefused, "no such port");
  const auto channel = channels_.at(domid).at(remote);
  if (channel->bound != 0) {
    const EventsId owner = locals_.at(channel->bound).events;
    if (owner == events || events_.at(owner).users > 0) return failure(ErrorKind::kRefused, "bound already");
    remove_local(channel->bound);
  }
  auto port = add_local({events, channel, {}});
  if (!port) return forward(std::move(port));
  return Bound{*port, channel->to_frontend.borrow()};
}

std::optional<Port> EventChannels::find(EventsId events, Domid domid, Port remote) const {
  if (!has(domid, remote)) return std::nullopt;
  const Port bound = channels_.at(domid).at(remote)->bound;
  if (bound == 0 || locals_.at(bound).events != events) return std::nullopt;
  return bound;
}

const EventChannels::Local* EventChannels::find_local(EventsId events, Port port) const {
  const auto found = locals_.find(port);
  return found == locals_.end() || found->second.events != events ? nullptr : &found->second;
}

std::optional<Port> EventChannels::remote_of(EventsId events, Domid domid, Port port) const {
  const Local* local = find_local(events, port);
  if (local == nullptr || !local->channel || local->channel->domid != domid) return std::nullopt;
  return local->channel->remote;
}

Result<BorrowedFd> EventChannels::signal_of(EventsId events, Port port) const {
  const Local* local = find_local(events, port);
  if (local == nullptr || !local->channel) return failure(ErrorKind::kNotFound, "not a bound port");
  return local->channel->to_frontend.borrow();
}

Status EventChannels::unbind(EventsId events, Port port) {
  if (find_local(events, port) == nullptr) return failure(ErrorKind::kNotFound, "not a bound port");
  remove_local(port);
  return {};
}

Result<Port> EventChannels::domain_events(EventsId events) {
  for (const auto& [port, local] : locals_) {
    if (local.events == events && !local.channel) return port;
  }
  Local local{events, nullptr, make_eventfd(0)};
  if (!local.domain_events.valid()) return os_failure("cannot make an eventfd");
  return add_local(std::move(local));
}

void EventChannels::signal_domain_events() {
  for (const auto& [port, local] : locals_) {
    // Full after 2^64 events only.
    if (!local.channel) (void)::eventfd_write(local.domain_events.get(), 1);
  }
}

}  // namespace bulkhead::hypervisor::local
