#include "supervisor/api/forwarder.h"

#include <google/protobuf/descriptor.h>
#include <grpcpp/impl/codegen/server_callback_handlers.h>
#include <grpcpp/support/byte_buffer.h>

#include <utility>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/clock.h"

namespace bulkhead::edge {
namespace {

using grpc::internal::RpcMethod;

// The one place where answers of the core and failures of the edge become a grpc::Status.
grpc::Status status_of(const CallEnd& end) {
  const auto code = static_cast<std::uint32_t>(end.code);
  if (code == 0) return grpc::Status::OK;
  if (code > 16)
    return {grpc::StatusCode::INTERNAL, "the supervisor core gave an unknown status: " + end.message};
  return {static_cast<grpc::StatusCode>(code), end.message};
}

CallEnd end_of(const Error& error) {
  switch (error.kind()) {
    case ErrorKind::kExhausted:
      return {Code::kResourceExhausted, error.message(), {}};
    case ErrorKind::kInvalid:
      return {Code::kInvalidArgument, error.message(), {}};
    default:
      return {Code::kUnavailable, error.message(), {}};
  }
}

std::string bytes_of(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  std::string bytes;
  bytes.reserve(buffer.Length());
  if (!buffer.Dump(&slices).ok()) return bytes;
  for (const grpc::Slice& slice : slices) {
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  }
  return bytes;
}

grpc::ByteBuffer buffer_of(const std::string& bytes) {
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

}  // namespace

// A place among the calls in progress, given back when the call is over.
class Forwarder::Slot {
 public:
  Slot(std::shared_ptr<Places> places, std::string connection)
      : places_(std::move(places)), connection_(std::move(connection)) {}
  Slot(const Slot&) = delete;
  Slot& operator=(const Slot&) = delete;
  ~Slot() {
    const std::lock_guard lock(places_->mutex);
    --places_->taken;
    const auto own = places_->taken_by_connection.find(connection_);
    if (--own->second == 0) places_->taken_by_connection.erase(own);
  }

 private:
  const std::shared_ptr<Places> places_;
  const std::string connection_;
};

// gRPC lets go of a reactor in OnDone(), the link when the call has ended: the later of the two deletes it.
class Forwarder::UnaryCall final : public grpc::ServerUnaryReactor, public CoreCall {
 public:
  UnaryCall(CoreLink& link, grpc::ByteBuffer& response) : link_(link), response_(response) {}

  void keep(std::shared_ptr<UnaryCall> self, std::unique_ptr<Slot> slot) {
    self_ = std::move(self);
    slot_ = std::move(slot);
  }

  void on_element(std::string) override {}  // the core has no business sending one
  // gRPC keeps `response_` until Finish(), and whoever ends the call at the link is the only one to finish
  // it.
  void on_end(CallEnd end) override {
    if (end.code == Code::kOk) response_ = buffer_of(end.body);
    Finish(status_of(end));
  }

  void OnCancel() override {
    if (link_.cancel(*this)) Finish(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    slot_.reset();
    const auto last = std::move(self_);
  }

 private:
  CoreLink& link_;
  grpc::ByteBuffer& response_;
  std::shared_ptr<UnaryCall> self_;
  std::unique_ptr<Slot> slot_;
};

class Forwarder::StreamCall final : public grpc::ServerWriteReactor<grpc::ByteBuffer>, public CoreCall {
 public:
  StreamCall(CoreLink& link, std::size_t limit) : link_(link), limit_(limit) {}

  void keep(std::shared_ptr<StreamCall> self, std::unique_ptr<Slot> slot) {
    self_ = std::move(self);
    slot_ = std::move(slot);
  }

  void on_element(std::string body) override;
  void on_end(CallEnd end) override {
    const std::lock_guard lock(mutex_);
    end_with(status_of(end));
  }

  void OnWriteDone(bool ok) override;
  void OnCancel() override {
    if (!link_.cancel(*this)) return;
    const std::lock_guard lock(mutex_);
    waiting_.clear();
    end_with(grpc::Status::CANCELLED);
  }
  void OnDone() override {
    slot_.reset();
    const auto last = std::move(self_);
  }

 private:
  void end_with(grpc::Status status);
  void proceed();

  CoreLink& link_;
  const std::size_t limit_;
  std::shared_ptr<StreamCall> self_;
  std::unique_ptr<Slot> slot_;

