// Control groups (v2): finds the subtree that was delegated to the core and makes a group per component in
// it. Without delegation components run in the core's own group; that is a note, not an error.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

// UINT64_MAX: "max". Unset: left as it is.
struct CgroupLimits {
  std::optional<std::uint64_t> memory_max;
  std::optional<std::uint64_t> pids_max;
  std::optional<std::uint64_t> cpu_weight;  // 1..10000
};

class CgroupTree {
 public:
  // The delegated subtree this process runs in, or an empty tree with the reason in note(). "Delegated" is
  // what systemd marks with the extended attribute user.delegate or trusted.delegate
  // (systemd.io/CGROUP_DELEGATION). The core moves itself into the leaf "core", because the kernel allows
  // limits for children only where no process lives in the parent (Documentation/admin-guide/cgroup-v2.rst,
  // "No Internal Process Constraint").
  static CgroupTree detect();
  // `path` is used whether marked or not (tests, other service managers); the caller's process is moved only
  // if `move_self`.
  static CgroupTree at(const std::string& path, bool move_self);

  bool usable() const { return !path_.empty(); }
  const std::string& path() const { return path_; }
  // Why it is not usable, or which controllers are missing; empty when all is well.
  const std::string& note() const { return note_; }

  struct Group {
    UniqueFd directory;              // for CLONE_INTO_CGROUP
    std::vector<std::string> notes;  // limits that could not be set
  };
  // Makes (or finds) the component's group and writes its limits. kRefused when the tree is not usable.
  Result<Group> group(std::string_view component, const CgroupLimits& limits) const;
  // Removes the group; fails while a process is in it.
  Status remove(std::string_view component) const;
  // Bytes charged to the component's group; unset when there is no memory controller.
  std::optional<std::uint64_t> memory_current(std::string_view component) const;

  // Switches controllers off for the children of the group this process is in or was started in, so that a
  // service manager can place a new core there although components still run below. Limits come back when the
  // new core calls group(). For ExecStartPre of bulkhead.service: the kernel refuses new processes in a group
  // that distributes controllers.
  static Status release();

 private:
  std::string path_;
  std::string note_;
};

}  // namespace bulkhead::supervisor
