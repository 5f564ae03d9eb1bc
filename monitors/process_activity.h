// What the kernel says a process is doing: the difference between hung, spinning and merely starved of CPU.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace bulkhead::monitors {

struct ProcessActivity {
  // Of the main thread (the one that holds the lease and answers pings), as in /proc/PID/stat: R, S, D, T, t,
  // Z, X.
  char state = '?';
  std::int64_t cpu_ns = 0;  // CPU time of all threads
  std::int64_t run_delay_ns =
      0;  // time the main thread waited on a run queue (/proc/PID/schedstat); 0 if unknown
};

// Unset when the process is gone. Reads two small files, about 20 microseconds.
std::optional<ProcessActivity> read_activity(pid_t pid);

}  // namespace bulkhead::monitors
