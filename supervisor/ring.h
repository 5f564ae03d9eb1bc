// A component's io_uring: made once by the core, inherited by its instances. An io_uring descriptor cannot
// travel over a socket, so a restarted core takes it back from a living instance.
#pragma once

#include <cstdint>
#include <string>

#include "runtime/pidfd.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

struct Ring {
  UniqueFd fd;
  std::string params;  // struct io_uring_params as filled in by the kernel
};

// A ring with `entries` submission entries and a completion queue eight times as large (at most 65,536).
// kRefused with a clear line when the system forbids io_uring (sysctl kernel.io_uring_disabled).
Result<Ring> create_ring(std::uint32_t entries);

// The ring that a former core made, from an instance that inherited it as `number`.
Result<Ring> recover_ring(const PidFd& instance, int number, const std::string& params);

}  // namespace bulkhead::supervisor
