// Which watches a change concerns, who of them may know, and the events they get.
#pragma once

#include <string_view>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {

// What happened at `path`. A receiver may know if it can read the node, could before, or can read the parent.
struct Change {
  std::string_view path;
  const Node* now = nullptr;  // null: removed
  const PermissionSet* before =
      nullptr;  // permissions before the change; null: did not exist or did not change
  std::uint64_t before_generation = 0;
};

// Fires watches at and above the path, in the order of their registration.
void fire(State& state, const Change& change, Output& out);

// Fires watches strictly below `path`, which was removed, for nodes that existed: each event names its
// watch's own path. `old_top` is the node that was at `old_path`, which is `path` or above it. Watches `skip`
// tells to leave out are.
void fire_below(State& state, std::string_view path, const Node& old_top, std::string_view old_path,
                const Transaction* skip_changes_of, Output& out);

// @introduceDomain or @releaseDomain. Watches with a depth are told the domain: "@releaseDomain/5".
void fire_domain_event(State& state, std::string_view name, std::uint32_t domid, Output& out);

// The event a new watch gets at once.
void fire_initial(const Watch& watch, Output& out);

}  // namespace bulkhead::xenstore::core
