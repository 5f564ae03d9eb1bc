// One node of the tree. Immutable as soon as it is shared; names, values and permissions are shared on their
// own, so that copying a node copies pointers.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "components/xenstore/children.h"
#include "components/xenstore/permissions.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/ref.h"

namespace bulkhead::xenstore::core {

struct Node {
  std::uint32_t refs = 1;
  Ref<SharedArray<char>> label;       // the last component of the path; "" for the root
  Ref<SharedArray<std::byte>> bytes;  // the value; null when empty
  Ref<PermissionSet> permissions;     // never null
  Children children;
  std::uint64_t generation = 0;       // of the last change of value, permissions or list of children
  std::uint64_t data_generation = 0;  // of the last change of value or permissions
  union {
    std::uint64_t hash = 0;  // of path, value and permissions: the node's share of the tree's digest
    Node* next_dead;         // while being destroyed
  };

  Node() = default;
  Node(const Node& other)
      : label(other.label),
        bytes(other.bytes),
        permissions(other.permissions),
        children(other.children),
        generation(other.generation),
        data_generation(other.data_generation),
        hash(other.hash) {}
  Node& operator=(const Node&) = delete;
  ~Node() = default;

  std::string_view name() const { return {label->data(), label->size}; }
  std::span<const std::byte> value() const { return bytes ? bytes->view() : std::span<const std::byte>{}; }
  std::uint32_t owner() const { return permissions->data()->domid; }

  // Also everything below it that nobody else holds, without recursing into the depth of the tree.
  static void destroy(Node* node);
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

}  // namespace bulkhead::xenstore::core
