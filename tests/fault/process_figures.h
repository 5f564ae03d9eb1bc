// What the kernel says of a process; 0 for one that is gone.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <cstdint>

namespace bulkhead::campaign {

std::uint64_t resident_bytes(pid_t pid);
std::uint64_t peak_resident_bytes(pid_t pid);
std::size_t open_descriptors(pid_t pid);

}  // namespace bulkhead::campaign
