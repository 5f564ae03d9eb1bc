// The server's half that executes requests: whose turn it is, who has to wait, who is cut off.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/rehearsal.h"
#include "components/xenstore/server.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

// A slice: what one client gets before the others have their turn, in requests and in time (looked at now and
// then only, since asking for the time costs as much as a small request).
constexpr int kSliceRequests = 64;
constexpr int kRequestsPerLook = 8;
constexpr std::uint64_t kSmallRequest = 256;  // bytes
constexpr std::int64_t kSliceNs = 50 * kMicrosecond;
// How long those that want more than a slice may go on before the ring is looked at again.
constexpr std::int64_t kWaitingNs = 100 * kMicrosecond;
// A guest whose requests make events for somebody who does not keep up: how long it waits after each.
constexpr std::int64_t kCongestionPause = 10 * kMillisecond;
constexpr std::int64_t kFindingInterval = kSecond;
constexpr std::int64_t kMaxDelay = kSecond;

void sleep_for(std::int64_t ns) {
  const timespec delay{ns / kSecond, ns % kSecond};
  ::nanosleep(&delay, nullptr);
}

// Does it change the tree that others see? Within a transaction only the end does.
bool changes_tree(const Header& header) {
  return header.type == kTransactionEnd || (header.transaction_id == 0 && changes_node(header.type));
}

void add_one(std::atomic<std::uint64_t>& counter) {
  counter.store(counter.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
}

}  // namespace

void Server::execute_fresh() {
  if (queue_.empty()) return;
  instance_.vitals().oldest_pending_ns.store(monotonic_ns(), std::memory_order_relaxed);
  for (const std::uint32_t slot : queue_.take_fresh()) run_slice(slot);
  settle();
}

void Server::execute_waiting() {
  const std::int64_t until = monotonic_ns() + kWaitingNs;
  do {
    run_slice(*queue_.take_waiting());
  } while (queue_.anyone_waiting() && monotonic_ns() < until);
  settle();
}

void Server::settle() {
  for (const std::uint32_t slot : executor_.take_overflowed()) cut(slot, "does not read its events");
  for (const std::uint32_t slot : executor_.take_woken()) mark_flush(slot);
  if (queue_.empty()) instance_.vitals().oldest_pending_ns.store(0, std::memory_order_relaxed);
}

void Server::run_slice(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (slot.state.load(std::memory_order_relaxed) != SlotState::kOpen) return;
  quarantine_.handling(index);
  if (!connections_.output_positions_sound(index)) return cut_damaged(index, "its output");
  if (!connections_.open_input(index)) return cut_damaged(index, "its input");
  if (execute_some(index)) queue_.add_behind(index);
  if (slot.state.load(std::memory_order_relaxed) == SlotState::kOpen) connections_.seal_input(index);
}

// True if the client has more that could be executed at once.
bool Server::execute_some(std::uint32_t slot) {
  const std::int64_t until = monotonic_ns() + kSliceNs;
  for (int i = 1; i <= kSliceRequests; ++i) {
    const std::uint64_t parsed = connections_.slot(slot).parsed.load(std::memory_order_relaxed);
    const Next next = execute_next(slot);
    if (next != Next::kExecuted) return next == Next::kLater;
    // A long one may have been a deep path, each of whose nodes had to be made.
    const bool large =
        connections_.slot(slot).parsed.load(std::memory_order_relaxed) - parsed > kSmallRequest;
    const bool look = i % kRequestsPerLook == 0 || large || executor_.touched_many();
    if (look && monotonic_ns() >= until) return true;
  }
  return true;
}

Server::Next Server::execute_next(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  if (slot.state.load(std::memory_order_relaxed) != SlotState::kOpen) return Next::kNothing;
  quarantine_.handling(index);
  Request request{};
  switch (connections_.next_message(index, request)) {
    case Connections::Input::kOversized:
      cut(index,
          "sent a message of " + std::to_string(request.header.length) + " bytes, the protocol allows 4096",
          DomainRing::Fault::kProtocol);
      return Next::kNothing;
    case Connections::Input::kIncomplete: {
      if (slot.is_ring()) return Next::kNothing;
      const bool output_done = flights_[index].broken || !connections_.output_pending(index);
      if (flights_[index].broken || (slot.end_of_input.load() != 0 && output_done)) begin_close(index);
      return Next::kNothing;
    }
    case Connections::Input::kMessage:
      break;
  }
  if (flights_[index].broken) {  // nobody reads: the room is free
    connections_.set_sent(index, slot.produced.load());
    executor_.delivery().sent(index);
  }
  if (!executor_.has_room(index)) return Next::kNothing;  // until the client reads
  if (slot.domid != 0 && throttle(index, request.header)) return Next::kNothing;
  const Admission admission = admit(request.header);
  if (admission == Admission::kWait) return Next::kLater;
  add_one(instance_.vitals().work_arrived);
  if (const std::int64_t delay = faults_.request_delay_ns(); delay > 0) sleep_for(std::min(delay, kMaxDelay));
  if (admission == Admission::kRefuse) {
    executor_.refuse(index, request, ErrorCode::kNoSpace);
  } else {
    execute_one(index, request);
  }
  add_one(instance_.vitals().work_done);
  return Next::kExecuted;
}

