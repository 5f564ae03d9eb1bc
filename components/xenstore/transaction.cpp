#include "components/xenstore/transaction.h"

#include <algorithm>

namespace bulkhead::xenstore::core {
namespace {

constexpr std::int64_t kEntryOverhead =
    24;  // what an access counts for besides its path, like a node's fixed part

// Every node below is what it was. A node's generation covers its list of children, so equal lists are walked
// in step.
bool same_subtree(const Node& before, const Node& now) {
  struct Pair {
    const Node* before;
    const Node* now;
  };
  std::vector<Pair> pending{{&before, &now}};
  while (!pending.empty()) {
    auto [old_node, new_node] = pending.back();
    pending.pop_back();
    if (old_node == new_node) continue;
    if (old_node->generation != new_node->generation) return false;
    if (old_node->children.same_as(new_node->children)) continue;
    ChildCursor old_child(old_node->children);
    ChildCursor new_child(new_node->children);
    for (; !old_child.done() && !new_child.done(); old_child.next(), new_child.next()) {
      pending.push_back({&old_child.node(), &new_child.node()});
    }
    if (old_child.done() != new_child.done()) return false;
  }
  return true;
}

bool unchanged(const Node* before, const Node* now, std::uint8_t flags) {
  if (before == now) return true;
  if (before == nullptr || now == nullptr) return false;
  if (before->data_generation != now->data_generation) return false;
  if ((flags & kReliedOnChildren) != 0 && before->generation != now->generation) return false;
  return (flags & kRemovedSubtree) == 0 || same_subtree(*before, *now);
}

}  // namespace

void PendingCharges::charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) {
  const auto at = std::ranges::lower_bound(changes_, domid, {}, &Change::domid);
  if (at == changes_.end() || at->domid != domid) {
    changes_.insert(at, {domid, nodes, bytes});
    return;
  }
  at->nodes += nodes;
  at->bytes += bytes;
}

const PendingCharges::Change* PendingCharges::find(std::uint32_t domid) const {
  const auto found = std::ranges::lower_bound(changes_, domid, {}, &Change::domid);
  return found == changes_.end() || found->domid != domid ? nullptr : &*found;
}

std::int64_t PendingCharges::nodes(std::uint32_t domid) const {
  const Change* change = find(domid);
  return change != nullptr ? change->nodes : 0;
}

std::int64_t PendingCharges::bytes(std::uint32_t domid) const {
  const Change* change = find(domid);
  return change != nullptr ? change->bytes : 0;
}

void PendingCharges::apply_to(DomainTable& domains) const {
  for (const Change& change : changes_) {
    // A charge taken back leaves no trace, not even the knowledge of a domain.
    if (change.nodes != 0 || change.bytes != 0) domains.charge(change.domid, change.nodes, change.bytes);
  }
}

void PendingCharges::add(const PendingCharges& other) {
  for (const Change& change : other.changes_) charge(change.domid, change.nodes, change.bytes);
}

bool Transaction::note(std::string_view path, std::uint8_t flags) {
  if (auto found = index_.find(path); found != index_.end()) {
    Access& access = *found->second;
    if ((access.flags & flags) == flags) return false;
    access.flags |= flags;
    return true;
  }
  auto access = std::make_unique<Access>(Access{.path = std::string(path), .flags = flags});
  order_.push_back(access.get());
  std::string_view key = access->path;
  index_.emplace(key, std::move(access));
  memory_ += static_cast<std::int64_t>(path.size()) + kEntryOverhead;
  return true;
}

void Transaction::charge(std::string_view path, std::uint32_t bytes) {
  Access& access = *index_.find(path)->second;
  memory_ += static_cast<std::int64_t>(bytes) - static_cast<std::int64_t>(access.charged);
  access.charged = bytes;
}

const Access* Transaction::find(std::string_view path) const {
  auto found = index_.find(path);
  return found == index_.end() ? nullptr : found->second.get();
}

void Transaction::let_go() {
  base = tree = Tree();
  charges.clear();
  index_.clear();
  order_.clear();
  memory_ = 0;
  outlived = true;
}

bool Transaction::conflicts_with(const Tree& current) const {
  if (current.version() == base.version()) return false;
  return std::any_of(order_.begin(), order_.end(), [&](const Access* access) {
    return !unchanged(base.find(access->path), current.find(access->path), access->flags);
  });
}

std::vector<std::string_view> Transaction::sorted(std::uint8_t flags) const {
  std::vector<std::string_view> paths;
  for (const Access* access : order_) {
    if ((access->flags & flags) != 0) paths.push_back(access->path);
  }
  std::sort(paths.begin(), paths.end());
  return paths;
}

// State by state, not step by step: first every subtree it removed, then, parents first, every node it left
// behind changed.
void Transaction::merge_into(Tree& current, std::uint64_t& generation, Accounts& accounts) const {
  for (std::string_view path : sorted(kRemovedSubtree)) {
    if (current.find(path) != nullptr) current.remove(path, ++generation, accounts);
  }
  for (std::string_view path : sorted(kChanged)) {
    const Node* node = tree.find(path);
    // A parent is missing only in a snapshot forged to say so.
    if (node == nullptr || current.find(parent_path(path)) == nullptr) continue;
    // A domain its permissions name may have been released since.
    Ref<PermissionSet> permissions = current_permissions(*node, accounts);
    if (current.find(path) == nullptr) {
      current.create(path, node->value(), permissions, ++generation, accounts);
    } else {
      current.set_content(path, node->value(), std::move(permissions), ++generation, accounts);
    }
  }
}

}  // namespace bulkhead::xenstore::core
