// The scrub: every flipped bit is found, wherever it stopped before and whatever changed meanwhile.
#include "components/xenstore/tree_scrub.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>
#include <set>

namespace bulkhead::xenstore::core {
namespace {

using testing::HasSubstr;

class Nobody final : public Accounts {
 public:
  void charge(std::uint32_t /*domid*/, std::int64_t /*nodes*/, std::int64_t /*bytes*/) override {}
  bool existed_at(std::uint32_t /*domid*/, std::uint64_t /*generation*/) const override { return true; }
};

Ref<PermissionSet> shared_by_two() {
  const std::array entries{Permission{.domid = 1, .rights = kNoRights, .ignored = 0},
                           Permission{.domid = 2, .rights = kMayRead, .ignored = 0}};
  return PermissionSet::make(entries);
}

class TreeScrubTest : public testing::Test {
 protected:
  void create(const std::string& path, std::string_view value) {
    tree_.create(path, as_bytes(value), shared_by_two(), ++generation_, nobody_);
  }
  // A whole pass; an empty text or what is damaged.
  std::string pass(std::size_t slice) {
    for (;;) {
      auto done = scrub_.step(tree_, generation_, slice);
      if (!done) return done.error().message();
      if (*done) return {};
    }
  }
  std::vector<std::string> paths() const {
    std::vector<std::string> all;
    for (TreeWalk walk(tree_.root(), "/"); !walk.done(); walk.next()) all.emplace_back(walk.path());
    return all;
  }
  // Flips each bit of `bytes` in turn; each must be found, and named where the node's path is still known.
  void expect_found(std::span<std::byte> bytes, const std::string& name) {
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      const std::string found = pass(3);
      EXPECT_NE(found, "") << bit;
      EXPECT_THAT(found, HasSubstr(name)) << bit;
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      scrub_ = {};
    }
    EXPECT_EQ(pass(3), "");
  }

  Nobody nobody_;
  Tree tree_;
  std::uint64_t generation_ = 0;
  TreeScrub scrub_;
};

TEST_F(TreeScrubTest, VisitsEveryNodeInSlicesOfAnySize) {
  for (int i = 0; i < 40; ++i) {
    create("/d" + std::to_string(i), "v");
    if (i % 3 == 0) create("/d" + std::to_string(i) + "/below", "w");
    if (i % 6 == 0) create("/d" + std::to_string(i) + "/below/deep", "x");
  }
  for (std::size_t slice = 1; slice < 80; ++slice) {
    EXPECT_EQ(pass(slice), "");
    EXPECT_EQ(scrub_.checked(), tree_.node_count());
  }
}

TEST_F(TreeScrubTest, FindsEveryFlippedBit) {
  for (const char* path : {"/a", "/a/b", "/a/b/c", "/d", "/e", "/e/long-name-of-a-node"})
    create(path, "value of " + std::string(path));
  for (const std::string& path : paths()) {
    SCOPED_TRACE(path);
    Node& node = const_cast<Node&>(*tree_.find(path));
    const std::span<const std::byte> value = node.value();
    expect_found({const_cast<std::byte*>(value.data()), value.size()}, path);
    expect_found(std::as_writable_bytes(std::span(node.permissions->data(), node.permissions->size)), path);
    expect_found(std::as_writable_bytes(std::span(&node.hash, 1)), path);
    const std::span<const std::byte> name = as_bytes(node.name());
    expect_found({const_cast<std::byte*>(name.data()), name.size()}, "");
  }
}

TEST_F(TreeScrubTest, FindsANodeThatIsMissingOrCountedTwice) {
  create("/a", "x");
  create("/b", "y");
  Tree other = tree_;
  EXPECT_EQ(pass(100), "");
  // Behind the tree's back: its sums still count /b.
  Node& root = const_cast<Node&>(tree_.root());
  const Ref<Node> taken = root.children.erase("b");
  EXPECT_THAT(pass(100), HasSubstr("wrong number"));
}

TEST_F(TreeScrubTest, FindsWhatIsFiledInAWrongPlaceOfALargeDirectory) {
  create("/many", "");
  for (int i = 0; i < 3000; ++i) create("/many/" + std::to_string(100000 + i), "v");
  EXPECT_EQ(pass(256), "");
  const_cast<char*>(tree_.find("/many/101500")->name().data())[3] ^= 2;
  EXPECT_NE(pass(256), "");
}

// The tree changes between all slices, around the place where the scrub stands.
TEST_F(TreeScrubTest, GoesOnWhateverChangesAndStillFindsIt) {
  std::mt19937 random(3);
  for (int i = 0; i < 60; ++i) create("/n" + std::to_string(i), "v");
  create("/n30/kept", "not touched by the changes");
  for (int round = 0; round < 300; ++round) {
    const bool damage = round % 3 == 0;
    auto* value = const_cast<std::byte*>(tree_.find("/n30/kept")->value().data());
    if (damage) value[0] ^= std::byte{4};
    std::string found;
    for (bool done = false; !done && found.empty();) {
      auto stepped = scrub_.step(tree_, generation_, random() % 5 + 1);
      if (!stepped) found = stepped.error().message();
      done = stepped && *stepped;
      const std::string path = "/n" + std::to_string(random() % 60);
      const bool there = tree_.find(path) != nullptr;
      if (!there) {
        create(path, "again");
      } else if (path != "/n30" && random() % 2 == 0) {
        tree_.remove(path, ++generation_, nobody_);
      } else if (random() % 2 == 0) {
        tree_.set_value(path, as_bytes(std::to_string(round)), ++generation_, nobody_);
      } else if (const std::string child = path + "/c" + std::to_string(random()); true) {
        create(child, "child");
      }
    }
    EXPECT_EQ(found, damage ? "damaged value or permissions of /n30/kept" : "");
    if (damage) value[0] ^= std::byte{4};
    if (damage) scrub_ = {};
  }
}

// Nothing of the tree is held between two steps: a change copies nothing because of the scrub.
TEST_F(TreeScrubTest, HoldsNothing) {
  create("/a", "x");
  create("/a/b", "y");
  EXPECT_FALSE(scrub_.step(tree_, generation_, 2).value());
  const Node* root = &tree_.root();
  const Node* node = tree_.find("/a/b");
  tree_.set_value("/a/b", as_bytes("z"), ++generation_, nobody_);
  EXPECT_EQ(&tree_.root(), root);
  EXPECT_EQ(tree_.find("/a/b"), node);
  EXPECT_EQ(pass(1), "");
}

// A change keeps what it does not replace: also that it is damaged.
TEST_F(TreeScrubTest, ANewHashDoesNotHideDamage) {
  class Fickle final : public Accounts {
   public:
    void charge(std::uint32_t /*domid*/, std::int64_t /*nodes*/, std::int64_t /*bytes*/) override {}
    bool existed_at(std::uint32_t domid, std::uint64_t /*generation*/) const override { return domid != 2; }
  } domain_2_is_gone;
  create("/a", "x");
  const_cast<std::byte&>(tree_.find("/a")->value()[0]) ^= std::byte{1};
  tree_.create("/a/b", as_bytes("y"), shared_by_two(), ++generation_, domain_2_is_gone);
  EXPECT_EQ(tree_.find("/a")->permissions->data()[1].ignored, 1);
  EXPECT_THAT(pass(10), HasSubstr("damaged value or permissions of /a"));
}

}  // namespace
}  // namespace bulkhead::xenstore::core
