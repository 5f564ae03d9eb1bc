// The tree of nodes: one pointer, copied in constant time, changed in place where nobody shares it. Keeps its
// digest, its number of nodes and the owners' accounts in step with every change.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/node.h"

namespace bulkhead::xenstore::core {

// What a change of the tree tells and asks about domains.
class Accounts {
 public:
  virtual ~Accounts() = default;
  // A domain's share changed by so many nodes and bytes.
  virtual void charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) = 0;
  // The domain exists and did so when a node got `generation`: an entry naming it in that node's permissions
  // applies.
  virtual bool existed_at(std::uint32_t domid, std::uint64_t generation) const = 0;
};

// A node's content as a snapshot holds it.
struct NodeContent {
  std::span<const std::byte> value;
  Ref<PermissionSet> permissions;
  std::uint64_t generation;
  std::uint64_t data_generation;
};

// All paths are valid (is_path) and absolute. Pointers to nodes hold until the tree's next change.
class Tree {
 public:
  // Just "/", owned by domain 0.
  explicit Tree(std::uint64_t generation = 0);

  const Node* find(std::string_view path) const;
  const Node& root() const { return *root_; }

  // The deepest existing node on the way to `path`, and the length of its own path.
  struct Nearest {
    const Node* node;
    std::size_t length;
  };
  Nearest nearest(std::string_view path) const;

  // Every change stamps the node it changes (and the parent whose list changed) with `generation`, which is
  // new.
  const Node& set_value(std::string_view path, std::span<const std::byte> value, std::uint64_t generation,
                        Accounts& accounts);
  const Node& set_permissions(std::string_view path, Ref<PermissionSet> permissions, std::uint64_t generation,
                              Accounts& accounts);
  void set_content(std::string_view path, std::span<const std::byte> value, Ref<PermissionSet> permissions,
                   std::uint64_t generation, Accounts& accounts);
  // `path` is absent, its parent exists.
  void create(std::string_view path, std::span<const std::byte> value, const Ref<PermissionSet>& permissions,
              std::uint64_t generation, Accounts& accounts);
  // The same for a chain of absent nodes, each the parent of the next, as one walk down the tree. Only the
  // last gets the value; each change counts `generation` up.
  void create_chain(std::span<const std::string_view> paths, std::span<const std::byte> value,
                    const Ref<PermissionSet>& permissions, std::uint64_t& generation, Accounts& accounts);
  // `path` exists and is not "/". Returns what was cut off.
  Ref<Node> remove(std::string_view path, std::uint64_t generation, Accounts& accounts);

  // For reading a snapshot: no other node's generation is touched. restore() makes or replaces exactly this
  // node and keeps its children; cut() removes a subtree.
  void restore(std::string_view path, const NodeContent& content, Accounts& accounts);
  void cut(std::string_view path, Accounts& accounts);
  void set_version(std::uint64_t version) { version_ = version; }

  std::uint64_t digest() const { return digest_; }
  std::uint64_t node_count() const { return count_; }
  // Generation of the last change. Equal versions of one engine's trees are equal trees.
  std::uint64_t version() const { return version_; }

  // Fault injection: flips a bit in the first value found, or, if all are empty, in the root's stored hash.
  void flip_bit();

 private:
  template <typename Change>
  Node& edit(std::string_view path, std::uint64_t generation, Accounts& accounts, Change change);
  Node& exclusive(std::string_view path, Trail& trail);
  void charge_own(const Node& node, std::string_view path, const Totals& before, const Trail& trail,
                  Accounts& accounts);
  void attach(std::string_view path, Ref<Node> node, Node& parent, const Trail& trail, Accounts& accounts);
  void discount(const Node& removed, std::string_view path, const Trail& trail, Accounts& accounts);

  Ref<Node> root_;
  std::uint64_t digest_ = 0;
  std::uint64_t count_ = 0;
  std::uint64_t version_ = 0;
};

// Walks a subtree, parents before children, names in order. The subtree must not change meanwhile.
class TreeWalk {
 public:
  TreeWalk(const Node& top, std::string_view path) : path_(path), node_(&top) {}

  bool done() const { return node_ == nullptr; }
  const Node& node() const { return *node_; }
  std::string_view path() const { return path_; }
  void next() { advance(true); }
  // Goes on without the current node's children.
  void skip_children() { advance(false); }

 private:
  struct Level {
    ChildCursor cursor;
    std::size_t parent_length;  // of the path above
  };
  void advance(bool into_children);
  void enter(const Level& level);

  std::string path_;
  const Node* node_;
  std::vector<Level> levels_;
};

// "/a" + "b" and "/" + "b".
std::string child_path(std::string_view parent, std::string_view name);

// The permissions with entries marked that name domains younger than the node (or gone); the same set if
// there are none.
Ref<PermissionSet> current_permissions(const Node& node, const Accounts& accounts);

std::uint64_t node_hash(std::string_view path, const Node& node);

}  // namespace bulkhead::xenstore::core
