// The server's half that talks to the ring: what is put into it, and what its completions mean.
#include <poll.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>
#include <utility>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/rehearsal.h"
#include "components/xenstore/server.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::int64_t kAcceptRetry = 100 * kMillisecond;

}  // namespace

// ---- completions ----

void Server::drain_completions() {
  while (const io_uring_cqe* cqe = ring_.peek()) {
    complete(*cqe);
    ring_.take();
  }
}

Ticket Server::ticket(Operation operation, std::uint32_t slot, std::uint64_t base) const {
  return {operation, static_cast<std::uint8_t>(incarnation_), slot, static_cast<std::uint32_t>(base)};
}

void Server::complete(const io_uring_cqe& cqe) {
  const Ticket told = Ticket::decode(cqe.user_data);
  quarantine_.idle();
  switch (told.operation) {
    case Operation::kIgnored:
      return;
    case Operation::kReceive:
      quarantine_.handling(told.subject);
      return received(told, cqe.res);
    case Operation::kSend:
      quarantine_.handling(told.subject);
      return sent(told, cqe.res);
    case Operation::kWritable:
      quarantine_.handling(told.subject);
      return writable(told);
    case Operation::kAccept:
      return accepted(told, cqe.res);
    case Operation::kClose:
      return closed(told, cqe.res);
    case Operation::kEvents:
      if (!own(told)) return;
      take_events();
      if ((cqe.flags & IORING_CQE_F_MORE) == 0) arm_poll(Operation::kEvents, rings_.events());
      return;
    case Operation::kWake:
      if (!own(told)) return;
      if (faults_.heartbeat_dropped()) {
        instance_.ignore_ping();
      } else {
        instance_.answer_ping();
      }
      if ((cqe.flags & IORING_CQE_F_MORE) == 0) arm_poll(Operation::kWake, instance_.wake_fd());
      return;
    case Operation::kContract:
      if (!own(told)) return;
      if (auto pumped = instance_.pump([this](const auto& order) { obey(order); }); !pumped) {
        spdlog::error("the core is gone for good ({}): ending", pumped.error().message());
        ended_ = true;
      }
      if ((cqe.flags & IORING_CQE_F_MORE) == 0) arm_poll(Operation::kContract, instance_.contract_fd());
      return;
  }
}

void Server::received(const Ticket& told, int result) {
  kReceiveCompleted.pass();
  Slot& slot = connections_.slot(told.subject);
  const std::uint64_t before = slot.received.load(std::memory_order_relaxed);
  // A completion is seen twice if its reader died before taking it; the base tells whether it has been
  // counted.
  if (result > 0 && told.matches(before) && connections_.open_input(told.subject)) {
    slot.received.store(before + static_cast<std::uint64_t>(result));
  } else if (result > 0 && (told.matches(before) || own(told))) {
    slot.damaged.store(1);
  }
  kReceiveCounted.pass();
  if (!own(told)) return;
  flights_[told.subject].receiving = false;
  const bool retry = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
  if (result <= 0 && !retry) slot.end_of_input.store(1);
  if (slot.state.load() == SlotState::kClosing) return begin_close(told.subject);
  queue_.add(told.subject);
  if (slot.damaged.load(std::memory_order_relaxed) != 0) return cut_damaged(told.subject, "its input");
  mark_flush(told.subject);
}

void Server::sent(const Ticket& told, int result) {
  kSendCompleted.pass();
  Slot& slot = connections_.slot(told.subject);
  const std::uint64_t before = slot.sent.load(std::memory_order_relaxed);
  if (result > 0 && told.matches(before))
    connections_.set_sent(told.subject, before + static_cast<std::uint64_t>(result));
  kSendCounted.pass();
  executor_.delivery().sent(told.subject);
  if (!own(told)) return;
  Flight& flight = flights_[told.subject];
  flight.sending = false;
  const bool retry = result == -EAGAIN || result == -EINTR || result == -ECANCELED;
  if (result < 0 && !retry) flight.broken = true;
  flight.full = result == -EAGAIN;
  if (result > 0 && !answered_) {
    answered_ = true;
    instance_.vitals().first_answer_ns.store(monotonic_ns());
  }
  if (slot.state.load() == SlotState::kClosing) return begin_close(told.subject);
  if (!connections_.output_pending(told.subject)) connections_.shrink_output(told.subject);
  unthrottle(slot.domid);
  queue_.add(told.subject);  // there may be room again for requests that waited
  mark_flush(told.subject);
}

void Server::writable(const Ticket& told) {
  if (!own(told)) return;
  flights_[told.subject].sending = flights_[told.subject].full = false;
  if (connections_.slot(told.subject).state.load() == SlotState::kClosing) return begin_close(told.subject);
  mark_flush(told.subject);
}

void Server::accepted(const Ticket& told, int result) {
  kAcceptCompleted.pass();
  if (own(told)) accepting_.reset();
  if (result < 0 && !own(told)) {
    // Waiting accepts are woken one at a time, and the dead one's may have taken a wake-up meant for ours:
    // look again.
    if (accepting_) cancel(Operation::kAccept, *accepting_, 0);
    return;
  }
  if (result < 0) {
    if (result != -ECANCELED && result != -EAGAIN && result != -EINTR && result != -ECONNABORTED) {
      spdlog::warn("cannot accept a client: {} (trying again)", std::generic_category().message(-result));
      accept_again_ns_ = monotonic_ns() + kAcceptRetry;
    }
    return;
  }
  // Committed by a predecessor that died before taking the completion?
  if (connections_.slot(told.subject).state.load() != SlotState::kFree) return;
  executor_.connect(told.subject, domain_of_new_client(custody_.control(), monotonic_ns()));
  kAcceptCommitted.pass();
  flights_[told.subject] = Flight{.flushing = flights_[told.subject].flushing};
  mark_flush(told.subject);
}

