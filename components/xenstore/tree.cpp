#include "components/xenstore/tree.h"

#include <algorithm>

#include "components/xenstore/hash.h"

namespace bulkhead::xenstore::core {
namespace {

Ref<SharedArray<std::byte>> make_value(std::span<const std::byte> value) {
  return value.empty() ? Ref<SharedArray<std::byte>>{} : SharedArray<std::byte>::make(value);
  // NOLINTNEXTLINE(clang-analyzer-cplusplus.NewDeleteLeaks): it cannot count references
}

// Overwrites in place where nobody else holds the value and it fits.
void assign_value(Node& node, std::span<const std::byte> value) {
  if (node.bytes && !node.bytes.shared() && !value.empty() && value.size() <= node.bytes->capacity &&
      value.size() >= node.bytes->capacity / 4) {
    std::copy(value.begin(), value.end(), node.bytes->data());
    node.bytes->size = static_cast<std::uint32_t>(value.size());
    return;
  }
  node.bytes = make_value(value);
}

Ref<Node> make_node(std::string_view name, std::span<const std::byte> value, Ref<PermissionSet> permissions,
                    std::uint64_t generation, std::uint64_t data_generation) {
  Ref<Node> node = Ref<Node>::adopt(new Node);
  node->label = SharedArray<char>::make(name);
  node->bytes = make_value(value);
  node->permissions = std::move(permissions);
  node->generation = generation;
  node->data_generation = data_generation;
  return node;
}

std::int64_t charged_bytes(const Node& node, std::size_t path_length) {
  return static_cast<std::int64_t>(record_size(node) + path_length);
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

Node& Tree::exclusive(std::string_view path) {
  if (root_.shared()) root_ = Ref<Node>::adopt(new Node(*root_));
  Node* node = root_.get();
  for (Components components(path); !components.done();) node = &node->children.exclusive(components.next());
  return *node;
}

// Changes one existing node: refreshes its permissions before its generation moves on, then keeps hash,
// digest and accounts.
template <typename Change>
Node& Tree::edit(std::string_view path, std::uint64_t generation, Accounts& accounts, Change change) {
  Node& node = exclusive(path);
  std::uint32_t owner = node.owner();
  std::int64_t bytes = charged_bytes(node, path.size());
  std::uint64_t damage = 0;  // of what the change does not replace: a new hash must not hide it
  bool rehash = false;
  if (node.permissions->size > 1) {
    Ref<PermissionSet> refreshed = current_permissions(node, accounts);
    rehash = refreshed.get() != node.permissions.get();
    if (rehash) damage = node.hash ^ node_hash(path, node);
    node.permissions = std::move(refreshed);
  }
  node.generation = version_ = generation;
  if (change(node)) {
    rehash = true;
    damage = 0;
  }
  if (rehash) {
    digest_ -= node.hash;
    node.hash = node_hash(path, node) ^ damage;
    digest_ += node.hash;
  }
  std::int64_t now = charged_bytes(node, path.size());
  if (node.owner() != owner) {
    accounts.charge(owner, -1, -bytes);
    accounts.charge(node.owner(), 1, now);
  } else if (now != bytes) {
    accounts.charge(owner, 0, now - bytes);
  }
  return node;
}

const Node& Tree::set_value(std::string_view path, std::span<const std::byte> value, std::uint64_t generation,
                            Accounts& accounts) {
  return edit(path, generation, accounts, [&](Node& node) {
    assign_value(node, value);
    node.data_generation = generation;
    return true;
  });
}

const Node& Tree::set_permissions(std::string_view path, Ref<PermissionSet> permissions,
                                  std::uint64_t generation, Accounts& accounts) {
  return edit(path, generation, accounts, [&](Node& node) {
    node.permissions = std::move(permissions);
    node.data_generation = generation;
    return true;
  });
}

void Tree::set_content(std::string_view path, std::span<const std::byte> value,
                       Ref<PermissionSet> permissions, std::uint64_t generation, Accounts& accounts) {
  edit(path, generation, accounts, [&](Node& node) {
    assign_value(node, value);
    node.permissions = std::move(permissions);
    node.data_generation = generation;
    return true;
  });
}

void Tree::attach(std::string_view path, Ref<Node> node, Node& parent, Accounts& accounts) {
  node->hash = node_hash(path, *node);
  digest_ += node->hash;
  ++count_;
  accounts.charge(node->owner(), 1, charged_bytes(*node, path.size()));
  parent.children.insert(std::move(node));
}

void Tree::create(std::string_view path, std::span<const std::byte> value, Ref<PermissionSet> permissions,
                  std::uint64_t generation, Accounts& accounts) {
  edit(parent_path(path), generation, accounts, [&](Node& parent) {
    attach(path, make_node(last_component(path), value, std::move(permissions), generation, generation),
           parent, accounts);
    return false;
  });
}

void Tree::discount(const Node& removed, std::string_view path, Accounts& accounts) {
  for (TreeWalk walk(removed, path); !walk.done(); walk.next()) {
    digest_ -= walk.node().hash;
    --count_;
    accounts.charge(walk.node().owner(), -1, -charged_bytes(walk.node(), walk.path().size()));
  }
}

Ref<Node> Tree::remove(std::string_view path, std::uint64_t generation, Accounts& accounts) {
  Ref<Node> removed;
  edit(parent_path(path), generation, accounts, [&](Node& parent) {
    removed = parent.children.erase(last_component(path));
    return false;
  });
  discount(*removed, path, accounts);
  return removed;
}

void Tree::cut(std::string_view path, Accounts& accounts) {
  Node& parent = exclusive(parent_path(path));
  accounts.charge(parent.owner(), 0, -static_cast<std::int64_t>(last_component(path).size() + 1));
  Ref<Node> removed = parent.children.erase(last_component(path));
  discount(*removed, path, accounts);
}

void Tree::restore(std::string_view path, const NodeContent& content, Accounts& accounts) {
  if (find(path) == nullptr) {
    Node& parent = exclusive(parent_path(path));
    accounts.charge(parent.owner(), 0, static_cast<std::int64_t>(last_component(path).size() + 1));
    attach(path,
           make_node(last_component(path), content.value, content.permissions, content.generation,
                     content.data_generation),
           parent, accounts);
    return;
  }
  Node& node = exclusive(path);
  accounts.charge(node.owner(), -1, -charged_bytes(node, path.size()));
  digest_ -= node.hash;
  node.bytes = make_value(content.value);
  node.permissions = content.permissions;
  node.generation = content.generation;
  node.data_generation = content.data_generation;
  node.hash = node_hash(path, node);
  digest_ += node.hash;
  accounts.charge(node.owner(), 1, charged_bytes(node, path.size()));
}

void Tree::flip_bit() {
  for (TreeWalk walk(*root_, "/"); !walk.done(); walk.next()) {
    if (!walk.node().bytes) continue;
    walk.node().bytes->data()[0] ^= std::byte{1};
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
