// The vitals page: what an instance shows of itself to the core and to its monitors. One per instance, in a
// memfd that the core creates; only the instance writes it, except `ping`, which only the core writes.
// Layout: docs/formats/contract.md.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bulkhead {

inline constexpr std::uint32_t kVitalsVersion = 1;
inline constexpr std::size_t kVitalsBytes = 4096;

struct Vitals {
  std::atomic<std::uint32_t> version;
  std::atomic<std::uint32_t> active;  // 1: owns the lease

  // The core adds 1 to `ping` and writes to the instance's wake descriptor (eventfd); the instance answers
  // from its main loop by storing the value it saw in `pong`. A ping is work like any other: pending while
  // pong < ping.
  alignas(64) std::atomic<std::uint64_t> ping;
  std::atomic<std::int64_t> ping_ns;  // monotonic time of the newest ping
  alignas(64) std::atomic<std::uint64_t> pong;
  std::atomic<std::int64_t> heartbeat_ns;  // monotonic time of the last turn of the main loop

  // Requests seen and answered since this instance began.
  std::atomic<std::uint64_t> work_arrived;
  std::atomic<std::uint64_t> work_done;
  std::atomic<std::int64_t> oldest_pending_ns;  // 0: nothing pending

  // Log position up to which this instance has executed.
  std::atomic<std::uint64_t> log_position;
  // The state's digest at the newest checkpoint, and `digest_check`, the position right behind that: 0 while
  // `digest` changes, so it counts if `digest_check` is the same before and after `digest` was read, and not
  // 0.
  std::atomic<std::uint64_t> digest;
  std::atomic<std::uint64_t> digest_check;

  // The first right answer given after this instance took over, monotonic; 0: none yet.
  std::atomic<std::int64_t> first_answer_ns;
};

// The instance's side of `digest` and `digest_check`.
inline void show_digest(Vitals& vitals, std::uint64_t position, std::uint64_t digest) {
  if (vitals.digest_check.load(std::memory_order_relaxed) == position) return;
  vitals.digest_check.store(0);
  vitals.digest.store(digest);
  vitals.digest_check.store(position);
}

static_assert(sizeof(Vitals) <= kVitalsBytes);
static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

}  // namespace bulkhead
