// The ownership lease: a robust process-shared mutex in custody. Exactly one instance of a component owns it;
// when the owner dies, in whatever way, the kernel passes it to a waiting instance before the dead process's
// memory is torn down.
#pragma once

#include <sys/types.h>

#include <cstdint>

#include "runtime/memfd.h"
#include "runtime/result.h"

namespace bulkhead {

inline constexpr std::size_t kLeaseBytes = 4096;

class Lease {
 public:
  struct Owner {
    std::uint64_t incarnation;  // 0: never owned
    pid_t pid;                  // the last owner, dead or alive
    std::int64_t acquired_ns;
  };

  // A new segment with the mutex made. The core does this once per component.
  static Result<UniqueFd> create();
  static Result<Lease> open(BorrowedFd segment);
  Lease(Lease&& other) noexcept = default;
  Lease& operator=(Lease&&) = delete;
  // The segment of a lease that is ours stays mapped until the process has ended: the kernel passes a mutex
  // on by what it finds in that memory, and one that is not there any more would be held by a dead owner for
  // ever.
  ~Lease();

  // Sleeps until the lease is ours; then counts the incarnation. Returns whether the predecessor died owning
  // it (it always did: nobody gives the lease back, they end). The calling THREAD is the owner: it must be
  // the one that acts as owner, and must live as long as the ownership (the kernel frees robust mutexes
  // thread by thread).
  Result<bool> acquire();

  // The last owner; readable by anyone at any time.
  Owner owner() const;

 private:
  struct Shared;
  explicit Lease(Mapping mapping) : mapping_(std::move(mapping)) {}
  Shared* shared() const { return mapping_.at<Shared>(0); }

  Mapping mapping_;
  bool ours_ = false;
};

}  // namespace bulkhead
