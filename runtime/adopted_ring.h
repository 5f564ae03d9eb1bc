// An io_uring that outlives the processes using it. The core makes it; instances use it one after another.
// Its completion queue is the witness of what the kernel did for an instance that died.
#pragma once

#include <liburing.h>

#include <cstdint>
#include <string>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

class AdoptedRing {
 public:
  // Maps the ring; touches nothing of it, so a standby may do so ahead of time. `params` are the bytes of the
  // struct io_uring_params that the ring was made with.
  static Result<AdoptedRing> map(BorrowedFd ring, const std::string& params);
  AdoptedRing(AdoptedRing&& other) noexcept;
  AdoptedRing& operator=(AdoptedRing&&) = delete;
  AdoptedRing(const AdoptedRing&) = delete;
  AdoptedRing& operator=(const AdoptedRing&) = delete;
  ~AdoptedRing();

  // Becomes the ring's only user. Entries that the predecessor published and the kernel has not taken are
  // turned into no-ops (they carry addresses of another process): what they were for has not happened.
  void adopt();

  // A free submission entry, submitting what is queued if there is none. Valid until the next call.
  io_uring_sqe* entry();
  // Hands queued entries to the kernel. Operations that finish at once have their completion posted when this
  // returns.
  Status submit();
  // Likewise, then waits until there is a completion or `deadline_ns` (monotonic; 0: none) passes.
  Status submit_and_wait(std::int64_t deadline_ns);

  // The oldest completion not yet taken, nullptr if none. It stays visible to a successor until take().
  io_uring_cqe* peek();
  void take() { io_uring_cq_advance(&ring_, 1); }

  int fd() const { return ring_.ring_fd; }

 private:
  AdoptedRing() = default;

  io_uring ring_{};
  bool mapped_ = false;
};

}  // namespace bulkhead
