// Small files of /proc/PID, for the samplers of this folder.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>

namespace bulkhead::monitors {

// The first 4 KiB of /proc/PID/NAME; unset when it cannot be read (the process is gone, or may not be looked
// at).
std::optional<std::string> read_proc(pid_t pid, const char* name);

// CPU time of all threads in nanoseconds, running ones up to this instant; unset when the process is gone.
std::optional<std::int64_t> process_cpu_ns(pid_t pid);

}  // namespace bulkhead::monitors
