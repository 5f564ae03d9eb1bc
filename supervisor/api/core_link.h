// The edge's end of the socket to the core: any number of calls at once over one SOCK_SEQPACKET connection.
// The core keeps its own end open across its restarts, so silence is not a closed socket: calls wait.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <string_view>
#include <thread>
#include <utility>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::edge {

// gRPC status codes (grpc/status.h) the edge itself gives; the contract's EdgeReply.code has the same
// numbers.
enum class Code : std::uint32_t {
  kOk = 0,
  kCancelled = 1,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kResourceExhausted = 8,
  kInternal = 13,
  kUnavailable = 14,
  kUnauthenticated = 16,
};

struct CallEnd {
  Code code = Code::kOk;
  std::string message;
  std::string body;  // of a unary call that succeeded
};

// One call to the core. The link keeps it alive until on_end() has returned or cancel() has said true.
// Both callbacks run on the link's thread and must not block.
class CoreCall {
 public:
  CoreCall() = default;
  CoreCall(const CoreCall&) = delete;
  CoreCall& operator=(const CoreCall&) = delete;
  virtual ~CoreCall() = default;

  // An element of a stream, in the core's order. May still be under way when cancel() returns.
  virtual void on_element(std::string body) = 0;
  // The last callback, exactly once, unless cancel() said true.
  virtual void on_end(CallEnd end) = 0;

 private:
  friend class CoreLink;
  std::uint64_t id_ = 0;
};

// Public functions may be called from any thread, also inside a CoreCall's callbacks.
class CoreLink {
 public:
  static constexpr std::int64_t kNoDeadline = INT64_MAX;
  static constexpr std::size_t kMaxCalls = 1024;

  // Takes a connected non-blocking SOCK_SEQPACKET socket. `on_closed` runs once, on the link's thread, after
  // the core has closed its end for good; every call has ended with kUnavailable by then.
  static Result<std::unique_ptr<CoreLink>> start(UniqueFd socket, std::function<void()> on_closed);
  CoreLink(const CoreLink&) = delete;
  CoreLink& operator=(const CoreLink&) = delete;
  // Ends every call with kUnavailable, without `on_closed`.
  ~CoreLink();

  // Sends, or queues while the core does not read. `deadline_ns` is monotonic; when it passes the call ends
  // with kDeadlineExceeded. Fails, and then calls nothing back: kExhausted above kMaxCalls calls, kInvalid
  // when the request does not fit into a packet, kDisconnected.
  Status call(const std::shared_ptr<CoreCall>& call, std::string_view method,
              const contract::v1::Caller& caller, std::string body, std::int64_t deadline_ns = kNoDeadline);

  // Ends a call without a callback and tells the core. False: the call has ended already (on_end() ran, runs
  // or is about to).
  bool cancel(const CoreCall& call);

  // For when a new core turns out to have taken the place of the one that had been sent every call older than
  // `call`: ends those with kUnavailable. Calls started after `call` are the new core's.
  void abandon_before(const CoreCall& call, std::string_view message);

 private:
  struct Entry {
    std::shared_ptr<CoreCall> call;
    std::int64_t deadline_ns = kNoDeadline;
  };
  using Ended = std::vector<std::shared_ptr<CoreCall>>;

  CoreLink(UniqueFd socket, UniqueFd wake, std::function<void()> on_closed);
  void run();
  Status receive();
  void deliver(contract::v1::EdgeReply reply);
  void flush();
  bool send_or_queue(contract::v1::EdgeRequest request);
  void withdraw(std::uint64_t id);
  std::shared_ptr<CoreCall> take(std::uint64_t id);
  Ended take_if(const std::function<bool(std::uint64_t, const Entry&)>& condition);
  void expire();
  void end_all(std::string_view message);
  int wait_ms() const;
  void wake() const;

  const UniqueFd socket_;
  const UniqueFd wake_;  // eventfd: the thread must look at queue_, deadlines or stopping_ again
  const std::function<void()> on_closed_;

  std::mutex mutex_;  // everything below
  bool open_ = true;
  bool stopping_ = false;
  std::uint64_t last_id_ = 0;  // ids grow in the order of sending
  std::map<std::uint64_t, Entry> calls_;
  std::set<std::pair<std::int64_t, std::uint64_t>> deadlines_;
  // What the socket did not take. Bounded by kMaxCalls requests plus one cancellation for each request that
  // the socket's own bounded buffer holds.
  std::deque<contract::v1::EdgeRequest> queue_;

  std::thread thread_;
};

}  // namespace bulkhead::edge