  std::mutex mutex_;  // everything below
  bool writing_ = false;
  bool finished_ = false;
  std::deque<std::string> waiting_;
  grpc::ByteBuffer current_;  // belongs to gRPC while writing_
  std::optional<grpc::Status> end_;
};

void Forwarder::StreamCall::on_element(std::string body) {
  const std::lock_guard lock(mutex_);
  if (end_) return;  // cancelled while this element was on its way
  if (waiting_.size() < limit_) {
    waiting_.push_back(std::move(body));
    proceed();
    return;
  }
  waiting_.clear();
  link_.cancel(*this);
  end_with(
      {grpc::StatusCode::RESOURCE_EXHAUSTED, "the watcher is too slow: more than " + std::to_string(limit_) +
                                                 " messages were waiting for it; look at the present state, "
                                                 "then watch again"});
}

void Forwarder::StreamCall::OnWriteDone(bool ok) {
  const std::lock_guard lock(mutex_);
  writing_ = false;
  if (!ok) waiting_.clear();  // the client is gone; OnCancel() follows or was here
  proceed();
}

// mutex_ is held. The first end counts.
void Forwarder::StreamCall::end_with(grpc::Status status) {
  if (!end_) end_ = std::move(status);
  proceed();
}

// mutex_ is held. One write at a time, the end after the last one. gRPC calls back on other threads or later,
// never from inside StartWrite() or Finish().
void Forwarder::StreamCall::proceed() {
  if (writing_ || finished_) return;
  if (!waiting_.empty()) {
    current_ = buffer_of(waiting_.front());
    waiting_.pop_front();
    writing_ = true;
    StartWrite(&current_);
  } else if (end_) {
    finished_ = true;
    Finish(*end_);
  }
}

Forwarder::Forwarder(CoreLink& link, Identify identify, ForwarderLimits limits)
    : link_(link), identify_(std::move(identify)), limits_(limits) {
  const google::protobuf::ServiceDescriptor& service =
      *v1::Component::descriptor()->file()->FindServiceByName("Supervisor");
  for (int i = 0; i < service.method_count(); ++i) {
    const google::protobuf::MethodDescriptor& method = *service.method(i);
    const std::string& path = paths_.emplace_back("/" + service.full_name() + "/" + method.name());
    const auto kind = method.server_streaming() ? RpcMethod::SERVER_STREAMING : RpcMethod::NORMAL_RPC;
    // From here on as generated services do (WithRawCallbackMethod_...); the base class owns what is new
    // here.
    AddMethod(new grpc::internal::RpcServiceMethod(path.c_str(), kind, nullptr));
    if (method.server_streaming()) {
      MarkMethodRawCallback(
          i, new grpc::internal::CallbackServerStreamingHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                 [this, name = method.name()](auto* context, const grpc::ByteBuffer* request) {
                   return stream(name, context, request);
                 }));
    } else {
      MarkMethodRawCallback(i,
                            new grpc::internal::CallbackUnaryHandler<grpc::ByteBuffer, grpc::ByteBuffer>(
                                [this, name = method.name()](auto* context, const grpc::ByteBuffer* request,
                                                             grpc::ByteBuffer* response) {
                                  return unary(name, context, request, response);
                                }));
    }
  }
}

grpc::ServerUnaryReactor* Forwarder::unary(const std::string& method, grpc::CallbackServerContext* context,
                                           const grpc::ByteBuffer* request, grpc::ByteBuffer* response) {
  const auto call = std::make_shared<UnaryCall>(link_, *response);
  begin(call, method, *context, *request, monotonic_ns() + limits_.unary_deadline_ns);
  return call.get();
}

grpc::ServerWriteReactor<grpc::ByteBuffer>* Forwarder::stream(const std::string& method,
                                                              grpc::CallbackServerContext* context,
                                                              const grpc::ByteBuffer* request) {
  const auto call = std::make_shared<StreamCall>(link_, limits_.queued_elements);
  begin(call, method, *context, *request, CoreLink::kNoDeadline);
  return call.get();
}

template <typename Call>
void Forwarder::begin(const std::shared_ptr<Call>& call, const std::string& method,
                      grpc::CallbackServerContext& context, const grpc::ByteBuffer& request,
                      std::int64_t deadline_ns) {
  std::unique_ptr<Slot> slot = take_slot(context.peer());
  const bool admitted = slot != nullptr;
  call->keep(call, std::move(slot));
  if (!admitted) {
    call->on_end({Code::kResourceExhausted, "too many calls in progress: end some, then call again", {}});
    return;
  }
  const std::optional<contract::v1::Caller> caller = identify_(context);
  if (!caller) {
    call->on_end({Code::kUnauthenticated, "it cannot be told who is calling", {}});
    return;
  }
  const Status sent = link_.call(call, method, *caller, bytes_of(request), deadline_ns);
  if (!sent) call->on_end(end_of(sent.error()));
}

std::unique_ptr<Forwarder::Slot> Forwarder::take_slot(const std::string& connection) {
  const std::lock_guard lock(places_->mutex);
  std::size_t& own = places_->taken_by_connection[connection];
  if (own >= limits_.calls_per_connection || places_->taken >= limits_.calls) {
    if (own == 0) places_->taken_by_connection.erase(connection);
    return nullptr;
  }
  ++own;
  ++places_->taken;
  return std::make_unique<Slot>(places_, connection);
}

}  // namespace bulkhead::edge
