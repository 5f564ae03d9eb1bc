// What the core lends to each component: its collaborators, by reference. All outlive the components.
#pragma once

#include <cstdint>
#include <functional>
#include <string>

#include "runtime/event_loop.h"
#include "supervisor/config.h"
#include "supervisor/custody.h"
#include "supervisor/events.h"
#include "supervisor/faults.h"
#include "supervisor/fd_store.h"
#include "supervisor/incident_log.h"
#include "supervisor/manifest.h"

namespace bulkhead::supervisor {

struct Services {
  EventLoop& loop;
  const FdStore& store;
  const ManifestMemory& memory;
  EventLog& events;
  IncidentLog& incidents;
  FaultBoard& faults;
  const Config& config;
  CustodyTotal& custody;

  // Writes the manifest now: what was changed before survives the core from here on.
  std::function<void()> persist;
  // The component changed: its watchers are told, and the manifest is written, at the end of this turn.
  std::function<void(const std::string& component)> changed;
  // Never reused while custody lasts, over all components.
  std::function<std::uint64_t()> new_instance;
  std::function<bool(const std::string& component)> is_ready;
  // No other component is being started, recovered, restarted or upgraded.
  std::function<bool(const std::string& component)> others_are_calm;
};

}  // namespace bulkhead::supervisor
