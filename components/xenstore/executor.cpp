#include "components/xenstore/executor.h"

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {
namespace {

// What may wait for one client while too much waits for all.
constexpr std::uint64_t kLeanShare = std::uint64_t{16} * 1024;

}  // namespace

Executor::Executor(Custody& custody, Connections& connections, Replica& replica, Bounds bounds)
    : custody_(custody),
      connections_(connections),
      replica_(replica),
      bounds_(bounds),
      commit_(custody, connections),
      delivery_(connections),
      touched_in_(connections.capacity()) {}

bool Executor::has_room(std::uint32_t slot) const {
  // A quarter of the buffer: a reply always fits, and a client that reads slowly is slowed down before its
  // own events overflow.
  const std::uint64_t quarter = custody_.geometry().out_bytes / 4;
  if (connections_.room(slot) < quarter) return false;
  const bool lean = connections_.unsent_of_all() > bounds_.unsent_of_all / 2;
  return connections_.unsent(slot) < (lean ? std::min(kLeanShare, quarter) : quarter);
}

// How much may wait for a client with this event. Replies have their own bound, has_room().
std::uint64_t Executor::event_bound(const Slot& slot) const {
  const std::uint64_t all = custody_.geometry().out_bytes;
  if (connections_.unsent_of_all() > bounds_.unsent_of_all) return std::min(2 * kLeanShare, all);
  if (slot.domid == 0) return all;
  const std::uint64_t limit = replica_.engine().limits_of(slot.domid).undelivered;
  return limit == 0 ? all : std::min(limit, all);
}

Status Executor::redo() {
  const Status redone = commit_.redo();
  if (!redone) commit_.distrust();
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    const Slot& slot = connections_.slot(i);
    if (slot.state.load() == SlotState::kOpen && slot.overflowed.load() != 0) overflowed_.push_back(i);
  }
  return redone;
}

void Executor::begin(std::uint32_t slot) {
  ++input_number_;
  congested_ = false;
  entries_.clear();
  current_ = slot;
  touch(slot);
}

// For an input that comes from no connection.
void Executor::begin_without_slot(std::uint32_t subject) {
  ++input_number_;
  congested_ = false;
  entries_.clear();
  current_ = subject;
}

void Executor::touch(std::uint32_t slot) {
  if (touched_in_[slot] == input_number_) return;
  touched_in_[slot] = input_number_;
  const Slot& s = connections_.slot(slot);
  entries_.push_back(
      {slot, s.state.load(std::memory_order_relaxed), s.parsed.load(std::memory_order_relaxed), 0});
}

// In custody too: a successor must not go on with a client that misses something.
void Executor::overflow(std::uint32_t slot) {
  connections_.slot(slot).overflowed.store(1);
  overflowed_.push_back(slot);
}

std::uint64_t Executor::journal(InputKind kind, std::initializer_list<std::span<const std::byte>> parts) {
  const std::uint64_t tail = custody_.journal().prepare(static_cast<std::uint32_t>(kind), current_, parts);
  kRequestJournalled.pass();
  return tail;
}

void Executor::finish(std::uint64_t journal_tail, std::uint64_t next_serial) {
  for (CommitEntry& entry : entries_) {
    entry.produced = connections_.staged(entry.slot);
    entry.out_crc = connections_.staged_crc(entry.slot);
  }
  commit_.make(entries_, journal_tail, next_serial);
  replica_.advance(journal_tail);
  for (const CommitEntry& entry : entries_) {
    delivery_.produced(entry.slot);
    woken_.push_back(entry.slot);
  }
}

void Executor::connect(std::uint32_t slot, std::uint32_t domid, const Ring* ring) {
  connections_.prepare(slot);
  const std::uint64_t serial = next_serial();
  Slot& s = connections_.slot(slot);
  s.serial.store(serial);
  s.domid = domid;
  if (ring != nullptr) {
    s.ring_port = ring->port;
    s.introduction = ring->introduction;
    s.request_base = ring->request_base;
    s.response_base = ring->response_base;
    s.strikes.store(ring->strikes);
    kRingPrepared.pass();
  }
  begin(slot);
  entries_[0].state = SlotState::kOpen;
  replica_.engine().connect(slot, domid);
  const ConnectInput input{serial, domid, 0};
  finish(journal(InputKind::kConnect, {std::as_bytes(std::span(&input, 1))}), serial + 1);
  delivery_.opened(slot);
}

