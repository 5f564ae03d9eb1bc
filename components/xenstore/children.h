// A node's children: a persistent B+-tree ordered by name. Copying it is one pointer copy; changing a copy
// duplicates only the pages on the way, and nothing at all when no copy exists.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <functional>
#include <string_view>
#include <vector>

#include "components/xenstore/ref.h"

namespace bulkhead::xenstore::core {

struct Node;
struct Page;

// What some nodes and everything below them add up to, so that removing them need not walk them.
struct Totals {
  static constexpr std::uint32_t kNobody = ~std::uint32_t{0};       // there are none
  static constexpr std::uint32_t kSeveral = ~std::uint32_t{0} - 1;  // or one, unknown which

  std::uint32_t nodes = 0;
  std::uint32_t owner = kNobody;  // of all of them
  std::int64_t bytes = 0;         // charged for, paths counted from their directory on, its '/' included
  std::uint64_t hash = 0;         // sum

  void add(const Totals& other);
  void subtract(const Totals& other);  // does not find out that what is left has one owner
};

// The pages above a place in the tree, from the top. All are exclusive.
struct Trail {
  struct Step {
    Page* page;
    std::size_t directory;  // length of the path of the page's directory, 0 for "/"
  };
  std::vector<Step> steps;

  // What is below the place has changed by this much; here `bytes` counts whole paths. `owner` is that of
  // what was added or changed, kNobody if nothing was.
  void add(const Totals& change) const;
};

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
  // The pages are added to the trail; `directory` as there.
  Node& exclusive(std::string_view name, std::size_t directory, Trail& trail);
  void insert(Ref<Node> child);            // its name must be absent; complete with hash and children
  Ref<Node> erase(std::string_view name);  // must be present

  Totals totals() const;
  // Calls `charge(owner, nodes, bytes)` until all children and what is below them has been told, bytes with
  // whole paths. Goes down only where owners are mixed.
  using Charge = std::function<void(std::uint32_t owner, std::int64_t nodes, std::int64_t bytes)>;
  void for_owners(std::size_t directory, const Charge& charge) const;

  bool same_as(const Children& other) const { return root_ == other.root_; }
  // Order of names and the sums kept in pages; for check().
  bool consistent() const;

 private:
  friend class ChildCursor;
  friend struct Grave;
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
  // A search for this child would find it, if that is so for those the cursor has passed. `children`: what it
  // was made of.
  bool in_order(const Children& children) const;

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
