// What the kernel says a process is doing: the difference between hung, spinning and merely starved of CPU.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>

namespace bulkhead::monitors {

struct ProcessActivity {
  // As in /proc/PID/stat: R, S, D, T, t, Z, X. Of the thread that could do most: one that is runnable tells
  // more than the others that sleep (a standby's main thread sleeps in the lease while another one answers
  // its pings).
  char state = '?';
  std::int64_t cpu_ns = 0;  // CPU time of all threads
  std::int64_t run_delay_ns =
      0;  // time its threads waited on a run queue (schedstat), together; 0 if unknown
};

// Unset when the process is gone. Reads two small files for each of its first threads, some 20 microseconds
// each.
std::optional<ProcessActivity> read_activity(pid_t pid);

}  // namespace bulkhead::monitors
