// Requests that change nodes: WRITE, MKDIR, RM, SET_PERMS. Each checks everything first and only then changes
// anything.
#include <vector>

#include "components/xenstore/events.h"
#include "components/xenstore/node_requests.h"

namespace bulkhead::xenstore::core {
namespace {

// Within a transaction the events wait for the commit.
void fire_or_defer(Call& call, const Change& change) {
  if (call.transaction == nullptr) fire(call.state, change, call.out);
}

// A transaction holds the nodes it changed; their lists of children are its base's, or made of other such
// nodes.
void charge_transaction(Call& call, std::string_view path, std::size_t permissions, std::size_t value) {
  if (call.transaction == nullptr) return;
  std::int64_t before = call.transaction->memory();
  call.transaction->charge(path, static_cast<std::uint32_t>(record_size(permissions, value, 0)));
  call.state.domains.add_memory(*call.session.domain, call.transaction->memory() - before);
}

ErrorCode check_node_size(const Call& call, std::uint64_t size) {
  std::uint32_t limit = call.limits().node_size;
  bool refused = !call.session.privileged() && limit != 0 && size >= limit;
  return refused ? ErrorCode::kNoSpace : ErrorCode::kNone;
}

// Shrinking is always allowed: a domain above a lowered limit must be able to get below it.
ErrorCode check_memory(Call& call, std::uint32_t owner, std::int64_t growth) {
  Domain* domain = call.state.domains.find(owner);
  if (call.session.privileged() || owner == 0 || domain == nullptr || growth <= 0) return ErrorCode::kNone;
  std::int64_t used =
      domain->memory + (call.transaction != nullptr ? call.transaction->charges.bytes(owner) : 0);
  bool refused = exceeds(static_cast<std::uint64_t>(used + growth), domain->limits.memory);
  return refused ? call.out_of_memory(*domain) : ErrorCode::kNone;
}

// New nodes get their parent's permissions; those an unprivileged domain makes are its own.
Ref<PermissionSet> inherited_permissions(const Call& call, const Node& parent) {
  Ref<PermissionSet> permissions = current_permissions(parent, call.state.domains);
  if (call.session.privileged() || permissions->data()->domid == call.session.domid) return permissions;
  permissions = PermissionSet::make(permissions->view());
  permissions->data()->domid = call.session.domid;
  return permissions;
}

// The nodes a creation makes, topmost first.
std::vector<std::string_view> missing_nodes(std::string_view path, std::size_t existing) {
  std::vector<std::string_view> missing;
  while (existing < path.size()) {
    missing.push_back(first_missing(path, existing));
    existing = missing.back().size();
  }
  return missing;
}

ErrorCode check_creation(Call& call, const Node& parent, const std::vector<std::string_view>& missing,
                         std::size_t permissions, std::size_t value) {
  if (call.session.privileged()) return ErrorCode::kNone;
  std::uint32_t domid = call.session.domid;
  std::int64_t nodes = call.session.domain->nodes + static_cast<std::int64_t>(missing.size());
  if (call.transaction != nullptr) nodes += call.transaction->charges.nodes(domid);
  if (exceeds(static_cast<std::uint64_t>(nodes), call.limits().nodes)) return ErrorCode::kNoSpace;

  std::uint64_t size = record_size(parent) + last_component(missing.front()).size() + 1;
  std::int64_t growth = parent.owner() == domid ? static_cast<std::int64_t>(size - record_size(parent)) : 0;
  for (std::size_t i = 0; i < missing.size(); ++i) {
    if (ErrorCode error = check_node_size(call, size); error != ErrorCode::kNone) return error;
    bool last = i + 1 == missing.size();
    size = last ? record_size(permissions, value, 0)
                : record_size(permissions, 0, last_component(missing[i + 1]).size() + 1);
    growth += static_cast<std::int64_t>(size + missing[i].size());
  }
  if (ErrorCode error = check_node_size(call, size); error != ErrorCode::kNone) return error;
  return check_memory(call, domid, growth);
}

ErrorCode create_node(Call& call, std::string_view path, std::span<const std::byte> value) {
  Tree& tree = call.tree();
  Tree::Nearest nearest = tree.nearest(path);
  if (!call.state.sound(path.substr(0, nearest.length), *nearest.node)) return ErrorCode::kIo;
  std::vector<std::string_view> missing = missing_nodes(path, nearest.length);
  Ref<PermissionSet> permissions = inherited_permissions(call, *nearest.node);
  ErrorCode error = check_creation(call, *nearest.node, missing, permissions->size, value.size());
  if (error == ErrorCode::kNone) error = note(call, path.substr(0, nearest.length), kReliedOnData);
  for (std::size_t i = 0; error == ErrorCode::kNone && i < missing.size(); ++i) {
    std::uint8_t event = missing[i].size() == path.size() ? kFiresEvent : 0;
    error = note(call, missing[i], static_cast<std::uint8_t>(kReliedOnData | kChanged | event));
  }
  if (error != ErrorCode::kNone) return error;

  tree.create_chain(missing, value, permissions, call.state.generation, call.accounts());
  for (std::string_view created : missing) {
    bool last = created.size() == path.size();
    charge_transaction(call, created, permissions->size, last ? value.size() : 0);
  }
  call.mutated = true;
  fire_or_defer(call, {.path = path, .now = tree.find(path)});
  return ErrorCode::kNone;
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): it cannot count references
}

ErrorCode overwrite(Call& call, const Target& target, std::span<const std::byte> value) {
  const Node& node = *target.node;
  auto growth = static_cast<std::int64_t>(value.size()) - static_cast<std::int64_t>(node.value().size());
  ErrorCode error =
      check_node_size(call, record_size(node.permissions->size, value.size(), node.children.bytes()));
  if (error == ErrorCode::kNone) error = check_memory(call, node.owner(), growth);
  if (error == ErrorCode::kNone) error = note(call, target.path, kChanged | kFiresEvent);
  if (error != ErrorCode::kNone) return error;
  const Node& changed = call.tree().set_value(target.path, value, ++call.state.generation, call.accounts());
  charge_transaction(call, target.path, changed.permissions->size, changed.value().size());
  call.mutated = true;
  fire_or_defer(call, {.path = target.path, .now = &changed});
  return ErrorCode::kNone;
}

// What may be written by whom: at least the owner's rights; the owner itself is for domain 0 to change.
ErrorCode check_new_permissions(Call& call, const Node& node, const PermissionSet& permissions) {
  if (!call.session.privileged() && permissions.data()->domid != node.owner())
    return ErrorCode::kNotPermitted;
  ErrorCode error =
      check_node_size(call, record_size(permissions.size, node.value().size(), node.children.bytes()));
  if (error != ErrorCode::kNone) return error;
  auto growth = static_cast<std::int64_t>(8) * (static_cast<std::int64_t>(permissions.size) -
                                                static_cast<std::int64_t>(node.permissions->size));
  return check_memory(call, node.owner(), growth);
}

// Domains named by domain 0 are known from then on, so that the entries mean these domains and no later ones.
// Others can name known ones only, or a guest could make us know of every domain id there is.
void know_domains(Call& call, PermissionSet& permissions) {
  for (std::size_t i = 0; i < permissions.size; ++i) {
    Permission& entry = permissions.data()[i];
    if (entry.ignored != 0) continue;
    if (call.session.privileged()) {
      call.state.domains.get(entry.domid);
    } else if (i > 0 && call.state.domains.find(entry.domid) == nullptr) {
      entry.ignored = 1;
    }
  }
}

ErrorCode set_special_permissions(Call& call, std::string_view name, Ref<PermissionSet> permissions) {
  constexpr std::uint8_t kNeeded = kMayWrite | kMayOwn;
  Ref<PermissionSet>* special = call.state.special_permissions(name);
  if (special == nullptr) return ErrorCode::kInvalid;
  if ((call.state.rights(call.session, **special, call.state.generation) & kNeeded) != kNeeded) {
    return ErrorCode::kAccess;
  }
  if (!call.session.privileged() && permissions->data()->domid != (*special)->data()->domid) {
    return ErrorCode::kNotPermitted;
  }
  know_domains(call, *permissions);
  *special = std::move(permissions);
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode remove_node(Call& call, std::string_view path) {
  ErrorCode error = note(call, path, kRemovedSubtree | kFiresEvent);
  if (error == ErrorCode::kNone) error = note(call, parent_path(path), kReliedOnData);
  if (error != ErrorCode::kNone) return error;
  Ref<Node> removed = call.tree().remove(path, ++call.state.generation, call.accounts());
  call.mutated = true;
  if (call.transaction != nullptr) return ErrorCode::kNone;
  fire_below(call.state, path, *removed, path, nullptr, call.out);
  fire(call.state,
       {.path = path, .before = removed->permissions.get(), .before_generation = removed->generation},
       call.out);
  return ErrorCode::kNone;
}

}  // namespace

ErrorCode handle_write(Call& call) {
  std::string_view rest = call.payload;
  auto name = take_argument(rest);
  if (!name) return ErrorCode::kInvalid;
  Target target;
  ErrorCode error = find_node(call, name, kMayWrite, kReliedOnData, target);
  if (error == ErrorCode::kNoEntry) {
    error = create_node(call, target.path, as_bytes(rest));
  } else if (error == ErrorCode::kNone) {
    error = overwrite(call, target, as_bytes(rest));
  }
  if (error == ErrorCode::kNone) call.acknowledge();
  return error;
}

ErrorCode handle_mkdir(Call& call) {
  Target target;
  ErrorCode error = find_node(call, only_argument(call.payload), kMayWrite, kReliedOnData, target);
  if (error == ErrorCode::kNoEntry) error = create_node(call, target.path, {});
  if (error == ErrorCode::kNone) call.acknowledge();
  return error;
}

ErrorCode handle_rm(Call& call) {
  Target target;
  ErrorCode error = find_node(call, only_argument(call.payload), kMayWrite, kReliedOnData, target);
  if (error == ErrorCode::kNone) {
    if (target.path == "/") return ErrorCode::kInvalid;
    error = remove_node(call, target.path);
  } else if (error == ErrorCode::kNoEntry) {
    // Nothing to remove is success where the parent exists.
    std::string_view parent = parent_path(target.path);
    if (ErrorCode noted = note(call, parent, kReliedOnData); noted != ErrorCode::kNone) return noted;
    if (call.tree().find(parent) != nullptr) error = ErrorCode::kNone;
  }
  if (error == ErrorCode::kNone) call.acknowledge();
  return error;
}

ErrorCode handle_set_perms(Call& call) {
  std::size_t arguments = count_arguments(call.payload);
  if (arguments < 2) return ErrorCode::kInvalid;
  if (!call.session.privileged() && exceeds(arguments - 1, call.limits().permissions))
    return ErrorCode::kNoSpace;
  std::string_view rest = call.payload;
  std::string_view name = take_argument(rest).value_or("");
  auto permissions = parse_permissions(rest, arguments - 1);
  if (!permissions) return permissions.error();
  if (is_special(name)) return set_special_permissions(call, name, std::move(*permissions));

  Target target;
  ErrorCode error = find_node(call, name, kMayWrite | kMayOwn, kReliedOnData, target);
  if (error == ErrorCode::kNone) error = check_new_permissions(call, *target.node, **permissions);
  if (error == ErrorCode::kNone) error = note(call, target.path, kChanged | kFiresEvent);
  if (error != ErrorCode::kNone) return error;
  Ref<PermissionSet> before = target.node->permissions;
  std::uint64_t before_generation = target.node->generation;
  know_domains(call, **permissions);
  const Node& changed = call.tree().set_permissions(target.path, std::move(*permissions),
                                                    ++call.state.generation, call.accounts());
  charge_transaction(call, target.path, changed.permissions->size, changed.value().size());
  call.mutated = true;
  fire_or_defer(
      call,
      {.path = target.path, .now = &changed, .before = before.get(), .before_generation = before_generation});
  call.acknowledge();
  return ErrorCode::kNone;
}

}  // namespace bulkhead::xenstore::core
