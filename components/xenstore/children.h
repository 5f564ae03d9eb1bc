// A node's children: a persistent B+-tree ordered by name. Copying it is one pointer copy; changing a copy
// duplicates only the pages on the way, and nothing at all when no copy exists.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string_view>

#include "components/xenstore/ref.h"

namespace bulkhead::xenstore::core {

struct Node;
struct Page;

class Children {
 public:
  Children() = default;
  Children(const Children& other);
  Children(Children&& other) noexcept : root_(std::exchange(other.root_, nullptr)) {}
  Children& operator=(Children other) noexcept {
    std::swap(root_, other.root_);
    return *this;
  }
  ~Children();

  std::uint64_t size() const;
  std::uint64_t bytes() const;  // of all names, each with a terminating NUL

  const Node* find(std::string_view name) const;
  // The child `name`, which must exist, made exclusive: it and every page above it that was shared is copied.
  Node& exclusive(std::string_view name);
  void insert(Ref<Node> child);            // its name must be absent
  Ref<Node> erase(std::string_view name);  // must be present

  bool same_as(const Children& other) const { return root_ == other.root_; }
  // Order of names and the sums kept in pages; for check().
  bool consistent() const;

 private:
  friend class ChildCursor;
  friend struct Node;
  Page* root_ = nullptr;
};

// Walks children in the order of their names. Valid while the children it was made of are neither changed nor
// destroyed.
class ChildCursor {
 public:
  ChildCursor() = default;
  explicit ChildCursor(const Children& children);
  // At the first child whose name is greater than `after`.
  ChildCursor(const Children& children, std::string_view after);
  // At the child whose name holds byte `offset` of the NUL-separated list; `inside` gets the offset within
  // that name.
  ChildCursor(const Children& children, std::uint64_t offset, std::uint64_t& inside);

  bool done() const { return levels_ == 0; }
  const Node& node() const;
  void next();

 private:
  void descend(const Page* page);

  // A page splits at 32 entries and thin neighbours merge, so that 16 levels outlast any memory.
  static constexpr std::size_t kMaxLevels = 16;
  struct Level {
    const Page* page;
    std::uint32_t index;
  };
  std::array<Level, kMaxLevels> path_;
  std::size_t levels_ = 0;
};

}  // namespace bulkhead::xenstore::core
