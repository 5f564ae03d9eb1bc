// Exit: turns the end of a process into words.
#pragma once

#include <string>

#include "runtime/pidfd.h"

namespace bulkhead::monitors {

// "exit status 3", "killed by signal 9 (Killed)", "killed by signal 11 (Segmentation fault), core dumped",
// "ended (status unknown: started by an earlier core)".
std::string describe_exit(const ExitStatus& exit);

// Exit status 0.
bool ended_well(const ExitStatus& exit);

}  // namespace bulkhead::monitors
