// Looks for damage in a tree, a few nodes at a time, for ever. Between two steps the tree may change in any
// way and even be another one: only a path is remembered, no reference held, so nothing is copied because of
// it.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/tree.h"
#include "runtime/result.h"

namespace bulkhead::xenstore::core {

class TreeScrub {
 public:
  // Checks up to `limit` nodes, in the order of their paths: that path, value and permissions are what was
  // hashed when they were written, that the generations are possible, that a node is found where it stands,
  // and a directory's order and sums. True when the end of the tree is reached: then, if nothing changed
  // since the pass began, count and digest are compared too, and the next step begins anew. kFailed: damage,
  // and where.
  Result<bool> step(const Tree& tree, std::uint64_t generation, std::size_t limit);

  // Nodes checked in this pass.
  std::uint64_t checked() const { return checked_; }

 private:
  struct Level {
    const Node* parent;
    ChildCursor cursor;
    std::size_t parent_length;
  };
  void begin(const Tree& tree);
  void resume(const Tree& tree);
  void enter(const Node& node);
  const Node* next();
  Status check(const Node& node, std::uint64_t generation);
  Status finish(const Tree& tree) const;

  std::string path_;           // the last node checked; empty: a pass begins
  std::vector<Level> levels_;  // within one step
  bool in_order_ = true;       // the last node
  std::uint64_t version_ = 0;
  std::uint64_t checked_ = 0;
  std::uint64_t digest_ = 0;
};

}  // namespace bulkhead::xenstore::core
