#include "supervisor/api/core_link.h"

#include <poll.h>
#include <sys/eventfd.h>

#include <algorithm>
#include <array>
#include <limits>
#include <optional>

#include "runtime/clock.h"
#include "runtime/seqpacket.h"

namespace bulkhead::edge {
namespace {

constexpr std::size_t kRepliesPerTurn = 64;  // then deadlines and the outgoing queue get their turn

}  // namespace

Result<std::unique_ptr<CoreLink>> CoreLink::start(UniqueFd socket, std::function<void()> on_closed) {
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return os_failure("cannot create an eventfd");
  std::unique_ptr<CoreLink> link(new CoreLink(std::move(socket), std::move(wake), std::move(on_closed)));
  link->thread_ = std::thread([self = link.get()] { self->run(); });
  return link;
}

// The core may still answer calls of a previous edge over the same socket: starting at the clock keeps the
// ids apart.
CoreLink::CoreLink(UniqueFd socket, UniqueFd wake, std::function<void()> on_closed)
    : socket_(std::move(socket)),
      wake_(std::move(wake)),
      on_closed_(std::move(on_closed)),
      last_id_(static_cast<std::uint64_t>(monotonic_ns())) {}

CoreLink::~CoreLink() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake();
  thread_.join();
}

Status CoreLink::call(const std::shared_ptr<CoreCall>& call, std::string_view method,
                      const contract::v1::Caller& caller, std::string body, std::int64_t deadline_ns) {
  contract::v1::EdgeRequest request;
  request.set_method(std::string(method));
  *request.mutable_caller() = caller;
  request.set_body(std::move(body));
  request.set_id(std::numeric_limits<std::uint64_t>::max());  // the longest; the real one is set below
  if (request.ByteSizeLong() > kMaxPacketBytes) {
    return failure(ErrorKind::kInvalid,
                   "the request is over the limit of " + std::to_string(kMaxPacketBytes) + " bytes");
  }
  {
    const std::lock_guard lock(mutex_);
    if (!open_) return failure(ErrorKind::kDisconnected, "the supervisor core has closed the connection");
    if (calls_.size() >= kMaxCalls) {
      return failure(ErrorKind::kExhausted, "too many calls in progress (" + std::to_string(kMaxCalls) + ")");
    }
    const std::uint64_t id = ++last_id_;
    request.set_id(id);
    call->id_ = id;
    if (!send_or_queue(std::move(request))) {
      return failure(ErrorKind::kDisconnected, "the supervisor core has closed the connection");
    }
    calls_.emplace(id, Entry{call, deadline_ns});
    if (deadline_ns == kNoDeadline) return {};
    deadlines_.emplace(deadline_ns, id);
  }
  wake();
  return {};
}

bool CoreLink::cancel(const CoreCall& call) {
  const std::lock_guard lock(mutex_);
  const std::shared_ptr<CoreCall> taken = take(call.id_);
  if (taken == nullptr) return false;
  withdraw(call.id_);
  return true;
}

void CoreLink::abandon_before(const CoreCall& call, std::string_view message) {
  Ended ended;
  {
    const std::lock_guard lock(mutex_);
    ended = take_if([&](std::uint64_t id, const Entry&) { return id < call.id_; });
    // A call the new core has begun already must not go on for nobody.
    for (const auto& gone : ended) withdraw(gone->id_);
  }
  for (const auto& gone : ended) gone->on_end({Code::kUnavailable, std::string(message), {}});
}

// Takes the request back if the core cannot have seen it, else tells the core. mutex_ is held.
void CoreLink::withdraw(std::uint64_t id) {
  const auto queued = std::ranges::find(queue_, id, &contract::v1::EdgeRequest::id);
  if (queued != queue_.end()) {
    queue_.erase(queued);
    return;
  }
  contract::v1::EdgeRequest request;
  request.set_id(id);
  request.set_cancel(true);
  send_or_queue(std::move(request));
}

// False when the core is gone for good. mutex_ is held, so the order of sending is the order of ids.
bool CoreLink::send_or_queue(contract::v1::EdgeRequest request) {
  if (queue_.empty()) {
    const Status sent = send_packet(socket_.borrow(), request);
    if (sent) return true;
    if (sent.error().kind() != ErrorKind::kExhausted) return false;
    wake();  // the thread must now wait for room as well
  }
  queue_.push_back(std::move(request));
  return true;
}

