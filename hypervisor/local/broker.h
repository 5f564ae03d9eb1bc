// The process side of the local hypervisor: a listening socket and a session per connection, one thread. It
// outlives frontends and backends, and never waits for one: who does not read its reply, or sends nonsense,
// is cut off.
#pragma once

#include <map>
#include <memory>
#include <string>

#include "hypervisor/local/domains.h"
#include "hypervisor/local/event_channels.h"
#include "hypervisor/local/local.pb.h"
#include "runtime/event_loop.h"
#include "runtime/seqpacket.h"

namespace bulkhead::hypervisor::local {

class Broker {
 public:
  static constexpr std::size_t kMaxSessions = 4096;

  // Listens at `path`, for this account only. A socket there that nobody listens on is replaced; kRefused:
  // somebody does.
  static Result<std::unique_ptr<Broker>> listen(const std::string& path);

  // Until something breaks that cannot be repaired.
  Status run();

 private:
  struct Session {
    UniqueFd socket;
    std::optional<Domid> domid;  // of the domain it is
    std::optional<EventChannels::EventsId> events;
  };
  // Descriptors that travel with a reply. Those of `owned` are closed once it is sent.
  struct Answer {
    Reply reply;
    std::vector<BorrowedFd> fds;
    std::vector<UniqueFd> owned;
  };

  Broker(EventLoop loop, UniqueFd listener, Domains domains)
      : loop_(std::move(loop)), listener_(std::move(listener)), domains_(std::move(domains)) {}

  Status watch_listener();
  void accept_one();
  void receive(int session);
  void end(int session);
  void end_domain(Domid domid);

  Result<Answer> answer(Session& session, const Request& request, std::vector<UniqueFd> fds);
  Result<Answer> answer_frontend(Session& session, const Request& request);
  Result<Answer> answer_backend(Session& session, const Request& request);
  Result<Answer> create_domain(Session& session, const Request& request, UniqueFd memory);
  Result<Answer> use_events(Session& session, UniqueFd epoll);
  Result<Answer> memory(Domid domid) const;
  Answer domain_list() const;

  EventLoop loop_;
  UniqueFd listener_;
  bool accepting_ = false;
  Domains domains_;
  EventChannels channels_;
  Port xenstore_port_ = 0;           // of domain 0
  std::map<int, Session> sessions_;  // by the descriptor of its socket
};

}  // namespace bulkhead::hypervisor::local
