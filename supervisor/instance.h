// One process of a component, as the core sees it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>

#include "bulkhead/contract/v1/contract.pb.h"
#include "bulkhead/manifest/v1/manifest.pb.h"
#include "monitors/finding.h"
#include "monitors/progress.h"
#include "monitors/resource.h"
#include "runtime/pidfd.h"
#include "supervisor/instance_link.h"
#include "supervisor/output.h"

namespace bulkhead::supervisor {

enum class Role : unsigned char {
  kActive,   // owns the component, or was started to own it
  kStandby,  // follows the active one, succeeds it
  kFormer,   // fenced, succeeded or replaced: only its end is awaited
};

struct Instance {
  std::uint64_t id = 0;  // never reused while custody lasts
  Role role = Role::kActive;
  PidFd process;
  std::unique_ptr<InstanceLink> link;  // native components only
  std::unique_ptr<OutputReader> output, error_output;
  UniqueFd edge;  // the core's end of a socket that a launch addition asked for

  bool ready = false;
  bool ending = false;        // asked to end
  std::int64_t ended_ns = 0;  // when its end was noticed
  bool ended_unseen = false;  // it had ended when this core adopted it
  bool custody_sent = false;  // has been sent everything that was in custody at its start
  std::int64_t started_ns = 0;
  contract::Hello hello;
  std::uint64_t program = 0;         // number of the program it runs; 0: not one that is kept
  std::uint64_t baseline_bytes = 0;  // private memory when it became active; 0: not known yet
  std::string last_words;            // its last line on standard error
  // Why it was fenced; unset if it ends by itself.
  std::optional<monitors::Finding> finding;

  std::optional<monitors::ProgressMonitor> progress;  // native, once ready
  std::optional<monitors::ResourceMonitor> resources;
};

// By id, thus oldest first.
using Instances = std::map<std::uint64_t, std::unique_ptr<Instance>>;

// The first of them in this role; null: none.
Instance* instance_in(const Instances& instances, Role role);

// The name under which an instance's descriptors are parked: "i/COMPONENT/INSTANCE".
inline std::string parked_prefix(const std::string& component, std::uint64_t instance) {
  return "i/" + component + "/" + std::to_string(instance);
}

manifest::v1::Instance record_of(const Instance& instance);
// Everything but the descriptors.
void restore(Instance& instance, const manifest::v1::Instance& record);

}  // namespace bulkhead::supervisor
