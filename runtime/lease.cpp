#include "runtime/lease.h"

#include <pthread.h>
#include <unistd.h>

#include <atomic>
#include <new>

#include "runtime/clock.h"

namespace bulkhead {

struct Lease::Shared {
  static constexpr std::uint64_t kMagic = 0x31657361'654c6b42;  // "BkLease1"

  std::uint64_t magic;
  pthread_mutex_t mutex;
  // Written by the owner alone, in this order: pid and time first, then the count that makes them count.
  std::atomic<pid_t> pid;
  std::atomic<std::int64_t> acquired_ns;
  std::atomic<std::uint64_t> incarnation;
};

Result<UniqueFd> Lease::create() {
  auto segment = create_memfd("bulkhead-lease", kLeaseBytes);
  if (!segment) return segment;
  auto mapping = Mapping::map(segment->borrow(), kLeaseBytes);
  if (!mapping) return forward(std::move(mapping));
  static_assert(sizeof(Shared) <= kLeaseBytes);
  auto* shared = new (mapping->data()) Shared{};
  pthread_mutexattr_t attributes;
  ::pthread_mutexattr_init(&attributes);
  ::pthread_mutexattr_setpshared(&attributes, PTHREAD_PROCESS_SHARED);
  ::pthread_mutexattr_setrobust(&attributes, PTHREAD_MUTEX_ROBUST);
  const int error = ::pthread_mutex_init(&shared->mutex, &attributes);
  ::pthread_mutexattr_destroy(&attributes);
  if (error != 0) return os_failure("cannot make the lease", error);
  shared->magic = Shared::kMagic;
  return segment;
}

Result<Lease> Lease::open(BorrowedFd segment) {
  auto mapping = Mapping::map(segment, kLeaseBytes);
  if (!mapping) return forward(std::move(mapping), "cannot open the lease");
  if (mapping->at<Shared>(0)->magic != Shared::kMagic) {
    return failure(ErrorKind::kInvalid, "cannot open the lease: the segment holds something else");
  }
  return Lease(std::move(*mapping));
}

Lease::~Lease() {
  if (ours_) mapping_.keep();
}

Result<bool> Lease::acquire() {
  const int rc = ::pthread_mutex_lock(&shared()->mutex);
  if (rc != 0 && rc != EOWNERDEAD) return os_failure("cannot acquire the lease", rc);
  if (rc == EOWNERDEAD) ::pthread_mutex_consistent(&shared()->mutex);
  ours_ = true;
  shared()->pid.store(::getpid());
  shared()->acquired_ns.store(monotonic_ns());
  shared()->incarnation.fetch_add(1);
  return rc == EOWNERDEAD;
}

Lease::Owner Lease::owner() const {
  return {shared()->incarnation.load(), shared()->pid.load(), shared()->acquired_ns.load()};
}

}  // namespace bulkhead
