#include "supervisor/instance_link.h"

#include <sys/eventfd.h>

#include <cerrno>
#include <optional>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "runtime/seqpacket.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint message_before_handling{"core-message-before-handling"};
CrashPoint message_before_discard{"core-message-before-discard"};
CrashPoint message_discarded{"core-message-discarded"};
CrashPoint link_half_parked{"core-link-half-parked"};

constexpr int kMessagesPerTurn = 32;  // then other descriptors get their turn
// More than an instance can hold (every custody item once, plus orders): one that reads nothing for this long
// is given up.
constexpr std::size_t kMaxOutgoing = 65'536;
constexpr std::int64_t kRetryDelay = 10 * kMillisecond;
// A message that killed this many cores in a row is dropped unread.
constexpr std::uint32_t kMaxDeaths = 3;

}  // namespace

Result<std::unique_ptr<InstanceLink>> InstanceLink::create(const std::string& prefix, const FdStore& store,
                                                           const Custody& custody) {
  auto pair = seqpacket_pair();
  if (!pair) return forward(std::move(pair));
  auto vitals = create_memfd("bulkhead-vitals", kVitalsBytes);
  if (!vitals) return forward(std::move(vitals));
  UniqueFd wake(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!wake.valid()) return os_failure("cannot create an eventfd");
  auto link = adopt(prefix, store, custody, {std::move(pair->first), std::move(*vitals), std::move(wake)});
  if (!link) return link;
  (*link)->instance_end_ = std::move(pair->second);
  (*link)->vitals().version.store(kVitalsVersion);
  if (auto parked = (*link)->park(); !parked) return forward(std::move(parked));
  return link;
}

Result<std::unique_ptr<InstanceLink>> InstanceLink::adopt(const std::string& prefix, const FdStore& store,
                                                          const Custody& custody, Descriptors descriptors) {
  auto page = Mapping::map(descriptors.vitals.borrow(), kVitalsBytes);
  if (!page) return forward(std::move(page), "vitals");
  std::unique_ptr<InstanceLink> link(new InstanceLink(prefix, store, custody));
  link->socket_ = std::move(descriptors.socket);
  link->vitals_ = std::move(descriptors.vitals);
  link->wake_ = std::move(descriptors.wake);
  link->vitals_page_ = std::move(*page);
  return link;
}

InstanceLink::~InstanceLink() {
  if (loop_ == nullptr) return;
  loop_->unwatch(socket_.borrow());
  loop_->cancel(retry_);
  loop_->cancel(pause_);
}

Status InstanceLink::park() const {
  if (auto parked = store_->park(prefix_ + "/vitals", vitals_.borrow()); !parked) return parked;
  if (auto parked = store_->park(prefix_ + "/wake", wake_.borrow()); !parked) return parked;
  link_half_parked.pass();
  return store_->park(prefix_ + "/contract", socket_.borrow());
}

void InstanceLink::forget() const {
  for (const char* part : {"/contract", "/wake", "/vitals"}) store_->remove(prefix_ + part);
}

Status InstanceLink::start(EventLoop& loop, const ManifestMemory& manifest, std::uint64_t source,
                           Handlers handlers) {
  loop_ = &loop;
  manifest_ = &manifest;
  source_ = source;
  handlers_ = std::move(handlers);
  return listen();
}

Status InstanceLink::listen() {
  const std::uint32_t events = behind_ ? EPOLLIN | EPOLLOUT : EPOLLIN;
  return loop_->watch(socket_.borrow(), events, [this](std::uint32_t happened) { on_event(happened); });
}

void InstanceLink::send(contract::ToInstance message) {
  enqueue({std::move(message), false, {}});
}

void InstanceLink::send_welcome(contract::Welcome welcome) {
  Outgoing outgoing;
  *outgoing.message.mutable_welcome() = std::move(welcome);
  outgoing.welcome = true;
  enqueue(std::move(outgoing));
}

void InstanceLink::send_item(const std::string& name, const std::string& kind) {
  Outgoing outgoing;
  outgoing.message.mutable_deposited()->set_name(name);
  outgoing.message.mutable_deposited()->set_kind(kind);
  outgoing.item = name;
  enqueue(std::move(outgoing));
}

void InstanceLink::enqueue(Outgoing outgoing) {
  outgoing_.push_back(std::move(outgoing));
  if (outgoing_.size() == 1) flush();
}

