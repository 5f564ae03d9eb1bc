#include "runtime/adopted_ring.h"

#include <sched.h>
#include <sys/mman.h>

#include <cstring>
#include <utility>

#include "runtime/clock.h"

namespace bulkhead {

Result<AdoptedRing> AdoptedRing::map(BorrowedFd ring, const std::string& params) {
  io_uring_params made_with{};
  if (params.size() != sizeof made_with)
    return failure(ErrorKind::kInvalid, "ring parameters have the wrong size");
  std::memcpy(&made_with, params.data(), sizeof made_with);
  AdoptedRing adopted;
  const int rc = io_uring_queue_mmap(ring.get(), &made_with, &adopted.ring_);
  if (rc != 0) return os_failure("cannot map the ring", -rc);
  // io_uring_queue_mmap leaves this out; the waiting calls need it.
  adopted.ring_.features = made_with.features;
  adopted.mapped_ = true;
  return adopted;
}

AdoptedRing::AdoptedRing(AdoptedRing&& other) noexcept
    : ring_(other.ring_), mapped_(std::exchange(other.mapped_, false)) {}

AdoptedRing::~AdoptedRing() {
  if (!mapped_) return;
  // Not io_uring_queue_exit: that would close the descriptor, which is not ours.
  ::munmap(ring_.sq.sqes, ring_.sq.ring_entries * sizeof(io_uring_sqe));
  if (ring_.cq.ring_ptr != nullptr && ring_.cq.ring_ptr != ring_.sq.ring_ptr) {
    ::munmap(ring_.cq.ring_ptr, ring_.cq.ring_sz);
  }
  ::munmap(ring_.sq.ring_ptr, ring_.sq.ring_sz);
}

void AdoptedRing::adopt() {
  const unsigned tail = *ring_.sq.ktail;
  for (unsigned i = io_uring_smp_load_acquire(ring_.sq.khead); i != tail; ++i) {
    io_uring_sqe* orphan = &ring_.sq.sqes[ring_.sq.array[i & ring_.sq.ring_mask] & ring_.sq.ring_mask];
    io_uring_prep_nop(orphan);
    orphan->user_data = 0;
  }
  ring_.sq.sqe_head = ring_.sq.sqe_tail = tail;
}

io_uring_sqe* AdoptedRing::entry() {
  io_uring_sqe* sqe = io_uring_get_sqe(&ring_);
  while (sqe == nullptr) {
    // Whatever hinders it passes, and nothing can be done here until it has.
    if (auto submitted = submit(); !submitted) ::sched_yield();
    sqe = io_uring_get_sqe(&ring_);
  }
  return sqe;
}

Status AdoptedRing::submit() {
  const int rc = io_uring_submit(&ring_);
  // EBUSY and EAGAIN: the kernel wants completions taken first; EINTR: nothing was lost. The entries stay
  // queued.
  if (rc < 0 && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY)
    return os_failure("cannot submit to the ring", -rc);
  return {};
}

Status AdoptedRing::submit_and_wait(std::int64_t deadline_ns) {
  __kernel_timespec wait{};
  __kernel_timespec* timeout = nullptr;
  if (deadline_ns != 0) {
    const std::int64_t left = std::max<std::int64_t>(0, deadline_ns - monotonic_ns());
    wait.tv_sec = left / kSecond;
    wait.tv_nsec = left % kSecond;
    timeout = &wait;
  }
  io_uring_cqe* cqe = nullptr;
  const int rc = io_uring_submit_and_wait_timeout(&ring_, &cqe, 1, timeout, nullptr);
  if (rc < 0 && rc != -ETIME && rc != -EINTR && rc != -EAGAIN && rc != -EBUSY) {
    return os_failure("cannot wait on the ring", -rc);
  }
  return {};
}

io_uring_cqe* AdoptedRing::peek() {
  io_uring_cqe* cqe = nullptr;
  return io_uring_peek_cqe(&ring_, &cqe) == 0 ? cqe : nullptr;
}

}  // namespace bulkhead
