// Who goes first when CPUs are short.
#pragma once

#include "runtime/pidfd.h"
#include "runtime/result.h"

namespace bulkhead::supervisor {

// The nice value (-20 first, 19 last) of a process's main thread, which is the one that serves; its other
// threads keep theirs. kNotFound: the process has ended. kFailed: without CAP_SYS_NICE it can only be raised.
Status set_priority(const PidFd& process, int nice);
// The same of its session as a whole, against other sessions: where the kernel groups processes by session
// (CONFIG_SCHED_AUTOGROUP, sched(7)) nothing else counts between them. Nothing where it does not.
Status set_session_priority(const PidFd& process, int nice);

}  // namespace bulkhead::supervisor
