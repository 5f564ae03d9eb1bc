// The event channels of the local hypervisor.
//
// From frontend to backend an event is a write to the channel's eventfd, which sits, edge-triggered, in the
// epoll instance that is the backend's events descriptor: the kernel coalesces, keeps what nobody has taken,
// and no process is in between. The eventfd is never read, and it starts at 1, so a new binding is pending
// once, as on Xen. From backend to frontend it is a datagram: unlike with an eventfd, the receiver cannot
// make the sender block, and a full queue means the same as a set bit.
//
// In an epoll instance an entry is known by (open file, descriptor number), so only this process, which keeps
// the eventfd open, can take it out again; it does not notice when all others have closed the epoll instance.
#pragma once

#include <map>
#include <memory>
#include <optional>

#include "hypervisor/hypervisor.h"

namespace bulkhead::hypervisor::local {

class EventChannels {
 public:
  using EventsId = std::uint64_t;

  static constexpr std::size_t kMaxPortsPerDomain = 256;
  static constexpr std::size_t kMaxEvents = 64;  // events descriptors
  static constexpr Port kMaxPort = 1 << 17;      // EVTCHN_FIFO_NR_CHANNELS, xen/event_channel.h

  // ---- the frontend's end ----

  struct Allocated {
    Port port;
    BorrowedFd signal;  // eventfd; valid as long as the port
    UniqueFd receive;   // datagram socket, non-blocking
  };
  // kExhausted: it has too many.
  Result<Allocated> allocate(Domid domid);
  bool has(Domid domid, Port port) const;
  // The domain is gone. What is bound to it stays bound, to nothing.
  void close_all(Domid domid);

  // ---- the backend's end ----

  // Known by what is in it, not by its number: whoever hands over a descriptor of the same epoll instance has
  // the same ports. kInvalid: not an epoll instance; kExhausted: too many in use.
  Result<EventsId> use(UniqueFd epoll);
  void leave(EventsId events);

  struct Bound {
    Port port;
    BorrowedFd signal;  // valid until unbind
  };
  // A binding whose events descriptor no connected process uses is dissolved when another one wants the port.
  Result<Bound> bind(EventsId events, Domid domid, Port remote);
  std::optional<Port> find(EventsId events, Domid domid, Port remote) const;
  std::optional<Port> remote_of(EventsId events, Domid domid, Port port) const;
  Result<BorrowedFd> signal_of(EventsId events, Port port) const;
  Status unbind(EventsId events, Port port);

  Result<Port> domain_events(EventsId events);
  void signal_domain_events();

 private:
  struct Channel {
    Domid domid;
    Port remote;
    UniqueFd to_backend;
    UniqueFd to_frontend;
    Port bound = 0;
  };
  // Of the backend.
  struct Local {
    EventsId events;
    std::shared_ptr<Channel> channel;  // none: domain_events
    UniqueFd domain_events;
  };
  struct Events {
    UniqueFd epoll;
    UniqueFd marker;  // an eventfd nobody writes to, by which we know the instance
    std::size_t users = 0;
  };

  Result<EventsId> add_events(UniqueFd epoll);
  bool make_room();
  void drop(EventsId events);
  Result<Port> add_local(Local local);
  void remove_local(Port port);
  const Local* find_local(EventsId events, Port port) const;

  std::map<Domid, std::map<Port, std::shared_ptr<Channel>>> channels_;
  std::map<Port, Local> locals_;
  std::map<EventsId, Events> events_;
  EventsId last_events_ = 0;
};

}  // namespace bulkhead::hypervisor::local
