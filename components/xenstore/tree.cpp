#include "components/xenstore/tree.h"

#include <algorithm>

#include "components/xenstore/hash.h"

namespace bulkhead::xenstore::core {
namespace {

Ref<Node> make_node(std::string_view name, std::span<const std::byte> value, Ref<PermissionSet> permissions,
                    std::uint64_t generation, std::uint64_t data_generation) {
  Ref<Node> node = Node::make(name, value);
  node->permissions = std::move(permissions);
  node->generation = generation;
  node->data_generation = data_generation;
  return node;
}

std::int64_t charged_bytes(const Node& node, std::size_t path_length) {
  return static_cast<std::int64_t>(record_size(node) + path_length);
}

// The node alone, with its whole path.
Totals own_totals(const Node& node, std::size_t path_length) {
  return {.nodes = 1, .owner = node.owner(), .bytes = charged_bytes(node, path_length), .hash = node.hash};
}

// The node and everything below it, with whole paths.
Totals whole_totals(const Node& node, std::size_t path_length) {
  Totals totals = node.children.totals();
  totals.bytes += std::int64_t{totals.nodes} * static_cast<std::int64_t>(path_length);
  totals.add(own_totals(node, path_length));
  return totals;
}

// Room for the pages of the change at hand.
Trail& scratch_trail() {
  static thread_local Trail trail;
  trail.steps.clear();
  return trail;
}

}  // namespace

std::string child_path(std::string_view parent, std::string_view name) {
  std::string path(parent);
  if (path.size() > 1) path += '/';
  return path += name;
}

Ref<PermissionSet> current_permissions(const Node& node, const Accounts& accounts) {
  auto stale = [&](const Permission& entry) {
    return entry.ignored == 0 && !accounts.existed_at(entry.domid, node.generation);
  };
  std::span<const Permission> entries = node.permissions->view().subspan(1);
  if (std::none_of(entries.begin(), entries.end(), stale)) return node.permissions;
  Ref<PermissionSet> marked = PermissionSet::make(node.permissions->view());
  for (std::size_t i = 1; i < marked->size; ++i) {
    Permission& entry = marked->data()[i];
    if (stale(entry)) entry.ignored = 1;
  }
  return marked;
}

std::uint64_t node_hash(std::string_view path, const Node& node) {
  Hasher hasher;
  hasher.add(as_bytes(path));
  hasher.add(node.value());
  hasher.add(std::as_bytes(node.permissions->view()));
  return hasher.finish();
}

Tree::Tree(std::uint64_t generation) : count_(1), version_(generation) {
  const Permission nobody{.domid = 0, .rights = kNoRights, .ignored = 0};
  root_ = make_node("", {}, PermissionSet::make({&nobody, 1}), generation, generation);
  root_->hash = digest_ = node_hash("/", *root_);
}

const Node* Tree::find(std::string_view path) const {
  const Node* node = root_.get();
  for (Components components(path); node != nullptr && !components.done();) {
    node = node->children.find(components.next());
  }
  return node;
}

Tree::Nearest Tree::nearest(std::string_view path) const {
  Nearest found{root_.get(), 1};
  for (Components components(path); !components.done();) {
    const Node* child = found.node->children.find(components.next());
    if (child == nullptr) break;
    found = {child, components.consumed()};
  }
  return found;
}

Node& Tree::exclusive(std::string_view path, Trail& trail) {
  Node::reap_some();
  if (root_.shared()) root_ = root_->clone();
  Node* node = root_.get();
  std::size_t directory = 0;
  for (Components components(path); !components.done(); directory = components.consumed()) {
    node = &node->children.exclusive(components.next(), directory, trail);
  }
  return *node;
}

// The node alone has changed: everybody's books follow.
void Tree::charge_own(const Node& node, std::string_view path, const Totals& before, const Trail& trail,
                      Accounts& accounts) {
  const Totals now = own_totals(node, path.size());
  digest_ += now.hash - before.hash;
  trail.add({.nodes = 0,
             .owner = now.owner == before.owner ? Totals::kNobody : now.owner,
             .bytes = now.bytes - before.bytes,
             .hash = now.hash - before.hash});
  if (now.owner != before.owner) {
    accounts.charge(before.owner, -1, -before.bytes);
    accounts.charge(now.owner, 1, now.bytes);
  } else if (now.bytes != before.bytes) {
    accounts.charge(now.owner, 0, now.bytes - before.bytes);
  }
}

// Changes one existing node: refreshes its permissions before its generation moves on, then keeps hash,
// digest and accounts. `change` gets the trail, too, and says whether the node's own content changed.
template <typename Change>
Node& Tree::edit(std::string_view path, std::uint64_t generation, Accounts& accounts, Change change) {
  Trail& trail = scratch_trail();
  Node& node = exclusive(path, trail);
  const Totals before = own_totals(node, path.size());
  std::uint64_t damage = 0;  // of what the change does not replace: a new hash must not hide it
  bool rehash = false;
  if (node.permissions->size > 1) {
    Ref<PermissionSet> refreshed = current_permissions(node, accounts);
    rehash = refreshed.get() != node.permissions.get();
    if (rehash) damage = node.hash ^ node_hash(path, node);
    node.permissions = std::move(refreshed);
  }
  node.generation = version_ = generation;
  if (change(node, trail)) {
    rehash = true;
    damage = 0;
  }
  if (rehash) node.hash = node_hash(path, node) ^ damage;
  charge_own(node, path, before, trail, accounts);
  return node;
}

const Node& Tree::set_value(std::string_view path, std::span<const std::byte> value, std::uint64_t generation,
                            Accounts& accounts) {
  return edit(path, generation, accounts, [&](Node& node, const Trail&) {
    node.set_value(value);
    node.data_generation = generation;
    return true;
  });
}

const Node& Tree::set_permissions(std::string_view path, Ref<PermissionSet> permissions,
                                  std::uint64_t generation, Accounts& accounts) {
  return edit(path, generation, accounts, [&](Node& node, const Trail&) {
    node.permissions = std::move(permissions);
    node.data_generation = generation;
    return true;
  });
}

void Tree::set_content(std::string_view path, std::span<const std::byte> value,
                       Ref<PermissionSet> permissions, std::uint64_t generation, Accounts& accounts) {
  edit(path, generation, accounts, [&](Node& node, const Trail&) {
    node.set_value(value);
    node.permissions = std::move(permissions);
    node.data_generation = generation;
    return true;
  });
}

// The node is complete, with everything below it, and everything below has the same owner.
void Tree::attach(std::string_view path, Ref<Node> node, Node& parent, const Trail& trail,
                  Accounts& accounts) {
  const Totals added = whole_totals(*node, path.size());
  digest_ += added.hash;
  count_ += added.nodes;
  accounts.charge(added.owner, added.nodes, added.bytes);
  trail.add(added);
  parent.children.insert(std::move(node));
}

void Tree::create(std::string_view path, std::span<const std::byte> value,
                  const Ref<PermissionSet>& permissions, std::uint64_t generation, Accounts& accounts) {
  std::uint64_t before = generation - 1;
  create_chain({&path, 1}, value, permissions, before, accounts);
}

// As if one was made after the other: each creation is also a change of the parent's list. Built from the
// bottom, because everything above a new node has to learn of it.
void Tree::create_chain(std::span<const std::string_view> paths, std::span<const std::byte> value,
                        const Ref<PermissionSet>& permissions, std::uint64_t& generation,
                        Accounts& accounts) {
  std::uint64_t created = generation + paths.size();
  std::uint64_t changed = created;
  Ref<Node> chain;
  for (std::size_t i = paths.size(); i-- > 0; changed = created--) {
    Ref<Node> node = make_node(last_component(paths[i]), chain ? std::span<const std::byte>{} : value,
                               permissions, changed, created);
    node->hash = node_hash(paths[i], *node);
    if (chain) node->children.insert(std::move(chain));
    chain = std::move(node);
  }
  edit(parent_path(paths.front()), generation + 1, accounts, [&](Node& parent, const Trail& trail) {
    attach(paths.front(), std::move(chain), parent, trail, accounts);
    return false;
  });
  generation += paths.size();
  version_ = generation;
}

void Tree::discount(const Node& removed, std::string_view path, const Trail& trail, Accounts& accounts) {
  const Totals whole = whole_totals(removed, path.size());
  digest_ -= whole.hash;
  count_ -= whole.nodes;
  trail.add(
      {.nodes = 0U - whole.nodes, .owner = Totals::kNobody, .bytes = -whole.bytes, .hash = 0 - whole.hash});
  accounts.charge(removed.owner(), -1, -charged_bytes(removed, path.size()));
  removed.children.for_owners(path.size(), [&](std::uint32_t owner, std::int64_t nodes, std::int64_t bytes) {
    accounts.charge(owner, -nodes, -bytes);
  });
}

Ref<Node> Tree::remove(std::string_view path, std::uint64_t generation, Accounts& accounts) {
  Ref<Node> removed;
  edit(parent_path(path), generation, accounts, [&](Node& parent, const Trail& trail) {
    removed = parent.children.erase(last_component(path));
    discount(*removed, path, trail, accounts);
    return false;
  });
  return removed;
}

void Tree::cut(std::string_view path, Accounts& accounts) {
  Trail& trail = scratch_trail();
  Node& parent = exclusive(parent_path(path), trail);
  const Totals before = own_totals(parent, parent_path(path).size());
  Ref<Node> removed = parent.children.erase(last_component(path));
  discount(*removed, path, trail, accounts);
  charge_own(parent, parent_path(path), before, trail, accounts);
}

void Tree::restore(std::string_view path, const NodeContent& content, Accounts& accounts) {
  Trail& trail = scratch_trail();
  if (find(path) == nullptr) {
    Node& parent = exclusive(parent_path(path), trail);
    const Totals before = own_totals(parent, parent_path(path).size());
    Ref<Node> node = make_node(last_component(path), content.value, content.permissions, content.generation,
                               content.data_generation);
    node->hash = node_hash(path, *node);
    attach(path, std::move(node), parent, trail, accounts);
    charge_own(parent, parent_path(path), before, trail, accounts);
    return;
  }
  Node& node = exclusive(path, trail);
  const Totals before = own_totals(node, path.size());
  node.set_value(content.value);
  node.permissions = content.permissions;
  node.generation = content.generation;
  node.data_generation = content.data_generation;
  node.hash = node_hash(path, node);
  charge_own(node, path, before, trail, accounts);
}

void Tree::flip_bit() {
  for (TreeWalk walk(*root_, "/"); !walk.done(); walk.next()) {
    std::span<const std::byte> value = walk.node().value();
    if (value.empty()) continue;
    const_cast<std::byte&>(value[0]) ^= std::byte{1};
    return;
  }
  root_->hash ^= 1;
}

void TreeWalk::enter(const Level& level) {
  node_ = &level.cursor.node();
  path_.resize(level.parent_length);
  if (path_.size() > 1) path_ += '/';
  path_ += node_->name();
}

void TreeWalk::advance(bool into_children) {
  if (into_children && node_->children.size() > 0) {
    levels_.push_back({ChildCursor(node_->children), path_.size()});
    enter(levels_.back());
    return;
  }
  for (; !levels_.empty(); levels_.pop_back()) {
    levels_.back().cursor.next();
    if (levels_.back().cursor.done()) continue;
    enter(levels_.back());
    return;
  }
  node_ = nullptr;
}

}  // namespace bulkhead::xenstore::core