void Server::execute_one(std::uint32_t slot, const Request& request) {
  const bool poisonous = poison_armed(custody_.control());
  if (poisonous && poison_of(custody_.control(), request, monotonic_ns()) == Poison::kConnection) {
    suffer(Poison::kConnection);
  }
  quarantine_.executing(slot);
  if (poisonous) suffer_poison(request);
  if (request.header.type == kIntroduce && rings_.served() && connections_.slot(slot).domid == 0 &&
      !can_introduce(request)) {
    executor_.refuse(slot, request, ErrorCode::kInvalid);
  } else {
    executor_.execute(slot, request);
  }
  if (executor_.take_domains_changed()) settle_domains();
  if (request.header.type == kControl || request.header.type == kSetQuota) unthrottle_all();
  if (connections_.slot(slot).domid == 0) return;
  if (executor_.congested()) delay(slot, monotonic_ns() + kCongestionPause);
}

void Server::suffer_poison(const Request& request) {
  const Poison poison = poison_of(custody_.control(), request, monotonic_ns());
  if (poison == Poison::kReply) executor_.die_in_next_reply();
  suffer(poison);
}

// Reads never depend on room in the journal.
Server::Admission Server::admit(const Header& header) const {
  const bool room = executor_.can_journal();
  const bool too_large = snapshots_.too_large();
  if (room && !too_large) return Admission::kExecute;
  const Effect effect = effect_of(header.type, header.transaction_id);
  if (effect == Effect::kNone || (room && effect == Effect::kShrinks)) return Admission::kExecute;
  return too_large ? Admission::kRefuse : Admission::kWait;  // until the snapshot being written is complete
}

// A client of a guest that has to wait: until its domain has read replies, or until it may write again.
bool Server::throttle(std::uint32_t index, const Header& header) {
  Flight& flight = flights_[index];
  if (flight.delayed) return true;
  const std::uint32_t domid = connections_.slot(index).domid;
  const std::uint32_t outstanding = replica_.engine().limits_of(domid).outstanding;
  if (outstanding != 0 && executor_.delivery().of_domain(domid).replies >= outstanding) {
    if (!std::exchange(flight.throttled, true)) throttled_.push_back(index);
    return true;
  }
  if (!changes_tree(header) || replica_.engine().transactions_of(0) == 0) return false;
  const std::int64_t until = write_limit_.admit(domid, monotonic_ns());
  if (until != 0) delay(index, until);
  return until != 0;
}

void Server::unthrottle(std::uint32_t domid) {
  if (domid == 0) return;
  std::erase_if(throttled_, [&](std::uint32_t index) {
    if (connections_.slot(index).domid != domid) return false;
    flights_[index].throttled = false;
    queue_.add(index);
    return true;
  });
}

void Server::unthrottle_all() {
  for (const std::uint32_t index : std::exchange(throttled_, {})) {
    flights_[index].throttled = false;
    queue_.add(index);
  }
}

void Server::delay(std::uint32_t slot, std::int64_t until_ns) {
  if (std::exchange(flights_[slot].delayed, true)) return;
  delayed_.push_back({until_ns, slot});
}

void Server::resume_delayed(std::int64_t now) {
  std::erase_if(delayed_, [&](const Delayed& delayed) {
    if (now < delayed.until_ns) return false;
    flights_[delayed.slot].delayed = false;
    queue_.add(delayed.slot);
    if (connections_.slot(delayed.slot).is_ring()) mark_flush(delayed.slot);
    return true;
  });
}

std::string Server::name_of(std::uint32_t index) const {
  const Slot& slot = connections_.slot(index);
  if (slot.is_ring()) return "domain " + std::to_string(slot.domid);
  std::string name = "connection " + std::to_string(slot.serial.load());
  if (slot.domid != 0) name += " of domain " + std::to_string(slot.domid);
  return name;
}

void Server::cut(std::uint32_t index, const std::string& why, DomainRing::Fault fault) {
  const Slot& slot = connections_.slot(index);
  if (slot.state.load() != SlotState::kOpen || (slot.is_ring() && slot.end_of_input.load() != 0)) return;
  const std::string client = name_of(index);
  spdlog::warn("{} {}: closing it", client, why);
  const std::int64_t now = monotonic_ns();
  if (now >= next_finding_ns_) {
    next_finding_ns_ = now + kFindingInterval;
    (void)instance_.send_finding("client", client + " " + why + ": cut off", client);
  }
  if (slot.is_ring()) return silence(index, fault);
  begin_close(index);
}

// Takeover: ends it as far as custody is concerned.
void Server::drop(std::uint32_t index) {
  if (connections_.slot(index).is_ring()) {
    silence(index, DomainRing::Fault::kCommunication);
  } else {
    executor_.disconnect(index);
  }
}

// Ends a connection step by step: forgotten by the engine (committed), its operations cancelled, then closed
// in the ring.
void Server::begin_close(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  Flight& flight = flights_[index];
  if (slot.state.load() == SlotState::kOpen) {
    executor_.disconnect(index);
    kCloseCommitted.pass();
    unthrottle(slot.domid);  // what waited for this one counts no more
  }
  if (slot.state.load() != SlotState::kClosing || flight.closing) return;
  if (slot.is_ring()) return finish_detach(index);
  if (!flight.receiving && !flight.sending) return arm_close(index);
  if (flight.cancelled) return;
  flight.cancelled = true;
  if (flight.receiving) cancel(Operation::kReceive, index, flight.receive_base);
  if (flight.sending) cancel(flight.full ? Operation::kWritable : Operation::kSend, index, flight.send_base);
}

}  // namespace bulkhead::xenstore