void Server::closed(const Ticket& told, int /*result*/) {
  // Whatever the result, the table has nothing there any more: EBADF means a predecessor's close had come
  // through.
  kCloseCompleted.pass();
  Slot& slot = connections_.slot(told.subject);
  if (own(told)) flights_[told.subject].closing = false;
  if (slot.state.load() != SlotState::kClosing || !told.matches(slot.serial.load())) return;
  connections_.set_sent(told.subject, slot.produced.load());
  free_again(told.subject);
}

void Server::free_again(std::uint32_t index) {
  connections_.shrink_output(index);
  connections_.slot(index).state.store(SlotState::kFree);
  maybe_free_ = std::min(maybe_free_, index);
  full_ = false;
  domains_changed_ = domains_changed_ || unattached_;
}

// ---- submission ----

void Server::mark_flush(std::uint32_t slot) {
  if (flights_[slot].flushing) return;
  flights_[slot].flushing = true;
  flush_.push_back(slot);
}

void Server::flush() {
  for (const std::uint32_t slot : std::exchange(flush_, {})) {
    flights_[slot].flushing = false;
    quarantine_.handling(slot);
    if (connections_.slot(slot).state.load(std::memory_order_relaxed) != SlotState::kOpen) continue;
    if (connections_.slot(slot).is_ring()) {
      exchange(slot);
      continue;
    }
    arm_send(slot);
    arm_receive(slot);
  }
  arm_accept();
}

// Bytes are checked at the instant they are handed to the kernel, so none of them wait there for a client
// that does not read: an operation that waits would send what they have become by then.
void Server::arm_send(std::uint32_t slot) {
  Flight& flight = flights_[slot];
  if (flight.sending || flight.broken || !connections_.output_pending(slot)) return;
  if (flight.full) return arm_writable(slot);
  const auto bytes = connections_.send_source(slot);
  if (!connections_.output_sound(slot, bytes.size())) {
    queue_.add(slot);  // so that those whom its end concerns are told
    return cut_damaged(slot, "its output");
  }
  const std::uint64_t base = flight.send_base = connections_.slot(slot).sent.load(std::memory_order_relaxed);
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_send(sqe, static_cast<int>(slot), bytes.data(), bytes.size(), MSG_NOSIGNAL | MSG_DONTWAIT);
  sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = ticket(Operation::kSend, slot, base).encode();
  flight.sending = true;
  kSendQueued.pass();
}

void Server::arm_writable(std::uint32_t slot) {
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_poll_add(sqe, static_cast<int>(slot), POLLOUT);
  sqe->flags |= IOSQE_FIXED_FILE;
  Flight& flight = flights_[slot];
  flight.send_base = connections_.slot(slot).sent.load(std::memory_order_relaxed);
  sqe->user_data = ticket(Operation::kWritable, slot, flight.send_base).encode();
  flight.sending = true;
}

void Server::arm_receive(std::uint32_t slot) {
  Flight& flight = flights_[slot];
  if (flight.receiving || flight.broken ||
      connections_.slot(slot).end_of_input.load(std::memory_order_relaxed) != 0) {
    return;
  }
  const auto space = connections_.receive_space(slot);
  if (space.empty()) return;
  const std::uint64_t base = flight.receive_base =
      connections_.slot(slot).received.load(std::memory_order_relaxed);
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_recv(sqe, static_cast<int>(slot), space.data(), space.size(), 0);
  sqe->flags |= IOSQE_FIXED_FILE;
  sqe->user_data = ticket(Operation::kReceive, slot, base).encode();
  flight.receiving = true;
}

void Server::arm_accept() {
  if (accepting_) return;
  if (accept_again_ns_ != 0) {
    if (monotonic_ns() < accept_again_ns_) return;
    accept_again_ns_ = 0;
  }
  const CustodyEntry* listener = instance_.custody("listener");
  if (listener == nullptr || full_) return;
  if (!executor_.can_journal()) {
    accept_again_ns_ = monotonic_ns() + kAcceptRetry;
    return;
  }
  std::uint32_t& slot = maybe_free_;
  while (slot < connections_.capacity() && connections_.slot(slot).state.load() != SlotState::kFree) ++slot;
  full_ = slot == connections_.capacity();
  if (full_) return;  // clients wait in the listener's backlog
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_accept_direct(sqe, listener->fd.get(), nullptr, nullptr, 0, slot);
  sqe->user_data = ticket(Operation::kAccept, slot, 0).encode();
  accepting_ = slot;
}

void Server::arm_close(std::uint32_t slot) {
  flights_[slot].closing = true;
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_close_direct(sqe, slot);
  sqe->user_data = ticket(Operation::kClose, slot, connections_.slot(slot).serial.load()).encode();
}

void Server::arm_poll(Operation operation, BorrowedFd fd) {
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_poll_multishot(sqe, fd.get(), POLLIN);
  sqe->user_data = ticket(operation, 0, incarnation_).encode();
}

// Of every predecessor: the kernel leaves a dead process's waiting operations in the ring. They would take no
// more bytes, but they would pile up, and hold on to sockets.
void Server::cancel_everything() {
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_cancel64(sqe, 0, IORING_ASYNC_CANCEL_ALL | IORING_ASYNC_CANCEL_ANY);
  sqe->user_data = 0;
  (void)ring_.submit();
}

void Server::cancel(Operation operation, std::uint32_t slot, std::uint64_t base) {
  io_uring_sqe* sqe = ring_.entry();
  io_uring_prep_cancel64(sqe, ticket(operation, slot, base).encode(), 0);
  sqe->user_data = 0;
}

}  // namespace bulkhead::xenstore
