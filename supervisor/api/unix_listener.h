// Accepts clients on a listening Unix socket that this process was given, remembers who each one is, and
// passes the connection on. The listening socket outlives the process: clients that come meanwhile wait in
// its backlog.
#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::edge {

struct ListenerLimits {
  std::size_t connections = 256;
  // So that no unprivileged user can lock the others out. Does not hold for root.
  std::size_t connections_per_user = 64;
};

class UnixListener {
 public:
  // The receiver owns the descriptor, a connected non-blocking socket. Runs on the listener's thread.
  using Receiver = std::function<void(UniqueFd connection)>;

  // `listening` is a listening stream socket; it is made non-blocking.
  static Result<std::unique_ptr<UnixListener>> create(UniqueFd listening, ListenerLimits limits,
                                                      Receiver receiver);
  UnixListener(const UnixListener&) = delete;
  UnixListener& operator=(const UnixListener&) = delete;
  ~UnixListener() { stop(); }

  // Begins to accept. Once.
  void start();
  // Ends accepting: the receiver is not called afterwards. peer() goes on answering.
  void stop();

  // Who is behind a connection that the receiver was given and whose other end is still open. `fd` is only a
  // name here: the receiver has the descriptor. A number is used again only when a whole range of them (half
  // of RLIMIT_NOFILE, at most 32,768) has been through, thus a call that outlives its connection is not taken
  // for a newcomer's. Any thread.
  std::optional<contract::v1::PeerCredentials> peer(int fd) const;
  std::size_t connections() const;

  // Connections turned away because of the limits, since the start.
  std::uint64_t refused() const { return refused_; }

 private:
  struct Connection {
    UniqueFd watch;  // a second descriptor of the same connection: tells when it has ended
    contract::v1::PeerCredentials peer;
  };

  UnixListener(UniqueFd listening, UniqueFd stop, UniqueFd epoll, ListenerLimits limits, Receiver receiver);
  void run();
  void accept_one();
  Status admit(UniqueFd& connection);
  bool has_room_for(std::uint32_t uid) const;
  Result<UniqueFd> at_fresh_number(BorrowedFd connection);
  void forget(int fd);

  const UniqueFd listening_;
  const UniqueFd stop_;
  const UniqueFd epoll_;
  const ListenerLimits limits_;
  const Receiver receiver_;
  const int last_number_;
  int next_number_;
  std::atomic<std::uint64_t> refused_ = 0;

  mutable std::mutex mutex_;
  std::map<int, Connection> connections_;  // by the receiver's descriptor number

  std::thread thread_;
};

// SO_PEERCRED and SO_PEERGROUPS of a connected Unix socket: who connected, at the time of connect().
Result<contract::v1::PeerCredentials> peer_credentials(BorrowedFd connection);

}  // namespace bulkhead::edge
