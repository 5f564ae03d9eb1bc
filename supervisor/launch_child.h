// The child's side of launch(): what happens between clone and exec. Only launch.cpp uses it.
#pragma once

#include <sys/types.h>

#include <string_view>

#include "supervisor/launch.h"

namespace bulkhead::supervisor {

// In the order in which they are done.
enum class ChildStep : unsigned char {
  kSession,
  kSignals,
  kOutput,
  kDescriptors,
  kDirectory,
  kLimits,
  kOomScore,
  kGroups,
  kGroup,
  kUser,
  kNoNewPrivs,
  kParentDeath,
  kExec,
};
std::string_view name_of(ChildStep step);  // completes "cannot ..."

// Travels through a pipe that exec closes.
struct ChildReport {
  ChildStep step;
  bool fatal;
  int error;
};

// Everything the child needs, made before: it must not allocate. Pointers are valid for the call.
struct ChildPlan {
  const LaunchRequest* request;
  char* const* argv;
  char* const* environment;
  const Account* account;  // null: stays who it is
  int output, error_output;
  int reports;
  int executable;  // -1: by path
  pid_t parent;
};

// Returns the child's pid in the parent, once the child has called exec or ended; -1 with errno.
pid_t clone_child(const ChildPlan& plan, int* pidfd, int cgroup);
// The same by fork(): returns at once.
pid_t fork_child(const ChildPlan& plan);

}  // namespace bulkhead::supervisor
