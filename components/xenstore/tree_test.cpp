#include "components/xenstore/tree.h"

#include <gtest/gtest.h>

#include <map>
#include <random>
#include <set>

namespace bulkhead::xenstore::core {
namespace {

class Ledger final : public Accounts {
 public:
  void charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) override {
    totals[domid].first += nodes;
    totals[domid].second += bytes;
  }
  bool existed_at(std::uint32_t domid, std::uint64_t generation) const override {
    auto found = born.find(domid);
    return found != born.end() && found->second <= generation;
  }
  std::map<std::uint32_t, std::pair<std::int64_t, std::int64_t>> totals;
  std::map<std::uint32_t, std::uint64_t> born;
};

Ref<PermissionSet> owned_by(std::uint32_t domid) {
  const Permission entry{.domid = domid, .rights = kNoRights, .ignored = 0};
  return PermissionSet::make({&entry, 1});
}

Ref<Node> named(std::string_view name) {
  Ref<Node> node = Node::make(name, {});
  node->permissions = owned_by(0);
  return node;
}

Node& exclusive(Children& children, std::string_view name) {
  Trail trail;
  return children.exclusive(name, 0, trail);
}

std::vector<std::string> names(const Children& children) {
  std::vector<std::string> out;
  for (ChildCursor cursor(children); !cursor.done(); cursor.next()) out.emplace_back(cursor.node().name());
  return out;
}

// Names chosen to share long prefixes, so that the eight-byte keys collide.
std::string random_name(std::mt19937& random, unsigned range) {
  static constexpr std::array kPrefixes = {"", "a", "backend-", "backend-vbd-0-", "backend", "zz@"};
  return kPrefixes[random() % kPrefixes.size()] + std::to_string(random() % range);
}

void expect_same(const Children& children, const std::set<std::string>& model) {
  EXPECT_EQ(names(children), std::vector<std::string>(model.begin(), model.end()));
  EXPECT_TRUE(children.consistent());
  EXPECT_EQ(children.size(), model.size());
  std::uint64_t bytes = 0;
  for (const std::string& name : model) bytes += name.size() + 1;
  EXPECT_EQ(children.bytes(), bytes);
}

TEST(Children, BehaveLikeAnOrderedSetAndCopiesNeverChange) {
  std::mt19937 random(1);
  for (unsigned range : {3U, 40U, 2000U}) {
    Children children;
    std::set<std::string> model;
    std::vector<std::pair<Children, std::set<std::string>>> copies;
    for (int step = 0; step < 20000; ++step) {
      std::string name = random_name(random, range);
      EXPECT_EQ(children.find(name) != nullptr, model.contains(name));
      bool growing = (step / 2000) % 2 == 0;
      if (!model.contains(name)) {
        if (!growing && random() % 4 != 0) continue;
        children.insert(named(name));
        model.insert(name);
      } else if (!growing || random() % 4 == 0) {
        EXPECT_EQ(children.erase(name)->name(), name);
        model.erase(name);
      } else {
        exclusive(children, name).generation = static_cast<std::uint64_t>(step);
      }
      if (random() % 500 == 0) copies.emplace_back(children, model);
    }
    expect_same(children, model);
    for (const auto& [copy, expected] : copies) expect_same(copy, expected);
  }
}

TEST(Children, ExclusiveChangesOneCopyOnly) {
  Children children;
  for (int i = 0; i < 1000; ++i) children.insert(named(std::to_string(i)));
  Children copy = children;
  exclusive(children, "500").generation = 7;
  EXPECT_EQ(children.find("500")->generation, 7U);
  EXPECT_EQ(copy.find("500")->generation, 0U);
  EXPECT_EQ(children.find("501"), copy.find("501"));
}

TEST(Children, ErasingFromTheFrontAndBackKeepsPagesSound) {
  for (bool front : {true, false}) {
    Children children;
    std::set<std::string> model;
    for (int i = 10000; i < 20000; ++i) {
      children.insert(named(std::to_string(i)));
      model.insert(std::to_string(i));
    }
    Children before = children;
    while (!model.empty()) {
      std::string name = front ? *model.begin() : *model.rbegin();
      children.erase(name);
      model.erase(name);
      if (model.size() % 997 == 0) expect_same(children, model);
    }
    EXPECT_EQ(before.size(), 10000U);
    EXPECT_TRUE(before.consistent());
  }
}

TEST(Children, CursorStartsAtAByteOffset) {
  Children children;
  std::string all;
  for (int i = 1000; i < 1500; ++i) {
    children.insert(named("n" + std::to_string(i)));
    all += "n" + std::to_string(i) + '\0';
  }
  for (std::uint64_t offset = 0; offset < all.size(); offset += 7) {
    std::uint64_t inside = 0;
    ChildCursor cursor(children, offset, inside);
    ASSERT_FALSE(cursor.done());
    EXPECT_EQ(cursor.node().name(), all.substr(offset - inside, 5));
  }
  std::uint64_t inside = 0;
  EXPECT_TRUE(ChildCursor(children, all.size(), inside).done());
}

struct Model {
  std::string value;
  std::uint32_t owner;
};

std::map<std::string, Model> contents(const Tree& tree) {
  std::map<std::string, Model> out;
  for (TreeWalk walk(tree.root(), "/"); !walk.done(); walk.next()) {
    out[std::string(walk.path())] = {std::string(as_text(walk.node().value())), walk.node().owner()};
  }
  return out;
}

void expect_same(const Tree& tree, const std::map<std::string, Model>& model) {
  auto have = contents(tree);
  ASSERT_EQ(have.size(), model.size());
  EXPECT_EQ(tree.node_count(), model.size());
  std::uint64_t digest = 0;
  for (const auto& [path, node] : model) {
    ASSERT_TRUE(have.contains(path)) << path;
    EXPECT_EQ(have[path].value, node.value);
    EXPECT_EQ(have[path].owner, node.owner);
    digest += node_hash(path, *tree.find(path));
  }
  EXPECT_EQ(tree.digest(), digest);
}

std::string random_path(std::mt19937& random) {
  std::string path;
  for (unsigned depth = 1 + random() % 4; depth > 0; --depth) path += "/" + std::to_string(random() % 6);
  return path;
}

TEST(Tree, BehavesLikeAMapAndSnapshotsNeverChange) {
  std::mt19937 random(2);
  Ledger ledger;
  Tree tree;
  ledger.charge(0, 1, static_cast<std::int64_t>(record_size(tree.root()) + 1));
  std::map<std::string, Model> model{{"/", {"", 0}}};
  std::vector<std::pair<Tree, std::map<std::string, Model>>> snapshots;
  std::uint64_t generation = 0;
  for (int step = 0; step < 30000; ++step) {
    std::string path = random_path(random);
    std::string parent(parent_path(path));
    std::string value(random() % 3 * (random() % 40), static_cast<char>('a' + random() % 26));
    ASSERT_EQ(tree.find(path) != nullptr, model.contains(path)) << path;
    if (!model.contains(parent)) continue;
    if (!model.contains(path)) {
      auto owner = static_cast<std::uint32_t>(random() % 3);
      tree.create(path, as_bytes(value), owned_by(owner), ++generation, ledger);
      model[path] = {value, owner};
    } else if (random() % 8 == 0) {
      Ref<Node> removed = tree.remove(path, ++generation, ledger);
      EXPECT_EQ(removed->name(), last_component(path));
      std::erase_if(model, [&](const auto& entry) { return (entry.first + "/").starts_with(path + "/"); });
    } else if (random() % 2 == 0) {
      tree.set_value(path, as_bytes(value), ++generation, ledger);
      model[path].value = value;
    } else {
      auto owner = static_cast<std::uint32_t>(random() % 3);
      tree.set_permissions(path, owned_by(owner), ++generation, ledger);
      model[path].owner = owner;
    }
    if (random() % 1000 == 0) snapshots.emplace_back(tree, model);
    EXPECT_EQ(tree.version(), generation);
  }
  expect_same(tree, model);
  for (const auto& [snapshot, expected] : snapshots) expect_same(snapshot, expected);

  Ledger counted;
  for (TreeWalk walk(tree.root(), "/"); !walk.done(); walk.next()) {
    EXPECT_TRUE(walk.node().children.consistent()) << walk.path();
    counted.charge(walk.node().owner(), 1,
                   static_cast<std::int64_t>(record_size(walk.node()) + walk.path().size()));
  }
  EXPECT_EQ(ledger.totals, counted.totals);
}

TEST(Tree, AChainIsMadeLikeOneNodeAfterTheOther) {
  Ledger at_once_ledger;
  Ledger step_ledger;
  Tree at_once;
  Tree stepwise;
  const std::array<std::string_view, 3> paths{"/a", "/a/b", "/a/b/c"};
  std::uint64_t generation = 4;
  at_once.create_chain(paths, as_bytes("value"), owned_by(3), generation, at_once_ledger);
  EXPECT_EQ(generation, 7U);
  for (std::uint64_t i = 0; i < paths.size(); ++i) {
    stepwise.create(paths[i], as_bytes(i == 2 ? "value" : ""), owned_by(3), 5 + i, step_ledger);
  }
  EXPECT_EQ(at_once.digest(), stepwise.digest());
  EXPECT_EQ(at_once.version(), stepwise.version());
  EXPECT_EQ(at_once.node_count(), stepwise.node_count());
  EXPECT_EQ(at_once_ledger.totals, step_ledger.totals);
  for (std::string_view path : {"/", "/a", "/a/b", "/a/b/c"}) {
    EXPECT_EQ(at_once.find(path)->generation, stepwise.find(path)->generation) << path;
    EXPECT_EQ(at_once.find(path)->data_generation, stepwise.find(path)->data_generation) << path;
    EXPECT_TRUE(at_once.find(path)->children.consistent()) << path;
  }
}

// What was removed is taken apart by the changes that follow, a bounded share each.
TEST(Tree, RemovedNodesAreGivenBackByAndBy) {
  Node::reap_all();
  Ledger ledger;
  Tree tree;
  std::uint64_t generation = 0;
  Ref<PermissionSet> permissions = owned_by(0);
  for (int i = 0; i < 20000; ++i) {
    std::string path = "/top/" + std::to_string(i % 100) + "/" + std::to_string(i);
    for (std::string_view missing : {path.substr(0, 4), std::string(parent_path(path)), path}) {
      if (tree.find(missing) == nullptr) tree.create(missing, {}, permissions, ++generation, ledger);
    }
  }
  const std::uint32_t nodes = permissions->refs - 1;  // each holds one reference
  EXPECT_EQ(nodes, 20101U);
  tree.remove("/top", ++generation, ledger);
  EXPECT_EQ(permissions->refs - 1, nodes);
  int changes = 0;
  for (std::uint32_t left = nodes; left > 0; ++changes) {
    tree.set_value("/", as_bytes("x"), ++generation, ledger);
    EXPECT_LE(left - (permissions->refs - 1), 64 + nodes / 256 + 8);
    left = permissions->refs - 1;
  }
  EXPECT_LT(changes, 1000);
}

// Values short and long, grown and shrunk, in nodes that are shared and in nodes that are not.
TEST(Tree, ValuesOfAllLengthsReplaceEachOther) {
  std::mt19937 random(3);
  Ledger ledger;
  Tree tree;
  tree.create("/node", {}, owned_by(0), 1, ledger);
  std::vector<std::pair<Tree, std::string>> held;
  std::string last;
  for (std::uint64_t generation = 2; generation < 2000; ++generation) {
    last.assign(random() % (random() % 4 == 0 ? 3000 : 90), static_cast<char>('a' + random() % 26));
    tree.set_value("/node", as_bytes(last), generation, ledger);
    EXPECT_EQ(as_text(tree.find("/node")->value()), last);
    if (random() % 5 == 0) held.emplace_back(tree, last);
  }
  for (const auto& [tree_then, value] : held) EXPECT_EQ(as_text(tree_then.find("/node")->value()), value);
}

TEST(Tree, GenerationsMoveWithTheNodeAndItsParentOnly) {
  Ledger ledger;
  Tree tree;
  tree.create("/a", {}, owned_by(0), 1, ledger);
  tree.create("/a/b", {}, owned_by(0), 2, ledger);
  EXPECT_EQ(tree.find("/a")->generation, 2U);
  EXPECT_EQ(tree.find("/a")->data_generation, 1U);
  EXPECT_EQ(tree.find("/")->generation, 1U);
  tree.set_value("/a/b", as_bytes("x"), 3, ledger);
  EXPECT_EQ(tree.find("/a/b")->generation, 3U);
  EXPECT_EQ(tree.find("/a/b")->data_generation, 3U);
  EXPECT_EQ(tree.find("/a")->generation, 2U);
  tree.remove("/a/b", 4, ledger);
  EXPECT_EQ(tree.find("/a")->generation, 4U);
  EXPECT_EQ(tree.find("/a")->data_generation, 1U);
}

TEST(Tree, PermissionsOfDomainsYoungerThanTheNodeAreMarkedWhenItChanges) {
  Ledger ledger;
  ledger.born = {{5, 1}, {6, 3}};
  const std::array entries = {Permission{.domid = 0, .rights = 0, .ignored = 0},
                              Permission{.domid = 5, .rights = kMayRead, .ignored = 0},
                              Permission{.domid = 6, .rights = kMayRead, .ignored = 0},
                              Permission{.domid = 7, .rights = kMayRead, .ignored = 0}};
  Tree tree;
  tree.create("/a", {}, PermissionSet::make(entries), 2, ledger);
  tree.set_value("/a", as_bytes("x"), 4, ledger);
  const Permission* now = tree.find("/a")->permissions->data();
  EXPECT_EQ(now[1].ignored, 0);
  EXPECT_EQ(now[2].ignored, 1);
  EXPECT_EQ(now[3].ignored, 1);
  EXPECT_EQ(tree.find("/a")->hash, node_hash("/a", *tree.find("/a")));
}

TEST(Tree, NearestFindsTheDeepestExistingNode) {
  Ledger ledger;
  Tree tree;
  tree.create("/a", {}, owned_by(0), 1, ledger);
  tree.create("/a/b", {}, owned_by(0), 2, ledger);
  EXPECT_EQ(tree.nearest("/a/b/c/d").length, 4U);
  EXPECT_EQ(tree.nearest("/a/b").length, 4U);
  EXPECT_EQ(tree.nearest("/x/y").length, 1U);
  EXPECT_EQ(tree.nearest("/").node, &tree.root());
}

TEST(Tree, DeepAndWideTreesAreDestroyedWithoutRecursion) {
  Ledger ledger;
  Tree tree;
  std::string path;
  std::uint64_t generation = 0;
  for (int i = 0; i < 1500; ++i) {
    path += "/a";
    tree.create(path, {}, owned_by(0), ++generation, ledger);
  }
  Tree copy = tree;
  tree.remove("/a", ++generation, ledger);
  EXPECT_EQ(copy.node_count(), 1501U);
  EXPECT_EQ(tree.node_count(), 1U);
  // Deeper than any path can be: chained by hand.
  Ref<Node> chain = named("x");
  for (int i = 0; i < 500000; ++i) {
    Ref<Node> above = named("x");
    above->children.insert(std::move(chain));
    chain = std::move(above);
  }
  chain = {};
}

// With a snapshot held all the time, the cost of a change must not follow the size of the directory.
TEST(Tree, AHundredThousandChildrenWithSnapshotsHeld) {
  Ledger ledger;
  Tree tree;
  std::uint64_t generation = 0;
  Tree held = tree;
  for (int i = 0; i < 100000; ++i) {
    tree.create("/" + std::to_string(i * 7919 % 100000), {}, owned_by(0), ++generation, ledger);
    if (i % 10 == 0) held = tree;
  }
  EXPECT_EQ(tree.node_count(), 100001U);
  for (int i = 0; i < 100000; ++i) {
    held = tree;
    tree.set_value("/" + std::to_string(i), as_bytes("v"), ++generation, ledger);
  }
  EXPECT_TRUE(tree.root().children.consistent());
}

TEST(Tree, FlippedBitChangesAValueBehindTheDigestsBack) {
  Ledger ledger;
  Tree tree;
  tree.create("/a", as_bytes("x"), owned_by(0), 1, ledger);
  std::uint64_t digest = tree.digest();
  tree.flip_bit();
  EXPECT_EQ(tree.digest(), digest);
  EXPECT_EQ(as_text(tree.find("/a")->value()), "y");
}

}  // namespace
}  // namespace bulkhead::xenstore::core
