// Starts a process from the single-threaded core: every property of the child is set between clone and exec,
// and a step that fails is reported by name.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "runtime/pidfd.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

struct Account {
  uid_t uid = 0;
  gid_t gid = 0;
  std::vector<gid_t> groups;  // supplementary
  std::string name;
  std::string note;  // set when it is not the one asked for; launch() repeats it
};

// Looks names up in the system's databases, which may read files and ask other services: call it while
// starting up, not in the event loop. An empty group means the user's own. A leading '-' makes a name
// optional: where there is no such user (group), it is the core's own, and `note` says so. kNotFound names a
// missing one.
Result<Account> resolve_account(const std::string& user, const std::string& group);
Result<gid_t> resolve_group(const std::string& group);

// A program name with a slash is taken as it is (relative to the working directory); one without is looked
// for beside the running executable, then in the installation's libexec directory, then in PATH. kNotFound
// tells where it was looked for.
Result<std::string> find_program(const std::string& program);

struct InheritedFd {
  BorrowedFd fd;
  int target;  // its number in the child, >= 3
};

struct ResourceLimit {
  int resource;         // RLIMIT_*
  std::uint64_t value;  // RLIM_INFINITY: unlimited. Sets soft and hard.
};

struct LaunchRequest {
  std::string program;  // path
  // The program as an open file: this very file is executed, whatever is at `program` by now. Not valid: what
  // is at `program` is.
  BorrowedFd executable{-1};
  // Its interpreter will open the file by its descriptor's number, so that has to survive the exec.
  bool is_script = false;
  std::vector<std::string> args;         // without argv[0]
  std::vector<std::string> environment;  // "NAME=value"; the child gets these and nothing else
  std::vector<InheritedFd> descriptors;
  // Whom to run as. Ignored, with a note, when the core is not root.
  std::optional<Account> account;
  std::vector<ResourceLimit> limits;
  std::optional<std::int32_t> oom_score_adjust;  // unset: the core's own
  BorrowedFd cgroup{-1};                         // directory of its cgroup v2 group
  std::string directory = "/";
  // Components outlive the core and are re-adopted, so they do not die with it unless this is set (no fd
  // store: nobody could re-adopt them).
  bool die_with_core = false;
  bool no_new_privs = true;
  // Where a component's output goes. kPipe: to `Launched::output`. kInherit: the core's own (tests,
  // debugging).
  enum class Output : unsigned char { kPipe, kInherit, kDiscard } output = Output::kPipe;
};

struct Launched {
  PidFd process;
  // Read ends, non-blocking; invalid unless Output::kPipe. The write ends are non-blocking too: when nobody
  // reads (the core is dead), output is lost, but no component ever blocks on it. The read ends belong into
  // the fd store with the component's other descriptors: if the last one is closed, the component's next line
  // of output is a SIGPIPE.
  UniqueFd output, error_output;
  // What could not be done as asked, one sentence each.
  std::vector<std::string> notes;
};

// Returns after the child's exec (or its failure), typically within a millisecond: the core is suspended
// meanwhile as with vfork, so the result is final and no half-started child exists. An exec from a file
// system that hangs would suspend the core with it; programs belong on a local disk. Errors: "cannot exec /x:
// No such file or directory" and the like (kFailed).
Result<Launched> launch(const LaunchRequest& request);

}  // namespace bulkhead::supervisor