void Executor::disconnect(std::uint32_t slot) {
  begin(slot);
  entries_[0].state = SlotState::kClosing;
  replica_.engine().disconnect(slot, *this);
  std::erase(overflowed_, slot);  // whoever gets the slot next has done nothing
  finish(journal(InputKind::kDisconnect, {}), next_serial());
  delivery_.closed(slot);
}

void Executor::reset(std::uint32_t slot) {
  begin(slot);
  entries_[0].parsed = connections_.slot(slot).received.load(std::memory_order_relaxed);
  replica_.engine().reset(slot, *this);
  std::erase(overflowed_, slot);
  finish(journal(InputKind::kReset, {}), next_serial());
}

void Executor::domain_shut_down(std::uint32_t domid) {
  begin_without_slot(domid);
  replica_.engine().domain_shut_down(domid, *this);
  finish(journal(InputKind::kDomainShutDown, {}), next_serial());
}

void Executor::domain_gone(std::uint32_t domid) {
  begin_without_slot(domid);
  replica_.engine().domain_gone(domid, *this);
  finish(journal(InputKind::kDomainGone, {}), next_serial());
}

void Executor::execute(std::uint32_t slot, const Request& request) {
  kRequestParsed.pass();
  begin(slot);
  entries_[0].parsed += sizeof request.header + request.payload.size();
  current_header_ = request.header;
  const Outcome outcome = replica_.engine().execute(slot, request, *this);
  kRequestExecuted.pass();
  std::uint64_t tail = custody_.journal().tail();
  if (outcome.mutated) {
    tail = journal(InputKind::kRequest, {std::as_bytes(std::span(&request.header, 1)), request.payload});
  }
  finish(tail, next_serial());
}

Status Executor::set_limits(std::span<const LimitChange> changes) {
  if (!can_journal()) return failure(ErrorKind::kExhausted, "the journal is full until the next snapshot");
  begin_without_slot(0);
  if (auto set = replica_.engine().set_limits(changes, *this); !set) return set;
  kRequestExecuted.pass();
  finish(journal(InputKind::kLimits, {std::as_bytes(changes)}), next_serial());
  return {};
}

void Executor::refuse(std::uint32_t slot, const Request& request, ErrorCode error) {
  begin(slot);
  entries_[0].parsed += sizeof request.header + request.payload.size();
  current_header_ = request.header;
  reply(kError, as_bytes(error_name(error)));
  finish(custody_.journal().tail(), next_serial());
}

void Executor::checkpoint(std::uint64_t incarnation) {
  begin_without_slot(0);
  const CheckpointInput input{incarnation, replica_.engine().fingerprint()};
  finish(journal(InputKind::kCheckpoint, {std::as_bytes(std::span(&input, 1))}), next_serial());
  kCheckpointWritten.pass();
}

void Executor::reply(std::uint32_t type, std::span<const std::byte> payload) {
  if (deadly_) std::abort();
  const Header header{type, current_header_.request_id, current_header_.transaction_id,
                      static_cast<std::uint32_t>(payload.size())};
  // Fits: has_room() was asked, and the engine replies before it fires the client's own events... or after
  // them, in which case the client did not read a quarter of its buffer's worth of events and is cut off like
  // any other.
  if (!connections_.stage(current_, header, payload)) overflow(current_);
}

void Executor::event(ConnectionId to, std::span<const std::byte> payload) {
  const Header header{kWatchEvent, 0, 0, static_cast<std::uint32_t>(payload.size())};
  touch(to);
  const Slot& slot = connections_.slot(to);
  const std::uint64_t bound = event_bound(slot);
  const std::uint64_t waiting = connections_.unsent(to) + sizeof header + payload.size();
  congested_ = congested_ || waiting > bound / 2;
  if (waiting > bound || !connections_.stage(to, header, payload)) overflow(to);
}

std::vector<std::uint32_t> Executor::take_woken() {
  return std::exchange(woken_, {});
}

std::vector<std::uint32_t> Executor::take_overflowed() {
  return std::exchange(overflowed_, {});
}

}  // namespace bulkhead::xenstore
