#include "monitors/exit.h"

#include <csignal>
#include <cstring>

namespace bulkhead::monitors {

std::string describe_exit(const ExitStatus& exit) {
  if (!exit.known) return "ended (status unknown: started by an earlier core)";
  if (exit.code == CLD_EXITED) return "exit status " + std::to_string(exit.status);
  const char* name = ::sigdescr_np(exit.status);
  return "killed by signal " + std::to_string(exit.status) + " (" + (name != nullptr ? name : "unknown") +
         ")" + (exit.code == CLD_DUMPED ? ", core dumped" : "");
}

bool ended_well(const ExitStatus& exit) {
  return exit.known && exit.code == CLD_EXITED && exit.status == 0;
}

}  // namespace bulkhead::monitors
