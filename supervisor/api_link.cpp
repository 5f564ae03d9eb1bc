#include "supervisor/api_link.h"

#include <utility>
#include <vector>

#include "runtime/seqpacket.h"
#include "supervisor/text.h"

namespace bulkhead::supervisor {
namespace {

using bulkhead::contract::v1::EdgeReply;
using bulkhead::contract::v1::EdgeRequest;

constexpr int kRequestsPerTurn = 64;  // then other descriptors get their turn
constexpr std::size_t kMaxMessageBytes = 1024;
// Room for the reply's own fields around the body.
constexpr std::size_t kMaxBodyBytes = kMaxPacketBytes - 2 * kMaxMessageBytes;

}  // namespace

Code code_of(ErrorKind kind) {
  switch (kind) {
    case ErrorKind::kInvalid:
      return Code::kInvalidArgument;
    case ErrorKind::kRefused:
      return Code::kFailedPrecondition;
    case ErrorKind::kNotFound:
      return Code::kNotFound;
    case ErrorKind::kDisconnected:
      return Code::kUnavailable;
    case ErrorKind::kExhausted:
      return Code::kResourceExhausted;
    case ErrorKind::kTimeout:
      return Code::kDeadlineExceeded;
    case ErrorKind::kFailed:
      break;
  }
  return Code::kInternal;
}

// ---- one call ----

Call::Call(ApiLink& link, const EdgeRequest& request)
    : link_(&link),
      id_(request.id()),
      method_(request.method()),
      caller_(request.caller()),
      body_(request.body()) {}

Call::~Call() {
  end();
}

void Call::end() {
  ApiLink* link = std::exchange(link_, nullptr);
  if (link == nullptr) return;
  const auto handler = std::exchange(on_end_, nullptr);
  const auto self = link->find(id_);  // lives until this returns
  link->calls_.erase(id_);
  if (handler) handler();
}

void Call::reply(const google::protobuf::MessageLite& response) {
  if (ended()) return;
  EdgeReply reply;
  reply.set_id(id_);
  response.SerializeToString(reply.mutable_body());
  if (reply.body().size() > kMaxBodyBytes) {
    return fail(Code::kResourceExhausted, "the answer is too long; ask for less");
  }
  link_->send(std::move(reply), nullptr);
  end();
}

void Call::fail(Code code, const std::string& message) {
  if (ended()) return;
  EdgeReply reply;
  reply.set_id(id_);
  reply.set_code(static_cast<std::uint32_t>(code));
  reply.set_message(std::string(cut_text(message, kMaxMessageBytes)));
  link_->send(std::move(reply), nullptr);
  end();
}

void Call::element(const google::protobuf::MessageLite& element) {
  if (ended()) return;
  if (queued_ >= ApiLink::kMaxQueuedElements) {
    return fail(Code::kResourceExhausted, "the client does not keep up with the stream; call again");
  }
  EdgeReply reply;
  reply.set_id(id_);
  reply.set_more(true);
  element.SerializeToString(reply.mutable_body());
  if (reply.body().size() > kMaxBodyBytes) return;  // no element is that long
  link_->send(std::move(reply), link_->find(id_));
}

// ---- the socket ----

Status ApiLink::attach(BorrowedFd socket) {
  detach();
  auto watched = loop_.watch(socket, EPOLLIN, [this](std::uint32_t events) { on_event(events); });
  if (watched) socket_ = socket;
  return watched;
}

void ApiLink::detach() {
  if (socket_.valid()) loop_.unwatch(socket_);
  socket_ = BorrowedFd(-1);
  outgoing_.clear();
  while (!calls_.empty()) {
    const auto call = calls_.begin()->second;
    call->end();
  }
}

void ApiLink::on_event(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if ((events & ~std::uint32_t{EPOLLOUT}) != 0) receive_all();
}

void ApiLink::receive_all() {
  for (int i = 0; i < kRequestsPerTurn && socket_.valid(); ++i) {
    auto packet = receive_packet(socket_);
    if (!packet && packet.error().kind() == ErrorKind::kInvalid) continue;
    if (!packet) return detach();  // its process is ending too, which is noticed elsewhere
    if (!packet->has_value()) return;
    EdgeRequest request;
    if (!request.ParseFromString((*packet)->bytes)) continue;
    if (request.cancel()) {
      cancel(request.id());
    } else {
      begin(request);
    }
  }
}

void ApiLink::begin(const EdgeRequest& request) {
  EdgeReply refusal;
  refusal.set_id(request.id());
  if (calls_.size() >= kMaxCalls || calls_.contains(request.id())) {
    refusal.set_code(static_cast<std::uint32_t>(Code::kResourceExhausted));
    refusal.set_message("too many calls in progress");
    return send(std::move(refusal), nullptr);
  }
  const auto call = std::make_shared<Call>(*this, request);
  calls_.emplace(request.id(), call);
  handler_(call);
}

void ApiLink::cancel(std::uint64_t id) {
  if (const auto call = find(id)) call->end();
}

std::shared_ptr<Call> ApiLink::find(std::uint64_t id) const {
  const auto found = calls_.find(id);
  return found == calls_.end() ? nullptr : found->second;
}

void ApiLink::send(EdgeReply reply, const std::shared_ptr<Call>& stream) {
  if (!socket_.valid()) return;
  if (stream) ++stream->queued_;
  outgoing_.push_back({std::move(reply), stream});
  if (outgoing_.size() == 1) flush();
}

void ApiLink::flush() {
  while (!outgoing_.empty()) {
    const Status sent = send_packet(socket_, outgoing_.front().reply);
    if (!sent && sent.error().kind() == ErrorKind::kExhausted) break;
    if (const auto stream = outgoing_.front().stream.lock()) --stream->queued_;
    outgoing_.pop_front();  // a closed socket is noticed by the reading side
  }
  // Fails only for a socket that is not watched any more.
  (void)loop_.change(socket_, outgoing_.empty() ? EPOLLIN : EPOLLIN | EPOLLOUT);
}

}  // namespace bulkhead::supervisor