Status InstanceLink::send_now(const Outgoing& outgoing) const {
  if (outgoing.welcome)
    return send_packet(socket_.borrow(), outgoing.message, {vitals_.borrow(), wake_.borrow()});
  if (outgoing.item.empty()) return send_packet(socket_.borrow(), outgoing.message);
  const HeldItem* item = custody_->find(outgoing.item);
  if (item == nullptr) return {};  // withdrawn before its turn came
  return send_packet(socket_.borrow(), outgoing.message, {item->fd.borrow()});
}

void InstanceLink::flush() {
  while (!outgoing_.empty()) {
    const Status sent = send_now(outgoing_.front());
    if (!sent) return cannot_send(sent.error());
    outgoing_.pop_front();
  }
  behind_ = false;
  // Fails only for a socket that is not watched any more.
  (void)loop_->change(socket_.borrow(), EPOLLIN);
}

void InstanceLink::cannot_send(const Error& error) {
  const bool too_many_under_way = error.os_error() == ETOOMANYREFS;
  if (error.kind() != ErrorKind::kExhausted && !too_many_under_way) {
    outgoing_.clear();  // the reading side notices a closed socket too and reports it
    return;
  }
  if (outgoing_.size() > kMaxOutgoing) return lose("it does not read its messages");
  if (too_many_under_way && retry_ == 0) {
    // Too many descriptors are in sockets of this user: no event tells when there are fewer.
    retry_ = loop_->after(kRetryDelay, [this] {
      retry_ = 0;
      flush();
    });
  } else if (!too_many_under_way) {
    (void)loop_->change(socket_.borrow(), EPOLLIN | EPOLLOUT);
  }
  if (!std::exchange(behind_, true)) handlers_.persist();
}

void InstanceLink::on_event(std::uint32_t events) {
  if ((events & EPOLLOUT) != 0) flush();
  if ((events & ~std::uint32_t{EPOLLOUT}) == 0) return;
  const std::int64_t patience = handlers_.patience ? handlers_.patience() : 0;
  if (patience > 0) return pause(patience);
  receive();
}

// Unwatched meanwhile: a closed socket would be reported all the time.
void InstanceLink::pause(std::int64_t ns) {
  loop_->unwatch(socket_.borrow());
  pause_ = loop_->after(ns, [this] {
    pause_ = 0;
    if (auto listening = listen(); !listening) return lose(listening.error().message());
    receive();
  });
}

void InstanceLink::receive() {
  const std::weak_ptr<bool> alive = alive_;
  for (int i = 0; i < kMessagesPerTurn && !alive.expired(); ++i) {
    if (!receive_one()) return;
  }
}

// False when there is nothing more to receive, or this object is gone.
bool InstanceLink::receive_one() {
  auto packet = peek_packet(socket_.borrow());
  if (!packet && packet.error().kind() == ErrorKind::kInvalid) return true;  // over the limits: consumed
  if (!packet) {
    lose("its contract is closed: " + packet.error().message());
    return false;
  }
  if (!packet->has_value()) return false;
  message_before_handling.pass();
  contract::FromInstance message;
  const std::weak_ptr<bool> alive = alive_;
  const ManifestMemory& manifest = *manifest_;
  const bool deadly = manifest.deaths_of(source_) >= kMaxDeaths;
  manifest.begin_message(source_);
  if (!deadly && message.ParseFromString((*packet)->bytes))
    handlers_.message(message, std::move((*packet)->fds));
  message_before_discard.pass();
  if (!alive.expired()) {
    handlers_.persist();
    discard_packet(socket_.borrow());
  }
  manifest.end_message();
  message_discarded.pass();
  return !alive.expired();
}

void InstanceLink::hear_out() {
  if (loop_ == nullptr) return;
  loop_->cancel(std::exchange(pause_, 0));
  receive();
}

void InstanceLink::lose(const std::string& why) {
  loop_->unwatch(socket_.borrow());
  loop_->cancel(std::exchange(pause_, 0));
  outgoing_.clear();
  const auto lost = handlers_.lost;  // it may destroy this object
  lost(why);
}

void InstanceLink::ping(std::uint64_t count, std::int64_t now_ns) {
  vitals().ping_ns.store(now_ns);
  vitals().ping.store(count);
  const std::uint64_t one = 1;
  // Full only after 2^64 - 2 unread pings.
  (void)!::write(wake_.get(), &one, sizeof one);
}

}  // namespace bulkhead::supervisor
