#include "components/xenstore/tree_scrub.h"

namespace bulkhead::xenstore::core {
namespace {

// A directory larger than this is checked by its children alone: all of its pages at once would take too
// long.
constexpr std::uint64_t kWholeDirectory = 256;

std::unexpected<Error> damaged(std::string_view what, std::string_view path) {
  return failure(ErrorKind::kFailed, std::string(what) + " of " + std::string(path));
}

}  // namespace

void TreeScrub::begin(const Tree& tree) {
  version_ = tree.version();
  checked_ = digest_ = 0;
  in_order_ = true;
  path_.clear();
}

void TreeScrub::enter(const Node& node) {
  if (node.children.size() > 0) levels_.push_back({&node, ChildCursor(node.children), path_.size()});
}

// Rebuilds the way to what follows path_, as far as it still exists.
void TreeScrub::resume(const Tree& tree) {
  levels_.clear();
  if (path_.empty()) return;
  const Node* node = &tree.root();
  std::size_t length = 1;
  for (Components components(path_); node != nullptr && !components.done();) {
    const std::string_view name = components.next();
    levels_.push_back({node, ChildCursor(node->children, name), length});
    node = node->children.find(name);
    length = components.consumed();
  }
  if (node != nullptr) enter(*node);
}

const Node* TreeScrub::next() {
  while (!levels_.empty() && levels_.back().cursor.done()) levels_.pop_back();
  if (levels_.empty()) return nullptr;
  Level& level = levels_.back();
  const Node& node = level.cursor.node();
  in_order_ = level.cursor.in_order(level.parent->children);
  level.cursor.next();
  path_.resize(level.parent_length);
  if (path_.size() > 1) path_ += '/';
  path_ += node.name();
  return &node;
}

Status TreeScrub::check(const Node& node, std::uint64_t generation) {
  if (node.hash != node_hash(path_, node)) return damaged("damaged value or permissions", path_);
  if (node.data_generation > node.generation || node.generation > generation) {
    return damaged("impossible generation", path_);
  }
  if (!in_order_) {
    return damaged("misplaced entry in the parent", path_);
  }
  if (node.children.size() <= kWholeDirectory && !node.children.consistent()) {
    // Its pages add up what the children say of themselves: perhaps just one of these is wrong.
    for (ChildCursor child(node.children); !child.done(); child.next()) {
      const std::string path = child_path(path_, child.node().name());
      if (child.node().hash != node_hash(path, child.node())) {
        return damaged("damaged value or permissions", path);
      }
    }
    return damaged("inconsistent children", path_);
  }
  ++checked_;
  digest_ += node.hash;
  return {};
}

Status TreeScrub::finish(const Tree& tree) const {
  if (tree.version() != version_) return {};
  if (checked_ != tree.node_count()) return damaged("wrong number of nodes", "the tree");
  if (digest_ != tree.digest()) return damaged("wrong digest", "the tree");
  return {};
}

Result<bool> TreeScrub::step(const Tree& tree, std::uint64_t generation, std::size_t limit) {
  resume(tree);
  for (std::size_t done = 0; done < limit; ++done) {
    const bool begins = path_.empty();
    if (begins) {
      begin(tree);
      path_ = "/";
    }
    const Node* node = begins ? &tree.root() : next();
    if (node == nullptr) {
      const Status whole = finish(tree);
      path_.clear();
      if (!whole) return forward(Status(whole));
      return true;
    }
    if (auto sound = check(*node, generation); !sound) return forward(std::move(sound));
    enter(*node);
  }
  return false;
}

}  // namespace bulkhead::xenstore::core