void CoreLink::flush() {
  const std::lock_guard lock(mutex_);
  while (!queue_.empty()) {
    const Status sent = send_packet(socket_.borrow(), queue_.front());
    if (!sent && sent.error().kind() == ErrorKind::kExhausted) return;
    queue_.pop_front();  // a disconnect shows itself to the reading side too, which ends every call
  }
}

void CoreLink::run() {
  for (;;) {
    short socket_events = POLLIN;
    int wait = -1;
    {
      const std::lock_guard lock(mutex_);
      if (stopping_) break;
      if (!queue_.empty()) socket_events |= POLLOUT;
      wait = wait_ms();
    }
    std::array<pollfd, 2> watched{pollfd{socket_.get(), socket_events, 0}, pollfd{wake_.get(), POLLIN, 0}};
    ::poll(watched.data(), watched.size(), wait);
    if (watched[1].revents != 0) {
      eventfd_t ignored = 0;
      ::eventfd_read(wake_.get(), &ignored);
    }
    if ((watched[0].revents & POLLOUT) != 0) flush();
    if ((watched[0].revents & ~POLLOUT) != 0 && !receive()) {
      end_all("the supervisor core has closed the connection");
      on_closed_();
      return;
    }
    expire();
  }
  end_all("the API edge is stopping");
}

Status CoreLink::receive() {
  for (std::size_t i = 0; i < kRepliesPerTurn; ++i) {
    Result<std::optional<Packet>> packet = receive_packet(socket_.borrow());
    if (!packet) {
      // One bad packet costs its own call (which ends at its deadline), not everybody's.
      if (packet.error().kind() == ErrorKind::kInvalid) continue;
      return forward(std::move(packet));
    }
    if (!packet->has_value()) return {};
    contract::v1::EdgeReply reply;
    if (reply.ParseFromString((*packet)->bytes)) deliver(std::move(reply));
  }
  return {};
}

void CoreLink::deliver(contract::v1::EdgeReply reply) {
  std::shared_ptr<CoreCall> call;
  {
    const std::lock_guard lock(mutex_);
    if (reply.more()) {
      const auto found = calls_.find(reply.id());
      if (found != calls_.end()) call = found->second.call;
    } else {
      call = take(reply.id());
    }
  }
  if (call == nullptr) return;  // cancelled or expired while the reply was on its way
  if (reply.more()) {
    call->on_element(std::move(*reply.mutable_body()));
  } else {
    call->on_end({Code{reply.code()}, std::move(*reply.mutable_message()), std::move(*reply.mutable_body())});
  }
}

std::shared_ptr<CoreCall> CoreLink::take(std::uint64_t id) {
  const auto found = calls_.find(id);
  if (found == calls_.end()) return nullptr;
  std::shared_ptr<CoreCall> call = std::move(found->second.call);
  deadlines_.erase({found->second.deadline_ns, id});
  calls_.erase(found);
  return call;
}

CoreLink::Ended CoreLink::take_if(const std::function<bool(std::uint64_t, const Entry&)>& condition) {
  Ended taken;
  for (auto at = calls_.begin(); at != calls_.end();) {
    const auto next = std::next(at);
    if (condition(at->first, at->second)) taken.push_back(take(at->first));
    at = next;
  }
  return taken;
}

void CoreLink::expire() {
  Ended ended;
  {
    const std::lock_guard lock(mutex_);
    const std::int64_t now = monotonic_ns();
    while (!deadlines_.empty() && deadlines_.begin()->first <= now) {
      const std::uint64_t id = deadlines_.begin()->second;
      ended.push_back(take(id));
      withdraw(id);
    }
  }
  for (const auto& call : ended) {
    call->on_end({Code::kDeadlineExceeded, "the supervisor core did not answer in time", {}});
  }
}

void CoreLink::end_all(std::string_view message) {
  Ended ended;
  {
    const std::lock_guard lock(mutex_);
    open_ = false;
    queue_.clear();
    ended = take_if([](std::uint64_t, const Entry&) { return true; });
  }
  for (const auto& call : ended) call->on_end({Code::kUnavailable, std::string(message), {}});
}

int CoreLink::wait_ms() const {
  if (deadlines_.empty()) return -1;
  const std::int64_t left = deadlines_.begin()->first - monotonic_ns();
  return static_cast<int>(std::clamp<std::int64_t>(left / kMillisecond + 1, 0, 3'600'000));
}

void CoreLink::wake() const {
  ::eventfd_write(wake_.get(), 1);
}

}  // namespace bulkhead::edge
