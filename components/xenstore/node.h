// One node of the tree, with its name and a short value in the same allocation. Immutable as soon as it is
// shared; permissions, long values and children are shared on their own, so that copying a node is cheap.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "components/xenstore/children.h"
#include "components/xenstore/permissions.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/ref.h"

namespace bulkhead::xenstore::core {

struct Node {
  std::uint32_t refs = 1;
  std::uint16_t name_size = 0;        // the name follows the node
  std::uint8_t inline_size = 0;       // of the value that follows the name; 0 if it is in `bytes`
  std::uint8_t inline_capacity = 0;   // room for it
  Ref<SharedArray<std::byte>> bytes;  // the value, when it is too long to be inline
  Ref<PermissionSet> permissions;     // never null in a tree
  Children children;
  std::uint64_t generation = 0;       // of the last change of value, permissions or list of children
  std::uint64_t data_generation = 0;  // of the last change of value or permissions
  union {
    std::uint64_t hash = 0;  // of path, value and permissions: the node's share of the tree's digest
    Node* next_dead;         // while being destroyed
  };

  // `name` is the last component of the path; "" for the root.
  static Ref<Node> make(std::string_view name, std::span<const std::byte> value);
  // With the same content; for a node that is shared and has to change.
  Ref<Node> clone() const;
  Node(const Node&) = delete;
  Node& operator=(const Node&) = delete;

  std::string_view name() const { return {reinterpret_cast<const char*>(this + 1), name_size}; }
  std::span<const std::byte> value() const {
    if (bytes) return bytes->view();
    return {reinterpret_cast<const std::byte*>(this + 1) + name_size, inline_size};
  }
  // In place where nobody else holds the value and it fits.
  void set_value(std::span<const std::byte> value);
  std::uint32_t owner() const { return permissions->data()->domid; }

  // Takes constant time: the memory of the node and of everything below it that nobody else holds is given
  // back by later calls of reap_some().
  static void destroy(Node* node);
  // Gives back a bounded share of what was destroyed. To be called with every change, so that the rest stays
  // bounded: a change destroys no more than a long path's worth of nodes, on average.
  static void reap_some();
  static void reap_all();

 private:
  friend struct Grave;
  Node() = default;
  ~Node() = default;
  static Node* allocate(std::string_view name, std::size_t room);
  std::byte* inline_value() { return reinterpret_cast<std::byte*>(this + 1) + name_size; }
};

// Bytes a node counts for in the quotas node-size and memory, not counting its path: a fixed part,
// permissions, value and list of children. The size of the C xenstored's record, so that its limits mean the
// same here.
inline std::uint64_t record_size(std::size_t permissions, std::size_t value, std::uint64_t children) {
  constexpr std::uint64_t kFixedPart = 24;
  constexpr std::uint64_t kPerPermission = 8;
  return kFixedPart + kPerPermission * permissions + value + children;
}
inline std::uint64_t record_size(const Node& node) {
  return record_size(node.permissions->size, node.value().size(), node.children.bytes());
}

// A node and everything below it, as its directory's pages count it.
Totals subtree_totals(const Node& node);

}  // namespace bulkhead::xenstore::core
