#include "components/xenstore/node.h"

#include <algorithm>
#include <limits>
#include <new>

namespace bulkhead::xenstore::core {
namespace {

constexpr std::size_t kLongestInline = 64;
// What malloc rounds allocations to, less its own header.
constexpr std::size_t kGranularity = 16;
constexpr std::size_t kHeader = 8;

// The bytes an allocation of `size` really has.
constexpr std::size_t usable(std::size_t size) {
  return (size + kHeader + kGranularity - 1) / kGranularity * kGranularity - kHeader;
}

}  // namespace

static_assert(sizeof(Node) == 56, "every node pays for it");

Node* Node::allocate(std::string_view name, std::size_t room) {
  const std::size_t size = usable(sizeof(Node) + name.size() + room);
  Node* node = new (::operator new(size)) Node;
  node->name_size = static_cast<std::uint16_t>(name.size());
  node->inline_capacity = static_cast<std::uint8_t>(
      std::min<std::size_t>(size - sizeof(Node) - name.size(), std::numeric_limits<std::uint8_t>::max()));
  std::copy(name.begin(), name.end(), reinterpret_cast<char*>(node + 1));
  return node;
}

Ref<Node> Node::make(std::string_view name, std::span<const std::byte> value) {
  Ref<Node> node = Ref<Node>::adopt(allocate(name, value.size() <= kLongestInline ? value.size() : 0));
  node->set_value(value);
  return node;
}

Ref<Node> Node::clone() const {
  Ref<Node> copy = Ref<Node>::adopt(allocate(name(), inline_size));
  if (bytes) {
    copy->bytes = bytes;
  } else {
    copy->set_value(value());
  }
  copy->permissions = permissions;
  copy->children = children;
  copy->generation = generation;
  copy->data_generation = data_generation;
  copy->hash = hash;
  return copy;
}

void Node::set_value(std::span<const std::byte> value) {
  if (value.size() <= inline_capacity) {
    std::copy(value.begin(), value.end(), inline_value());
    inline_size = static_cast<std::uint8_t>(value.size());
    bytes = {};
    return;
  }
  inline_size = 0;
  if (bytes && !bytes.shared() && value.size() <= bytes->capacity && value.size() >= bytes->capacity / 4) {
    std::copy(value.begin(), value.end(), bytes->data());
    bytes->size = static_cast<std::uint32_t>(value.size());
    return;
  }
  bytes = SharedArray<std::byte>::make(value);
}

Totals subtree_totals(const Node& node) {
  const auto length = static_cast<std::int64_t>(node.name().size() + 1);
  Totals totals{.nodes = 1,
                .owner = node.owner(),
                .bytes = static_cast<std::int64_t>(record_size(node)) + length,
                .hash = node.hash};
  Totals below = node.children.totals();
  below.bytes += length * static_cast<std::int64_t>(below.nodes);
  totals.add(below);
  return totals;
}

}  // namespace bulkhead::xenstore::core
