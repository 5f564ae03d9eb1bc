// The core's end of the socket to the gRPC edge: calls come in, replies and stream elements go out, within
// bounds.
#pragma once

#include <google/protobuf/message_lite.h>

#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <string>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

// gRPC status codes (grpc/status.h), as in EdgeReply.code.
enum class Code : std::uint32_t {
  kOk = 0,
  kInvalidArgument = 3,
  kDeadlineExceeded = 4,
  kNotFound = 5,
  kPermissionDenied = 7,
  kResourceExhausted = 8,
  kFailedPrecondition = 9,
  kUnimplemented = 12,
  kInternal = 13,
  kUnavailable = 14,
};
Code code_of(ErrorKind kind);

class ApiLink;

// One call of a client. Whoever answers keeps it by shared pointer; once it has ended, everything is ignored.
class Call {
 public:
  Call(ApiLink& link, const bulkhead::contract::v1::EdgeRequest& request);
  Call(const Call&) = delete;
  Call& operator=(const Call&) = delete;
  ~Call();

  const std::string& method() const { return method_; }
  const bulkhead::contract::v1::Caller& caller() const { return caller_; }
  const std::string& body() const { return body_; }
  bool ended() const { return link_ == nullptr; }

  void reply(const google::protobuf::MessageLite& response);
  void fail(Code code, const std::string& message);
  void fail(const Error& error) { fail(code_of(error.kind()), error.message()); }
  // The next element of a stream. A client that does not keep up is ended with RESOURCE_EXHAUSTED.
  void element(const google::protobuf::MessageLite& element);
  // Runs once when the call ends in whatever way. Set at most once.
  void on_end(std::function<void()> handler) { on_end_ = std::move(handler); }

 private:
  friend class ApiLink;
  void end();

  ApiLink* link_;
  std::uint64_t id_;
  std::string method_;
  bulkhead::contract::v1::Caller caller_;
  std::string body_;
  std::size_t queued_ = 0;  // elements that wait in this process
  std::function<void()> on_end_;
};

class ApiLink {
 public:
  using Handler = std::function<void(const std::shared_ptr<Call>& call)>;

  static constexpr std::size_t kMaxCalls = 1024;
  static constexpr std::size_t kMaxQueuedElements = 256;  // of one stream

  // `loop` outlives this.
  ApiLink(EventLoop& loop, Handler handler) : loop_(loop), handler_(std::move(handler)) {}
  ~ApiLink() { detach(); }
  ApiLink(const ApiLink&) = delete;
  ApiLink& operator=(const ApiLink&) = delete;

  // Serves the edge at the other end of `socket`, which must stay open until detach(). One edge at a time:
  // what was attached before is detached.
  Status attach(BorrowedFd socket);
  // Ends every call.
  void detach();
  BorrowedFd socket() const { return socket_; }

 private:
  friend class Call;
  struct Outgoing {
    bulkhead::contract::v1::EdgeReply reply;
    std::weak_ptr<Call> stream;  // to be told when its element has left
  };

  void on_event(std::uint32_t events);
  void receive_all();
  void begin(const bulkhead::contract::v1::EdgeRequest& request);
  void cancel(std::uint64_t id);
  void send(bulkhead::contract::v1::EdgeReply reply, const std::shared_ptr<Call>& stream);
  void flush();
  std::shared_ptr<Call> find(std::uint64_t id) const;

  EventLoop& loop_;
  Handler handler_;
  BorrowedFd socket_{-1};
  std::map<std::uint64_t, std::shared_ptr<Call>> calls_;
  std::deque<Outgoing> outgoing_;
};

}  // namespace bulkhead::supervisor
