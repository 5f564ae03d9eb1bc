#include "components/xenstore/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>

#include "bulkhead/v1/bulkhead.pb.h"
#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr int kRequestsPerTurn = 64;  // of one client, before the others have their turn
constexpr std::int64_t kFindingInterval = kSecond;
constexpr std::int64_t kMaxDelay = kSecond;
constexpr std::size_t kSnapshotSlice = std::size_t{64} * 1024;
constexpr std::int64_t kSnapshotRetry = kSecond;  // after one that did not fit
constexpr std::int64_t kFollowerStuck = 50 * kMillisecond;
constexpr std::int64_t kPace = 100 * kMicrosecond;

void sleep_for(std::int64_t ns) {
  const timespec delay{ns / kSecond, ns % kSecond};
  ::nanosleep(&delay, nullptr);
}

}  // namespace

Server::Server(Instance& instance, Custody& custody, Replica& replica, AdoptedRing& ring,
               InstanceFaults& faults)
    : instance_(instance),
      custody_(custody),
      replica_(replica),
      ring_(ring),
      faults_(faults),
      connections_(custody),
      executor_(custody, connections_, replica),
      snapshots_(custody),
      flights_(connections_.capacity()) {}

Status Server::prepare_ring() {
  ring_.adopt();
  cancel_everything();
  io_uring_rsrc_register table{};
  table.nr = connections_.capacity();
  table.flags = IORING_RSRC_REGISTER_SPARSE;
  const int rc =
      io_uring_register(static_cast<unsigned>(ring_.fd()), IORING_REGISTER_FILES2, &table, sizeof table);
  // EBUSY: a predecessor has made the table; it holds the clients' sockets.
  if (rc < 0 && rc != -EBUSY)
    return os_failure("cannot make room for " + std::to_string(table.nr) + " connections", -rc);
  return {};
}

Status Server::take_over(const Takeover& takeover) {
  incarnation_ = takeover.incarnation;
  if (auto ready = prepare_ring(); !ready) return ready;
  kTakeoverAdopted.pass();
  executor_.redo();
  kTakeoverRedone.pass();
  const std::uint64_t executed_before = replica_.executed();
  for (;;) {
    auto more = replica_.follow(~std::uint64_t{0});
    if (!more) return forward(std::move(more), "cannot follow the journal");
    if (!*more) break;
  }
  kTakeoverReplayed.pass();
  forget_connections_of_lost_ring();
  for (std::uint32_t i = 0; i < connections_.capacity(); ++i) {
    connections_.unstage(i);
    if (connections_.slot(i).state.load() != SlotState::kFree) used_slots_ = i + 1;
  }
  // Whatever took effect for the predecessor was posted before the kernel passed its lease on, so it is here
  // now. What it had waiting (cancelled above) may still be reported, as cancelled, any time later.
  drain_completions();
  resume_connections();
  arm_poll(Operation::kWake, instance_.wake_fd());
  arm_poll(Operation::kContract, instance_.contract_fd());
  instance_.vitals().active.store(1);
  report_active(takeover, replica_.executed() - executed_before);
  return {};
}

// The core made a new ring because nobody was left who held the old one: the clients' sockets went with it.
void Server::forget_connections_of_lost_ring() {
  const std::uint64_t generation = instance_.number_setting("ring_generation", 1).value_or(1);
  Control& control = custody_.control();
  if (control.ring_generation == generation) return;
  for (std::uint32_t i = 0; i < connections_.capacity(); ++i) {
    Slot& slot = connections_.slot(i);
    if (slot.state.load() == SlotState::kOpen) executor_.disconnect(i);
    slot.state.store(SlotState::kFree);
  }
  control.ring_generation = generation;
}

void Server::resume_connections() {
  for (std::uint32_t i = 0; i < used_slots_; ++i) {
    switch (connections_.slot(i).state.load()) {
      case SlotState::kFree:
        break;
      case SlotState::kOpen:
        mark_ready(i);
        mark_flush(i);
        break;
      case SlotState::kClosing:
        begin_close(i);
        break;
    }
  }
}

void Server::report_active(const Takeover& takeover, std::uint64_t replayed) {
  contract::FromInstance message;
  auto* active = message.mutable_active();
  active->set_incarnation(takeover.incarnation);
  active->set_acquired_monotonic_ns(takeover.acquired_ns);
  active->set_serving_monotonic_ns(monotonic_ns());
  active->set_predecessor_died(takeover.predecessor_died);
  active->set_replayed(replayed);
  // The core may be dead or slow: serving matters more than telling.
  if (auto sent = instance_.send(message); !sent)
    spdlog::warn("the core was not told: {}", sent.error().message());
  if (auto sent = instance_.send_ready(); !sent)
    spdlog::warn("the core was not told: {}", sent.error().message());
}

