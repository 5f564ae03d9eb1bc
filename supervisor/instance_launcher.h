// Starts the processes of one component: everything that is the same for each of them is prepared once.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/cgroup.h"
#include "supervisor/config.h"
#include "supervisor/launch.h"
#include "supervisor/programs.h"

namespace bulkhead::supervisor {

// The descriptor numbers that a native instance inherits.
inline constexpr int kContractNumber = 3;
inline constexpr int kRingNumber = 4;

class InstanceLauncher {
 public:
  // Looks up the program, the account and the control group, which may read files: before the event loop
  // runs. `custody_id` tells this core's processes from those of another one on the host. What is missing is
  // no error here: every launch() will fail with it, and the component says so.
  InstanceLauncher(const ComponentConfig& config, const SupervisorConfig& supervisor,
                   const CgroupTree& cgroups, std::string custody_id, bool die_with_core);

  struct Addition {
    std::vector<std::string> environment;
    std::vector<InheritedFd> descriptors;
  };
  // `instance` marks the process for find_orphans(). `program`: what to execute; null: what is on disk at
  // program().
  Result<Launched> launch(std::uint64_t instance, Addition addition, const Program* program) const;
  // The configured program as it is on disk now. Reads files.
  Result<Program> open_configured() const;

  // Command probes run with this group, too: so that they may connect where the component itself may not.
  void let_checks_join(gid_t group) { check_group_ = group; }
  // A short-lived process for a command probe: same account and limits, output dropped.
  Result<PidFd> run_command(const std::vector<std::string>& command) const;

  const std::string& program() const { return program_; }
  const std::optional<Account>& account() const { return account_; }
  const std::vector<std::string>& notes() const { return notes_; }

 private:
  LaunchRequest request() const;

  const ComponentConfig* config_;
  std::string custody_id_;
  std::string program_;
  std::optional<Account> account_;
  std::optional<gid_t> check_group_;
  std::optional<CgroupTree::Group> cgroup_;
  std::vector<ResourceLimit> limits_;
  std::vector<std::string> notes_;
  std::optional<Error> program_trouble_, account_trouble_;
  bool die_with_core_;
};

// Processes that were started as this instance: a core that died right after a start knows only the intent.
// Another core's processes, which may be called the same, are not among them. Reads /proc once.
std::vector<PidFd> find_orphans(const std::string& custody_id, const std::string& component,
                                std::uint64_t instance);

}  // namespace bulkhead::supervisor