Status Server::run() {
  while (!ended_) {
    if (auto turned = turn(); !turned) return turned;
  }
  return {};
}

Status Server::turn() {
  flush();
  auto submitted = ready_.empty() ? ring_.submit_and_wait(next_deadline()) : ring_.submit();
  if (!submitted) return submitted;
  kSubmitted.pass();
  drain_completions();
  execute_ready();
  housekeeping(monotonic_ns());
  return {};
}

std::int64_t Server::next_deadline() const {
  std::int64_t deadline = faults_.next_turn_ns(monotonic_ns());
  if (accept_again_ns_ != 0 && (deadline == 0 || accept_again_ns_ < deadline)) deadline = accept_again_ns_;
  if (snapshots_.too_large() && (deadline == 0 || next_snapshot_ns_ < deadline)) {
    deadline = std::max<std::int64_t>(next_snapshot_ns_, 1);
  }
  if (snapshot_) deadline = 1;  // in the past: look at the ring, do not wait
  return deadline;
}

void Server::mark_ready(std::uint32_t slot) {
  if (flights_[slot].ready) return;
  flights_[slot].ready = true;
  ready_.push_back(slot);
}

void Server::mark_flush(std::uint32_t slot) {
  if (flights_[slot].flushing) return;
  flights_[slot].flushing = true;
  flush_.push_back(slot);
}

void Server::execute_ready() {
  Vitals& vitals = instance_.vitals();
  if (ready_.empty()) return;
  vitals.oldest_pending_ns.store(monotonic_ns(), std::memory_order_relaxed);
  const auto batch = std::exchange(ready_, {});
  for (const std::uint32_t slot : batch) {
    flights_[slot].ready = false;
    if (execute_some(slot)) mark_ready(slot);
  }
  for (const std::uint32_t slot : executor_.take_overflowed()) cut(slot, "does not read its events");
  for (const std::uint32_t slot : executor_.take_woken()) mark_flush(slot);
  if (ready_.empty()) vitals.oldest_pending_ns.store(0, std::memory_order_relaxed);
}

// True if the client has more that could be executed at once.
bool Server::execute_some(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  if (slot.state.load() != SlotState::kOpen) return false;
  Vitals& vitals = instance_.vitals();
  Request request{};
  for (int i = 0; i < kRequestsPerTurn; ++i) {
    const Connections::Input input = connections_.next_message(index, request);
    if (input == Connections::Input::kOversized) {
      cut(index,
          "sent a message of " + std::to_string(request.header.length) + " bytes, the protocol allows 4096");
      return false;
    }
    if (input == Connections::Input::kIncomplete) {
      const bool output_done = flights_[index].broken || !connections_.output_pending(index);
      if (flights_[index].broken || (slot.end_of_input.load() != 0 && output_done)) begin_close(index);
      return false;
    }
    if (flights_[index].broken) slot.sent.store(slot.produced.load());  // nobody reads: the room is free
    if (!executor_.has_room(index)) return false;                       // until the client reads
    const Admission admission = admit(request.header);
    if (admission == Admission::kWait) return true;
    vitals.work_arrived.fetch_add(1, std::memory_order_relaxed);
    if (const std::int64_t delay = faults_.request_delay_ns(); delay > 0)
      sleep_for(std::min(delay, kMaxDelay));
    if (admission == Admission::kRefuse) {
      executor_.refuse(index, request, ErrorCode::kNoSpace);
    } else {
      executor_.execute(index, request);
    }
    vitals.work_done.fetch_add(1, std::memory_order_relaxed);
  }
  return true;
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

void Server::cut(std::uint32_t index, const std::string& why) {
  if (connections_.slot(index).state.load() != SlotState::kOpen) return;
  const std::string client = "connection " + std::to_string(connections_.slot(index).serial.load());
  spdlog::warn("{} {}: closing it", client, why);
  const std::int64_t now = monotonic_ns();
  if (now >= next_finding_ns_) {
    next_finding_ns_ = now + kFindingInterval;
    (void)instance_.send_finding("client", client + " " + why + ": cut off", client);
  }
  begin_close(index);
}

// Ends a connection step by step: forgotten by the engine (committed), its operations cancelled, then closed
// in the ring.
void Server::begin_close(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  Flight& flight = flights_[index];
  if (slot.state.load() == SlotState::kOpen) {
    executor_.disconnect(index);
    kCloseCommitted.pass();
  }
  if (slot.state.load() != SlotState::kClosing || flight.closing) return;
  if (!flight.receiving && !flight.sending) return arm_close(index);
  if (flight.cancelled) return;
  flight.cancelled = true;
  if (flight.receiving) cancel(Operation::kReceive, index, slot.received.load());
  if (flight.sending) cancel(Operation::kSend, index, slot.sent.load());
}

void Server::housekeeping(std::int64_t now) {
  Vitals& vitals = instance_.vitals();
  vitals.heartbeat_ns.store(now, std::memory_order_relaxed);
  vitals.log_position.store(replica_.position(), std::memory_order_relaxed);
  faults_.turn(now);
  ring_doorbell();
  pace(now);
  keep_journal_short();
}

void Server::ring_doorbell() {
  const std::uint64_t tail = custody_.journal().tail();
  if (tail == rung_tail_) return;
  Control& control = custody_.control();
  if (control.follower_waiting.load() == 0) return;
  rung_tail_ = tail;
  control.follower_waiting.store(0);
  const std::uint64_t one = 1;
  (void)!::write(custody_.doorbell().get(), &one, sizeof one);
}

// Without this a standby could be overtaken for ever on a machine that is too busy. One that does not move is
// not waited for.
void Server::pace(std::int64_t now) {
  const std::uint64_t position = custody_.control().follower_position.load(std::memory_order_relaxed);
  if (position != follower_position_) {
    follower_position_ = position;
    follower_moved_ns_ = now;
  }
  const Journal& journal = custody_.journal();
  if (now - follower_moved_ns_ > kFollowerStuck || journal.tail() - position < journal.capacity() / 4) return;
  sleep_for(kPace);
}

void Server::keep_journal_short() {
  Journal& journal = custody_.journal();
  // The standby writes snapshots; what they cover may be overwritten.
  if (const std::uint64_t covered = snapshots_.position(); covered > journal.start()) {
    journal.release(covered);
    kJournalReleased.pass();
  }
  const bool needed = journal.free() < journal.capacity() / 2 || snapshots_.too_large() ||
                      custody_.control().snapshot_wanted.load(std::memory_order_relaxed) != 0;
  if (!snapshot_ && needed && monotonic_ns() >= next_snapshot_ns_) {
    snapshot_ = SnapshotWriting::begin(custody_, replica_.engine(), replica_.position());
  }
  if (!snapshot_) return;
  const bool urgent = journal.free() < 4 * Journal::kMaxRecord;
  const bool known = snapshots_.too_large();
  auto more = snapshot_->step(urgent ? ~std::size_t{0} : kSnapshotSlice);
  if (!more) {
    next_snapshot_ns_ = monotonic_ns() + kSnapshotRetry;
    if (!known) (void)instance_.send_finding("snapshot", more.error().message(), "");
  }
  if (!more || !*more) snapshot_.reset();
}

void Server::obey(const contract::ToInstance& order) {
  if (faults_.obey(order, instance_)) return;
  switch (order.body_case()) {
    case contract::ToInstance::kYield:
    case contract::ToInstance::kStop:
      ended_ = true;
      return;
    case contract::ToInstance::kLogLevel:
      return spdlog::set_level(spdlog::level::from_str(order.log_level().level()));
    case contract::ToInstance::kQuery:
      return answer_query(order.query());
    default:
      return;
  }
}

void Server::answer_query(const contract::Query& query) {
  contract::FromInstance message;
  auto* reply = message.mutable_reply();
  reply->set_id(query.id());
  if (query.what() == "quotas") {
    v1::ListQuotasResponse response;
    for (const QuotaRow& row : replica_.engine().quotas()) {
      auto* quota = response.add_quotas();
      quota->set_component(instance_.welcome().component());
      quota->set_subject("domain " + std::to_string(row.domid));
      quota->set_name(std::string(row.name));
      quota->set_limit(row.limit);
      quota->set_used(row.used);
    }
    reply->set_body(response.SerializeAsString());
  } else {
    reply->set_error("unknown query \"" + query.what() + "\"");
  }
  (void)instance_.send(message);
}

}  // namespace bulkhead::xenstore
