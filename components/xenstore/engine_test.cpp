// What each request answers and fires, by hand-written expectation.
#include "components/xenstore/engine.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <malloc.h>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/node.h"
#include "components/xenstore/snapshot.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using Lines = std::vector<std::string>;

TEST(Engine, FreshStoreHoldsWhatTheCDaemonMakes) {
  Store s;
  EXPECT_EQ(s.list(0, "/"), "tool|");
  EXPECT_EQ(s.list(0, "/tool"), "xenstored|");
  EXPECT_EQ(s.list(0, "/tool/xenstored"), "");
  EXPECT_EQ(s.call(0, kGetPerms, "/tool|"), "n0|");
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "0|"), "T|");
  EXPECT_EQ(s.engine.node_count(), 3U);
  EXPECT_EQ(s.used(0, "nodes"), 3U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Engine, ReadsAndWrites) {
  Store s;
  EXPECT_EQ(s.read(0, "/a"), "ENOENT");
  EXPECT_EQ(s.write(0, "/a/b/c", "value"), "OK|");
  EXPECT_EQ(s.read(0, "/a/b/c"), "value");
  EXPECT_EQ(s.read(0, "/a/b"), "");
  EXPECT_EQ(s.call(0, kWrite, "/bin|x|y|"), "OK|");
  EXPECT_EQ(s.read(0, "/bin"), "x|y|");
  EXPECT_EQ(s.write(0, "/a/b/c", ""), "OK|");
  EXPECT_EQ(s.read(0, "/a/b/c"), "");
  EXPECT_EQ(s.list(0, "/a"), "b|");
}

TEST(Engine, DirectoriesAreListedInTheOrderOfNames) {
  Store s;
  for (const char* name : {"zz", "a", "b10", "b1", "B"}) s.write(0, std::string("/d/") + name, "");
  EXPECT_EQ(s.list(0, "/d"), "B|a|b1|b10|zz|");
}

TEST(Engine, MalformedRequestsAreInvalid) {
  Store s;
  for (const char* payload : {"", "/a", "a b|", "/a/|", "//|", "@introduceDomain|", "/a|b|", "|"}) {
    EXPECT_EQ(s.call(0, kRead, payload), "EINVAL") << payload;
    EXPECT_EQ(s.call(0, kMkdir, payload), "EINVAL") << payload;
    EXPECT_EQ(s.call(0, kRm, payload), "EINVAL") << payload;
  }
  EXPECT_EQ(s.call(0, kWrite, ""), "EINVAL");
  EXPECT_EQ(s.call(0, kWrite, "/a"), "EINVAL");
  EXPECT_EQ(s.call(0, kSetPerms, "/tool|"), "EINVAL");
  EXPECT_EQ(s.call(0, kSetPerms, "/tool|q0|"), "EINVAL");
  EXPECT_EQ(s.call(0, kWatch, "/tool|"), "EINVAL");
  EXPECT_EQ(s.call(0, kWatch, "/tool|t|1|2|"), "EINVAL");
  EXPECT_EQ(s.call(0, kDirectoryPart, "/tool|"), "EINVAL");
  EXPECT_EQ(s.call(0, kIntroduce, "5|1|"), "EINVAL");
  EXPECT_EQ(s.call(0, kTransactionEnd, "X|", s.begin(0)), "EINVAL");
  EXPECT_EQ(s.engine.node_count(), 3U);
}

TEST(Engine, UnknownTypesAndTransactions) {
  Store s;
  for (std::uint32_t type : {15U, 16U, 20U, 27U, 65535U, 0xFFFFFFFFU}) {
    EXPECT_EQ(s.call(0, type, "/a|"), "ENOSYS") << type;
  }
  EXPECT_EQ(s.call(0, kRead, "/tool|", 77), "ENOENT");
  EXPECT_EQ(s.call(0, kTransactionStart, "|", 77), "ENOENT");
  EXPECT_EQ(s.call(0, kTransactionStart, "|", s.begin(0)), "EBUSY");
  EXPECT_EQ(s.call(0, kTransactionEnd, "T|"), "ENOENT");
  // WATCH and UNWATCH ignore the transaction id.
  EXPECT_EQ(s.call(0, kWatch, "/tool|t|", 77), "OK|");
  EXPECT_EQ(s.call(0, kUnwatch, "/tool|t|", 77), "OK|");
  EXPECT_EQ(s.call(9, kRead, "/tool|"), "EINVAL");
}

TEST(Engine, RelativePathsStartAtTheCallersHome) {
  Store s;
  s.write(0, "/local/domain/1", "");
  s.call(0, kSetPerms, "/local/domain/1|n1|");
  EXPECT_EQ(s.write(1, "data/x", "v"), "OK|");
  EXPECT_EQ(s.read(0, "/local/domain/1/data/x"), "v");
  EXPECT_EQ(s.write(0, "name", "dom0"), "OK|");
  EXPECT_EQ(s.read(0, "/local/domain/0/name"), "dom0");
}

TEST(Engine, MkdirAndRm) {
  Store s;
  EXPECT_EQ(s.call(0, kMkdir, "/a/b|"), "OK|");
  s.write(0, "/a/b", "v");
  EXPECT_EQ(s.call(0, kMkdir, "/a/b|"), "OK|");
  EXPECT_FALSE(s.mutated);
  EXPECT_EQ(s.read(0, "/a/b"), "v");
  s.write(0, "/a/b/c/d", "");
  EXPECT_EQ(s.call(0, kRm, "/a/b/x|"), "OK|");
  EXPECT_FALSE(s.mutated);
  EXPECT_EQ(s.call(0, kRm, "/a/x/y|"), "ENOENT");
  EXPECT_EQ(s.call(0, kRm, "/a/b|"), "OK|");
  EXPECT_EQ(s.read(0, "/a/b/c/d"), "ENOENT");
  EXPECT_EQ(s.list(0, "/a"), "");
  EXPECT_EQ(s.call(0, kRm, "/|"), "EINVAL");
  EXPECT_TRUE(s.engine.check());
}

TEST(Engine, DirectoryPartWalksALongList) {
  Store s;
  std::string expected;
  for (int i = 10000; i < 12000; ++i) {
    s.write(0, "/d/n" + std::to_string(i), "");
    expected += "n" + std::to_string(i) + "|";
  }
  EXPECT_EQ(s.list(0, "/d"), "E2BIG");
  std::string list;
  std::string generation;
  for (;;) {
    std::string part = s.call(0, kDirectoryPart, "/d|" + std::to_string(list.size()) + "|");
    ASSERT_LE(part.size(), kMaxPayload);
    std::string first = part.substr(0, part.find('|') + 1);
    if (generation.empty()) generation = first;
    ASSERT_EQ(first, generation);
    list += part.substr(first.size());
    if (list.ends_with("||") || part.size() == first.size() + 1) break;
  }
  EXPECT_EQ(list, expected + "|");
  EXPECT_EQ(s.call(0, kDirectoryPart, "/d|999999|"), generation + "|");
  EXPECT_TRUE(s.call(0, kDirectoryPart, "/d|2|").starts_with(generation + "0000|n10001|"));
  s.write(0, "/d/n10000", "a child's value is not the list");
  EXPECT_TRUE(s.call(0, kDirectoryPart, "/d|0|").starts_with(generation));
  s.write(0, "/d/new", "");
  EXPECT_FALSE(s.call(0, kDirectoryPart, "/d|0|").starts_with(generation));
}

// ---- permissions ----

TEST(Permissions, OwnerOthersAndEntries) {
  Store s;
  s.write(0, "/a", "v");
  EXPECT_EQ(s.read(1, "/a"), "EACCES");
  s.call(0, kSetPerms, "/a|n1|r2|w3|");
  EXPECT_EQ(s.call(0, kGetPerms, "/a|"), "n1|r2|w3|");
  EXPECT_EQ(s.read(1, "/a"), "v");
  EXPECT_EQ(s.write(1, "/a", "1"), "OK|");
  EXPECT_EQ(s.read(2, "/a"), "1");
  EXPECT_EQ(s.write(2, "/a", "2"), "EACCES");
  EXPECT_EQ(s.read(3, "/a"), "EACCES");
  EXPECT_EQ(s.write(3, "/a", "3"), "OK|");
  EXPECT_EQ(s.read(0, "/a"), "3");
  s.call(0, kSetPerms, "/a|b0|");
  EXPECT_EQ(s.read(3, "/a"), "3");
}

TEST(Permissions, OnlyTheOwnerSetsThemAndOnlyDomainZeroTheOwner) {
  Store s;
  s.write(0, "/a", "");
  s.call(0, kSetPerms, "/a|b1|");
  EXPECT_EQ(s.call(2, kSetPerms, "/a|b1|"), "EACCES");
  EXPECT_EQ(s.call(1, kSetPerms, "/a|n2|"), "EPERM");
  EXPECT_EQ(s.call(1, kSetPerms, "/a|n1|r2|"), "OK|");
  EXPECT_EQ(s.call(0, kSetPerms, "/a|n2|"), "OK|");
  EXPECT_EQ(s.call(0, kSetPerms, "/a|n40000|"), "ENOENT");
}

TEST(Permissions, AnAbsentNodeIsToldOnlyWhereTheParentMayBeRead) {
  Store s;
  s.write(0, "/open/closed", "");
  s.call(0, kSetPerms, "/open|r0|");
  EXPECT_EQ(s.read(1, "/open/nothing"), "ENOENT");
  EXPECT_EQ(s.read(1, "/open/nothing/below"), "ENOENT");
  EXPECT_EQ(s.read(1, "/open/closed/x"), "EACCES");
  EXPECT_EQ(s.read(1, "/nothing"), "EACCES");
  EXPECT_EQ(s.write(1, "/open/x", ""), "EACCES");
}

TEST(Permissions, NewNodesInheritAndBelongToTheDomainThatMadeThem) {
  Store s;
  s.write(0, "/a", "");
  s.call(0, kSetPerms, "/a|b0|r2|");
  s.write(1, "/a/b/c", "");
  EXPECT_EQ(s.call(0, kGetPerms, "/a/b|"), "b1|r2|");
  EXPECT_EQ(s.call(0, kGetPerms, "/a/b/c|"), "b1|r2|");
  s.write(0, "/a/b/d", "");
  EXPECT_EQ(s.call(0, kGetPerms, "/a/b/d|"), "b1|r2|");
  EXPECT_EQ(s.used(1, "nodes"), 3U);
}

TEST(Permissions, ATargetLendsItsRights) {
  Store s;
  for (const char* domid : {"1", "2"}) s.call(0, kIntroduce, std::string(domid) + "|1|1|");
  s.write(0, "/a", "v");
  s.call(0, kSetPerms, "/a|n1|");
  s.write(0, "/b", "w");
  s.call(0, kSetPerms, "/b|n0|r1|");
  EXPECT_EQ(s.read(2, "/a"), "EACCES");
  EXPECT_EQ(s.call(0, kSetTarget, "2|3|"), "ENOENT");
  for (const char* wrong : {"2|x|", "2||", "2|1x|", "2|+1|", "2| 1|", "2|-1|", "2|65536|", "x|1|", "|1|"}) {
    EXPECT_EQ(s.call(0, kSetTarget, wrong), "EINVAL") << wrong;
  }
  EXPECT_EQ(s.call(0, kSetTarget, "2|1|"), "OK|");
  EXPECT_EQ(s.write(2, "/a", "x"), "OK|");
  EXPECT_EQ(s.read(2, "/b"), "w");
  EXPECT_EQ(s.write(2, "/b", "x"), "EACCES");
  s.call(0, kRelease, "1|");
  EXPECT_EQ(s.read(2, "/b"), "EACCES");
}

TEST(Permissions, PrivilegedRequests) {
  Store s;
  for (auto [type, payload] :
       {std::pair{kControl, "check|"}, std::pair{kIntroduce, "5|1|1|"}, std::pair{kRelease, "5|"},
        std::pair{kIsDomainIntroduced, "0|"}, std::pair{kResume, "5|"}, std::pair{kSetTarget, "1|2|"}}) {
    EXPECT_EQ(s.call(1, type, payload), "EACCES") << type;
  }
  EXPECT_EQ(s.call(1, kGetDomainPath, "7|"), "/local/domain/7|");
}

// ---- old versions ----

// Bytes in use by this process; 0 where a sanitizer keeps the books.
std::size_t in_use() {
  core::Node::reap_all();  // what is dead counts no more
  const auto info = ::mallinfo2();
  return info.uordblks + info.hblkhd;
}

// A guest keeps transactions open while the toolstack rewrites everything again and again: what they keep
// alive is bounded; the oldest can be committed no more, and nobody else is touched.
TEST(Transactions, WhatOpenOnesKeepAliveIsBounded) {
  Store s;
  constexpr int kNodes = 100'000;
  constexpr int kRounds = 4;
  const auto write_all = [&](int round) {
    const std::string value = std::to_string(round) + std::string(20, 'x');
    for (int i = 0; i < kNodes; ++i)
      s.write(0, "/all/" + std::to_string(i % 1000) + "/" + std::to_string(i), value);
  };
  const std::size_t empty = in_use();
  write_all(0);
  const std::size_t full = in_use() - empty;
  const std::uint32_t bystander = s.begin(2);
  std::vector<std::uint32_t> open;
  for (int round = 1; round <= kRounds; ++round) {
    open.push_back(s.begin(1));
    s.call(1, kRead, "/all|", open.back());
    write_all(round);
  }
  // The tree, two more, and what was made since it was looked at last.
  EXPECT_LE(in_use() - empty, full * 7 / 2);
  EXPECT_TRUE(s.engine.check());
  // What a successor reads from a snapshot judges the same.
  auto successor = read_snapshot(write_snapshot(s.engine));
  ASSERT_TRUE(successor) << successor.error().message();
  EXPECT_EQ(successor->fingerprint(), s.engine.fingerprint());
  std::swap(s.engine, *successor);
  EXPECT_EQ(s.end(1, open.front()), "EAGAIN");
  EXPECT_EQ(s.read(1, "/tool", open[1]), "EACCES");
  s.call(0, kSetPerms, "/tool|r0|");
  EXPECT_EQ(s.read(1, "/tool", open[1]), "") << "it reads on, and is told at its end";
  EXPECT_EQ(s.write(1, "/tool", "x", open[1]), "EAGAIN");
  EXPECT_EQ(s.end(1, open[1]), "EAGAIN");
  EXPECT_EQ(s.end(1, open.back()), "OK|");
  EXPECT_EQ(s.end(2, bystander), "OK|") << "it keeps less than others do";
  EXPECT_EQ(s.used(1, "memory"), 0U);
  EXPECT_TRUE(s.engine.check());
}

// ---- watches ----

TEST(Watches, ReplyComesFirstThenTheInitialEvent) {
  Store s;
  EXPECT_EQ(s.call(0, kWatch, "/a|tok|"), "OK|");
  EXPECT_THAT(s.said, ElementsAre("reply:4:OK|", "event:0:/a|tok|"));
  EXPECT_EQ(s.call(0, kWatch, "/a|tok|"), "EEXIST");
  EXPECT_EQ(s.call(0, kWatch, "/a|other|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/a|tok|"), "OK|");
  EXPECT_EQ(s.call(0, kUnwatch, "/a|nothing|"), "ENOENT");
  EXPECT_EQ(s.call(0, kUnwatch, "/a|tok|"), "OK|");
  s.write(0, "/a", "");
  EXPECT_THAT(s.said, ElementsAre("event:0:/a|other|", "reply:11:OK|"));
}

TEST(Watches, ChangesAtAndBelowFire) {
  Store s;
  s.call(0, kWatch, "/a|t|");
  s.write(0, "/a/b/c", "x");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/b/c|t|"));
  s.call(0, kMkdir, "/a/m|");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/m|t|"));
  s.call(0, kMkdir, "/a/m|");
  EXPECT_THAT(s.events, IsEmpty());
  s.call(0, kSetPerms, "/a/m|r0|");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/m|t|"));
  s.write(0, "/ab", "");
  EXPECT_THAT(s.events, IsEmpty());
  s.call(0, kRm, "/a|");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a|t|"));
  s.call(0, kRm, "/a|");
  EXPECT_THAT(s.events, IsEmpty());
}

TEST(Watches, RootSeesEverythingButSpecialEvents) {
  Store s;
  s.call(0, kWatch, "/|r|");
  s.write(0, "/x/y", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:/x/y|r|"));
  s.call(0, kIntroduce, "5|1|1|");
  EXPECT_THAT(s.events, ElementsAre("introduced:5:1:1"));
}

TEST(Watches, RelativeOnesReportRelativePaths) {
  Store s;
  s.call(0, kWatch, "device|t|");
  EXPECT_THAT(s.events, ElementsAre("event:0:device|t|"));
  s.write(0, "/local/domain/0/device/vbd", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:device/vbd|t|"));
  EXPECT_EQ(s.call(0, kUnwatch, "/local/domain/0/device|t|"), "OK|");
}

TEST(Watches, DepthLimitsWhatMatches) {
  Store s;
  s.call(0, kWatch, "/a|zero|0|");
  s.call(0, kWatch, "/a|one|1|");
  s.call(0, kWatch, "/|three|3|");
  EXPECT_EQ(s.call(0, kWatch, "/a|bad|-1|"), "EINVAL");
  s.write(0, "/a", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a|zero|", "event:0:/a|one|", "event:0:/a|three|"));
  s.write(0, "/a/b", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/b|one|", "event:0:/a/b|three|"));
  s.write(0, "/a/b/c", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/b/c|three|"));
  s.write(0, "/a/b/c/d", "");
  EXPECT_THAT(s.events, IsEmpty());
}

TEST(Watches, RemovingASubtreeFiresTheWatchesBelowIt) {
  Store s;
  s.write(0, "/a/b/c", "");
  s.call(0, kWatch, "/a/b/c|below|");
  s.call(0, kWatch, "/a/b/none|absent|");
  s.call(0, kWatch, "/|above|");
  s.call(0, kRm, "/a|");
  EXPECT_THAT(s.said, ElementsAre("event:0:/a/b/c|below|", "event:0:/a|above|", "reply:13:OK|"));
}

TEST(Watches, OnlyThoseWhoMayReadAreTold) {
  Store s;
  s.write(0, "/a/secret", "");
  s.write(0, "/a/open", "");
  s.call(0, kSetPerms, "/a/open|r0|");
  s.call(1, kWatch, "/a|t|");
  s.write(0, "/a/secret", "x");
  EXPECT_THAT(s.events, IsEmpty());
  s.write(0, "/a/open", "x");
  EXPECT_THAT(s.events, ElementsAre("event:1:/a/open|t|"));
  // Losing the right is still told, and so is the removal of what could be read.
  s.call(0, kSetPerms, "/a/open|n0|");
  EXPECT_THAT(s.events, ElementsAre("event:1:/a/open|t|"));
  s.call(0, kSetPerms, "/a/open|n0|r1|");
  s.call(0, kRm, "/a/open|");
  EXPECT_THAT(s.events, ElementsAre("event:1:/a/open|t|"));
  s.call(0, kRm, "/a/secret|");
  EXPECT_THAT(s.events, IsEmpty());
  // A readable parent lets its children's changes be known.
  s.call(0, kSetPerms, "/a|r0|");
  s.write(0, "/a/hidden", "");
  s.call(0, kSetPerms, "/a/hidden|n0|");
  s.write(0, "/a/hidden", "x");
  EXPECT_THAT(s.events, ElementsAre("event:1:/a/hidden|t|"));
}

TEST(Watches, EventsComeInTheOrderOfRegistration) {
  Store s;
  s.call(0, kWatch, "/a/b|1|");
  s.call(0, kWatch, "/|2|");
  s.call(0, kWatch, "/a|3|");
  s.write(0, "/a/b", "");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/b|1|", "event:0:/a/b|2|", "event:0:/a/b|3|"));
}

// Of many on one path, each is the one that its connection, token and path say.
TEST(Watches, ManyOnOnePathAreToldApart) {
  Store s;
  constexpr int kMany = 2000;
  const auto payload = [](int i) { return "/a|" + std::to_string(i) + "|"; };
  for (int i = 0; i < kMany; ++i) ASSERT_EQ(s.call(0, kWatch, payload(i)), "OK|");
  for (int i = 0; i < kMany; ++i) ASSERT_EQ(s.call(0, kWatch, payload(i)), "EEXIST");
  EXPECT_EQ(s.call(0, kWatch, "/b|7|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/a|7|"), "OK|");
  EXPECT_EQ(s.call(1, kUnwatch, "/a|8|"), "ENOENT");
  for (int i = 0; i < kMany; i += 2) ASSERT_EQ(s.call(0, kUnwatch, payload(i)), "OK|");
  for (int i = 0; i < kMany; ++i) ASSERT_EQ(s.call(0, kUnwatch, payload(i)), i % 2 == 0 ? "ENOENT" : "OK|");
  EXPECT_EQ(s.call(0, kUnwatch, "/b|7|"), "OK|");
  EXPECT_EQ(s.call(1, kUnwatch, "/a|7|"), "OK|");
  EXPECT_EQ(s.used(0, "watches"), 0U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Watches, ResetAndDisconnectForgetThem) {
  Store s;
  s.call(0, kWatch, "/a|t|");
  s.begin(0);
  EXPECT_EQ(s.call(0, kResetWatches, "|"), "OK|");
  EXPECT_TRUE(s.mutated);
  EXPECT_EQ(s.used(0, "watches"), 0U);
  EXPECT_EQ(s.used(0, "transactions"), 0U);
  s.call(0, kResetWatches, "|");
  EXPECT_FALSE(s.mutated);
  s.call(0, kWatch, "/a|t|");
  s.begin(0);
  Recorder out;
  s.engine.disconnect(0, out);
  EXPECT_THAT(out.said, IsEmpty());
  EXPECT_EQ(s.used(0, "watches"), 0U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Watches, AnEventTooLongForAMessageIsDropped) {
  Store s;
  std::string token(4096 - 4 - 1, 't');
  EXPECT_EQ(s.call(0, kWatch, "/a|" + token + "|"), "OK|");
  EXPECT_THAT(s.events, testing::SizeIs(1));
  s.write(0, "/a/b", "");
  EXPECT_THAT(s.events, IsEmpty());
}

// ---- transactions ----

TEST(Transactions, IdsCountUpPerConnection) {
  Store s;
  EXPECT_EQ(s.begin(0), 1U);
  EXPECT_EQ(s.begin(0), 2U);
  EXPECT_EQ(s.begin(1), 1U);
  EXPECT_EQ(s.end(0, 1), "OK|");
  EXPECT_EQ(s.begin(0), 3U);
  EXPECT_EQ(s.end(0, 1), "ENOENT");
}

TEST(Transactions, SeeTheirOwnWritesAndNobodyElseDoes) {
  Store s;
  s.write(0, "/a", "old");
  std::uint32_t t = s.begin(0);
  s.call(0, kWatch, "/|w|");
  EXPECT_EQ(s.write(0, "/a", "new", t), "OK|");
  EXPECT_THAT(s.events, IsEmpty());
  s.write(0, "/x/y", "1", t);
  EXPECT_EQ(s.read(0, "/a", t), "new");
  EXPECT_EQ(s.list(0, "/x", t), "y|");
  EXPECT_EQ(s.read(0, "/a"), "old");
  EXPECT_EQ(s.read(0, "/x"), "ENOENT");
  EXPECT_EQ(s.end(0, t), "OK|");
  EXPECT_THAT(s.said, ElementsAre("event:0:/a|w|", "event:0:/x/y|w|", "reply:7:OK|"));
  EXPECT_EQ(s.read(0, "/a"), "new");
  EXPECT_EQ(s.read(0, "/x/y"), "1");
  EXPECT_TRUE(s.engine.check());
}

TEST(Transactions, DoNotSeeLaterChanges) {
  Store s;
  s.write(0, "/a", "old");
  std::uint32_t t = s.begin(0);
  s.write(0, "/a", "new");
  EXPECT_EQ(s.read(0, "/a", t), "old");
  EXPECT_EQ(s.end(0, t), "EAGAIN");
}

TEST(Transactions, AbortedOnesLeaveNothing) {
  Store s;
  std::uint64_t digest = s.engine.digest();
  std::uint32_t t = s.begin(0);
  s.write(0, "/a", "", t);
  s.call(0, kRm, "/tool|", t);
  EXPECT_EQ(s.end(0, t, "F"), "OK|");
  EXPECT_EQ(s.engine.digest(), digest);
  EXPECT_TRUE(s.engine.check());
}

TEST(Transactions, ConflictsAreThoseOfNodesTouched) {
  struct Case {
    const char* name;
    void (*inside)(Store& s, std::uint32_t t);
    void (*meanwhile)(Store& s);
    const char* verdict;
  };
  const Case cases[] = {
      {"read, written meanwhile", [](Store& s, std::uint32_t t) { s.read(0, "/a/x", t); },
       [](Store& s) { s.write(0, "/a/x", "2"); }, "EAGAIN"},
      {"read, something else written", [](Store& s, std::uint32_t t) { s.read(0, "/a/x", t); },
       [](Store& s) { s.write(0, "/a/y", "2"); }, "OK|"},
      {"read, child made below", [](Store& s, std::uint32_t t) { s.read(0, "/a/x", t); },
       [](Store& s) { s.write(0, "/a/x/new", ""); }, "OK|"},
      {"listed, child made", [](Store& s, std::uint32_t t) { s.list(0, "/a", t); },
       [](Store& s) { s.write(0, "/a/new", ""); }, "EAGAIN"},
      {"listed, child written", [](Store& s, std::uint32_t t) { s.list(0, "/a", t); },
       [](Store& s) { s.write(0, "/a/x", ""); }, "OK|"},
      {"found absent, made meanwhile", [](Store& s, std::uint32_t t) { s.read(0, "/a/new", t); },
       [](Store& s) { s.write(0, "/a/new", ""); }, "EAGAIN"},
      {"found absent, still absent", [](Store& s, std::uint32_t t) { s.read(0, "/a/new/z", t); },
       [](Store& s) { s.write(0, "/a/new", ""); }, "OK|"},
      {"written blindly by both", [](Store& s, std::uint32_t t) { s.write(0, "/a/x", "1", t); },
       [](Store& s) { s.write(0, "/a/x", "2"); }, "EAGAIN"},
      {"different children made", [](Store& s, std::uint32_t t) { s.write(0, "/a/n1", "1", t); },
       [](Store& s) { s.write(0, "/a/n2", "2"); }, "OK|"},
      {"same missing parent made", [](Store& s, std::uint32_t t) { s.write(0, "/n/1", "1", t); },
       [](Store& s) { s.write(0, "/n/2", "2"); }, "EAGAIN"},
      {"parent removed under a creation", [](Store& s, std::uint32_t t) { s.write(0, "/a/n", "1", t); },
       [](Store& s) { s.call(0, kRm, "/a|"); }, "EAGAIN"},
      {"removed, written below meanwhile", [](Store& s, std::uint32_t t) { s.call(0, kRm, "/a|", t); },
       [](Store& s) { s.write(0, "/a/x/deep", "2"); }, "EAGAIN"},
      {"removed, elsewhere written", [](Store& s, std::uint32_t t) { s.call(0, kRm, "/a/x|", t); },
       [](Store& s) { s.write(0, "/a/y", "2"); }, "OK|"},
      {"removed by both", [](Store& s, std::uint32_t t) { s.call(0, kRm, "/a/x|", t); },
       [](Store& s) { s.call(0, kRm, "/a/x|"); }, "EAGAIN"},
      {"removed and made again meanwhile", [](Store& s, std::uint32_t t) { s.read(0, "/a/x", t); },
       [](Store& s) {
         s.call(0, kRm, "/a/x|");
         s.write(0, "/a/x", "1");
       },
       "EAGAIN"},
      {"permissions changed", [](Store& s, std::uint32_t t) { s.call(0, kGetPerms, "/a/x|", t); },
       [](Store& s) { s.call(0, kSetPerms, "/a/x|r0|"); }, "EAGAIN"},
  };
  for (const Case& c : cases) {
    SCOPED_TRACE(c.name);
    Store s;
    s.write(0, "/a/x", "1");
    s.write(0, "/a/y", "1");
    std::uint32_t t = s.begin(0);
    c.inside(s, t);
    c.meanwhile(s);
    std::uint64_t digest = s.engine.digest();
    EXPECT_EQ(s.end(0, t), c.verdict);
    if (std::string(c.verdict) == "EAGAIN") {
      EXPECT_EQ(s.engine.digest(), digest);
    }
    EXPECT_TRUE(s.engine.check());
  }
}

TEST(Transactions, MergeOntoWhatOthersDid) {
  Store s;
  s.write(0, "/a/x", "1");
  s.write(0, "/a/gone/deep", "1");
  std::uint32_t t = s.begin(0);
  s.write(0, "/a/x", "mine", t);
  s.call(0, kRm, "/a/gone|", t);
  s.write(0, "/a/gone/fresh", "made again", t);
  s.write(0, "/a/new/deep", "n", t);
  s.call(0, kSetPerms, "/a/new|r3|", t);
  s.write(0, "/other", "theirs");
  s.write(0, "/a/y", "theirs");
  s.call(0, kWatch, "/a|w|");
  EXPECT_EQ(s.end(0, t), "OK|");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/x|w|", "event:0:/a/gone|w|", "event:0:/a/gone/fresh|w|",
                                    "event:0:/a/new/deep|w|", "event:0:/a/new|w|"));
  EXPECT_EQ(s.list(0, "/a"), "gone|new|x|y|");
  EXPECT_EQ(s.list(0, "/a/gone"), "fresh|");
  EXPECT_EQ(s.read(0, "/a/x"), "mine");
  EXPECT_EQ(s.read(0, "/a/gone/fresh"), "made again");
  EXPECT_EQ(s.call(0, kGetPerms, "/a/new|"), "r3|");
  EXPECT_EQ(s.read(0, "/other"), "theirs");
  EXPECT_TRUE(s.engine.check());
}

TEST(Transactions, EventsOfRemovedSubtreesAndVanishedNodes) {
  Store s;
  s.write(0, "/a/b/c", "");
  for (const char* path : {"/a/b/c", "/a/b", "/tmp", "/"}) s.call(0, kWatch, std::string(path) + "|w|");
  std::uint32_t t = s.begin(0);
  s.write(0, "/tmp/x", "", t);
  s.call(0, kRm, "/tmp|", t);
  s.call(0, kRm, "/a|", t);
  EXPECT_EQ(s.end(0, t), "OK|");
  EXPECT_THAT(s.events, ElementsAre("event:0:/a/b|w|", "event:0:/a/b/c|w|", "event:0:/a|w|"));
}

TEST(Transactions, ReadsThatAddNothingNeedNotBeLogged) {
  Store s;
  std::uint32_t t = s.begin(0);
  EXPECT_TRUE(s.mutated);
  s.read(0, "/tool", t);
  EXPECT_TRUE(s.mutated);
  s.read(0, "/tool", t);
  EXPECT_FALSE(s.mutated);
  s.list(0, "/tool", t);
  EXPECT_TRUE(s.mutated);
  s.read(0, "/tool");
  EXPECT_FALSE(s.mutated);
}

// ---- domains ----

TEST(Domains, IntroduceAndRelease) {
  Store s;
  s.call(0, kWatch, "@introduceDomain|i|");
  s.call(0, kWatch, "@releaseDomain|r|");
  s.call(0, kWatch, "@releaseDomain|depth|1|");
  s.call(0, kWatch, "@releaseDomain/5|five|");
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "5|"), "F|");
  EXPECT_EQ(s.call(0, kIntroduce, "5|1234|7|"), "OK|");
  EXPECT_THAT(s.said, ElementsAre("introduced:5:1234:7", "event:0:@introduceDomain|i|", "reply:8:OK|"));
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "5|"), "T|");
  EXPECT_EQ(s.call(0, kIntroduce, "5|1234|8|"), "OK|");
  EXPECT_THAT(s.said, ElementsAre("introduced:5:1234:8", "reply:8:OK|"));
  EXPECT_EQ(s.call(0, kRelease, "5|"), "OK|");
  EXPECT_THAT(s.said, ElementsAre("event:0:@releaseDomain|r|", "event:0:@releaseDomain/5|depth|",
                                  "event:0:@releaseDomain/5|five|", "released:5", "reply:9:OK|"));
  EXPECT_EQ(s.call(0, kRelease, "5|"), "ENOENT");
  EXPECT_EQ(s.call(0, kRelease, "0|"), "EINVAL");
  EXPECT_EQ(s.call(0, kIntroduce, "32752|1|1|"), "EINVAL");
  EXPECT_EQ(s.call(0, kIntroduce, "6|1|0|"), "EINVAL");
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "32752|"), "T|");
}

TEST(Domains, AreKnownWithTheNumberOfTheirIntroduction) {
  Store s;
  s.call(0, kIntroduce, "5|1234|7|");
  s.call(0, kIntroduce, "3|1234|9|");
  const auto described = [&s] {
    std::string text;
    for (const IntroducedDomain& d : s.engine.introduced_domains()) {
      text +=
          std::to_string(d.domid) + ":" + std::to_string(d.port) + ":" + std::to_string(d.introduction) + " ";
    }
    return text;
  };
  EXPECT_EQ(described(), "3:9:2 5:7:1 ");
  s.call(0, kIntroduce, "5|1234|7|");
  EXPECT_EQ(described(), "3:9:2 5:7:3 ");
  s.call(0, kRelease, "5|");
  s.call(0, kIntroduce, "5|1234|7|");
  EXPECT_EQ(described(), "3:9:2 5:7:4 ");
}

TEST(Domains, OneThatIsGoneIsReleased) {
  Store s;
  s.call(0, kIntroduce, "5|1234|7|");
  s.write(0, "/local/domain/5/name", "guest");
  s.call(0, kSetPerms, "/local/domain/5|n5|");
  s.call(0, kWatch, "@releaseDomain|r|");
  Recorder out;
  s.engine.domain_gone(5, out);
  EXPECT_THAT(out.said, ElementsAre(nul("event:0:@releaseDomain|r|"), "released:5"));
  EXPECT_EQ(s.read(0, "/local/domain/5"), "ENOENT");
  s.engine.domain_gone(5, out);
  s.engine.domain_gone(0, out);
  EXPECT_EQ(out.said.size(), 2U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Domains, AConnectionIsResetAndStaysConnected) {
  Store s;
  s.call(1, kWatch, "/watched|w|");
  s.begin(1);
  Recorder out;
  s.engine.reset(1, out);
  EXPECT_EQ(s.used(1, "watches"), 0U);
  EXPECT_EQ(s.used(1, "transactions"), 0U);
  EXPECT_EQ(s.call(1, kUnwatch, "/watched|w|"), "ENOENT");
  EXPECT_TRUE(s.engine.check());
}

TEST(Domains, ReleaseRemovesWhatTheDomainOwned) {
  Store s;
  s.call(0, kIntroduce, "1|1|1|");
  s.write(0, "/local/domain/1/device", "");
  s.call(0, kSetPerms, "/local/domain/1|n1|");
  s.write(0, "/else/where/kept", "");
  s.write(0, "/else/where/owned/below", "");
  s.call(0, kSetPerms, "/else/where/owned|n1|");
  s.call(0, kSetPerms, "/|n1|");
  s.call(0, kWatch, "/local/domain/1/device|w|");
  s.call(0, kWatch, "/else|w|");
  s.call(1, kWatch, "/|w|");
  s.begin(1);
  EXPECT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_THAT(s.events,
              ElementsAre("event:0:/local/domain/1/device|w|", "event:0:/else/where/owned|w|", "released:1"));
  EXPECT_EQ(s.read(0, "/local/domain/1"), "ENOENT");
  EXPECT_EQ(s.list(0, "/else/where"), "kept|");
  EXPECT_EQ(s.call(0, kGetPerms, "/|"), "n0|");
  EXPECT_EQ(s.used(1, "nodes"), 0U);
  EXPECT_EQ(s.used(1, "watches"), 0U);
  EXPECT_EQ(s.used(1, "transactions"), 0U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Domains, ALaterDomainWithTheSameIdInheritsNothing) {
  Store s;
  s.call(0, kIntroduce, "1|1|1|");
  s.write(0, "/shared", "v");
  s.call(0, kSetPerms, "/shared|n0|r1|");
  s.call(0, kSetPerms, "@releaseDomain|n0|r1|");
  EXPECT_EQ(s.read(1, "/shared"), "v");
  std::uint32_t t = s.begin(0);
  s.write(0, "/late", "", t);
  s.call(0, kSetPerms, "/late|n0|r1|", t);
  s.call(0, kRelease, "1|");
  s.call(0, kIntroduce, "1|1|1|");
  s.write(0, "/other", "");
  EXPECT_EQ(s.end(0, t), "OK|");
  EXPECT_EQ(s.read(1, "/shared"), "EACCES");
  EXPECT_EQ(s.read(1, "/late"), "EACCES");
  s.write(0, "/shared", "w");
  EXPECT_EQ(s.read(1, "/shared"), "EACCES");
  EXPECT_EQ(s.write(0, "/shared/child", ""), "OK|");
  EXPECT_EQ(s.read(1, "/shared/child"), "EACCES");
  s.call(1, kWatch, "@releaseDomain|w|");
  s.call(0, kIntroduce, "2|1|1|");
  s.call(0, kRelease, "2|");
  EXPECT_THAT(s.events, ElementsAre("released:2"));
  s.call(0, kSetPerms, "/shared|n0|r1|");
  EXPECT_EQ(s.read(1, "/shared"), "w");
}

TEST(Domains, SpecialEventsGoWherePermissionsAllow) {
  Store s;
  s.call(1, kWatch, "@introduceDomain|w|");
  s.call(0, kIntroduce, "5|1|1|");
  EXPECT_THAT(s.events, ElementsAre("introduced:5:1:1"));
  EXPECT_EQ(s.call(1, kSetPerms, "@introduceDomain|n0|r1|"), "EACCES");
  EXPECT_EQ(s.call(0, kSetPerms, "@introduceDomain|n0|r1|"), "OK|");
  EXPECT_EQ(s.call(0, kSetPerms, "@nothing|n0|r1|"), "EINVAL");
  s.call(0, kIntroduce, "6|1|1|");
  EXPECT_THAT(s.events, ElementsAre("introduced:6:1:1", "event:1:@introduceDomain|w|"));
}

TEST(Domains, ShutdownIsToldOnceUntilResume) {
  Store s;
  s.call(0, kIntroduce, "5|1|1|");
  s.call(0, kWatch, "@releaseDomain|w|");
  EXPECT_EQ(s.call(0, kResume, "5|"), "OK|");
  EXPECT_FALSE(s.mutated);
  for (int round = 0; round < 2; ++round) {
    Recorder out;
    s.engine.domain_shut_down(5, out);
    s.engine.domain_shut_down(5, out);
    EXPECT_THAT(out.said, testing::SizeIs(1));
    EXPECT_EQ(s.call(0, kResume, "5|"), "OK|");
    EXPECT_TRUE(s.mutated);
  }
  EXPECT_EQ(s.call(0, kResume, "6|"), "ENOENT");
}

// ---- quotas and CONTROL ----

TEST(Quotas, BindDomainsButNotDomainZero) {
  Limits limits;
  limits.nodes = 3;
  limits.watches = 2;
  limits.transactions = 2;
  limits.permissions = 2;
  limits.node_size = 200;
  limits.transaction_nodes = 4;
  Store s(limits);
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  EXPECT_EQ(s.write(1, "/d/1/2/3/4", ""), "ENOSPC");
  EXPECT_EQ(s.write(1, "/d/1/2/3", ""), "OK|");
  EXPECT_EQ(s.write(1, "/d/4", ""), "ENOSPC");
  EXPECT_EQ(s.used(1, "nodes"), 3U);
  EXPECT_EQ(s.write(1, "/d/1", std::string(200, 'x')), "ENOSPC");
  EXPECT_EQ(s.write(1, "/d/1", std::string(165, 'x')), "OK|");
  EXPECT_EQ(s.write(0, "/d/1", std::string(500, 'x')), "OK|");
  EXPECT_EQ(s.call(1, kSetPerms, "/d/1/2|n1|r2|r3|"), "ENOSPC");
  EXPECT_EQ(s.call(1, kWatch, "/d|1|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/d|2|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/d|3|"), "E2BIG");
  s.begin(1);
  std::uint32_t t = s.begin(1);
  EXPECT_EQ(s.call(1, kTransactionStart, "|"), "ENOSPC");
  EXPECT_EQ(s.write(1, "/d/5", "", t), "ENOSPC");
  for (const char* path : {"/d/1", "/d/1/2"}) s.read(1, path, t);  // /d and /d/5 are noted already
  EXPECT_EQ(s.read(1, "/d/1/2/3", t), "ENOSPC");
  EXPECT_EQ(s.read(1, "/d", t), "");
  EXPECT_EQ(s.end(1, t), "ENOMEM");
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, NodesMadeInATransactionCountAtItsCommitToo) {
  Limits limits;
  limits.nodes = 2;
  Store s(limits);
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  std::uint32_t t1 = s.begin(1);
  std::uint32_t t2 = s.begin(1);
  EXPECT_EQ(s.write(1, "/d/1", "", t1), "OK|");
  EXPECT_EQ(s.write(1, "/d/2", "", t1), "OK|");
  EXPECT_EQ(s.write(1, "/d/3", "", t1), "ENOSPC");
  EXPECT_EQ(s.write(1, "/d/4", "", t2), "OK|");
  EXPECT_EQ(s.end(1, t1), "OK|");
  EXPECT_EQ(s.end(1, t2), "ENOSPC");
  EXPECT_EQ(s.used(1, "nodes"), 2U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, MemoryCoversNodesWatchesAndTransactions) {
  Limits limits;
  limits.memory = 1000;
  Store s(limits);
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  EXPECT_EQ(s.write(1, "/d/1", std::string(900, 'x')), "OK|");
  EXPECT_EQ(s.used(1, "memory"), 24U + 8U + 900U + 4U);
  EXPECT_EQ(s.write(1, "/d/2", std::string(50, 'x')), "ENOMEM");
  EXPECT_EQ(s.call(1, kWatch, "/d|" + std::string(100, 't') + "|"), "ENOMEM");
  std::uint32_t t = s.begin(1);
  EXPECT_EQ(s.read(1, "/d/1", t), std::string(900, 'x'));
  EXPECT_EQ(s.write(1, "/d/1", std::string(10, 'x')), "OK|");
  EXPECT_EQ(s.end(1, t, "F"), "OK|");
  EXPECT_EQ(s.used(1, "memory"), 24U + 8U + 10U + 4U);
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, ADomainMayHaveLimitsOfItsOwn) {
  Store s;
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  EXPECT_EQ(s.call(0, kGetQuota, "nodes|"), "1000|");
  EXPECT_EQ(s.call(0, kSetQuota, "1|nodes|1|"), "OK|");
  EXPECT_TRUE(s.mutated);
  EXPECT_EQ(s.call(0, kSetQuota, "nodes|3|"), "OK|");
  EXPECT_EQ(s.call(0, kGetQuota, "nodes|"), "3|");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|"), "1|");
  EXPECT_EQ(s.call(0, kGetQuota, "2|nodes|"), "3|");  // none of its own: the global one, changed or not
  EXPECT_FALSE(s.mutated);
  EXPECT_EQ(s.write(1, "/d/1", ""), "OK|");
  EXPECT_EQ(s.write(1, "/d/1/2", ""), "ENOSPC");
  EXPECT_EQ(s.write(2, "/d/2/3/4", ""), "OK|");
  EXPECT_EQ(s.write(2, "/d/5", ""), "ENOSPC");
  EXPECT_EQ(s.engine.limits_of(1).nodes, 1U);
  EXPECT_EQ(s.engine.limits_of(77).nodes, 3U);
  // 0 takes the check away.
  EXPECT_EQ(s.call(0, kSetQuota, "1|nodes|0|"), "OK|");
  EXPECT_EQ(s.write(1, "/d/6/7/8/9", ""), "OK|");
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, ALaterDomainWithTheSameIdHasTheGlobalLimits) {
  Store s;
  s.call(0, kIntroduce, "1|1|1|");
  s.call(0, kSetQuota, "1|nodes|7|");
  s.call(0, kRelease, "1|");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|"), "1000|");
  s.call(0, kIntroduce, "1|1|1|");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|"), "1000|");
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, AreDomainZerosToAskForAndToSet) {
  Store s;
  EXPECT_EQ(s.call(1, kGetQuota, "nodes|"), "EACCES");
  EXPECT_EQ(s.call(1, kSetQuota, "1|nodes|0|"), "EACCES");
  EXPECT_EQ(s.call(1, kSetFeature, "1|4|"), "EACCES");
  EXPECT_EQ(s.call(0, kGetQuota, ""),
            "nodes watches transactions outstanding transaction-nodes memory node-size path-max permissions "
            "path-depth undelivered soft-memory|");
  EXPECT_EQ(s.call(0, kGetQuota, "node-permissions|"), "5|");  // what newer xenstoreds call it
  EXPECT_EQ(s.call(0, kGetQuota, "nothing|"), "EINVAL");
  EXPECT_EQ(s.call(0, kGetQuota, "77|nodes|"), "ENOENT");
  EXPECT_EQ(s.call(0, kGetQuota, "x|nodes|"), "EINVAL");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|7|"), "EINVAL");
  EXPECT_EQ(s.call(0, kSetQuota, "77|nodes|1|"), "ENOENT");
  EXPECT_EQ(s.call(0, kSetQuota, "32752|nodes|1|"), "ENOENT");
  for (const char* wrong :
       {"nodes|", "nodes||", "nodes|-1|", "nodes|7x|", "nodes|2147483648|", "1|2|nodes|7|"}) {
    EXPECT_EQ(s.call(0, kSetQuota, wrong), "EINVAL") << wrong;
  }
  EXPECT_EQ(s.engine.limits(), Limits{});
}

TEST(Quotas, PathsHaveALimitOfLevels) {
  Store s;
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  std::string path = "/d";
  for (int i = 0; i < 127; ++i) path += "/x";
  EXPECT_EQ(s.write(1, path, ""), "OK|");
  EXPECT_EQ(s.write(1, path + "/x", ""), "EINVAL");
  EXPECT_EQ(s.read(1, path + "/x"), "EINVAL");
  EXPECT_EQ(s.call(1, kWatch, path + "/x|t|"), "EINVAL");
  EXPECT_EQ(s.write(0, path + "/x", ""), "OK|");  // domain 0 is bound by the protocol alone
  EXPECT_EQ(s.call(0, kSetQuota, "1|path-depth|0|"), "OK|");
  EXPECT_EQ(s.write(1, path + "/y", ""), "OK|");
}

TEST(Quotas, AtTheWarningLevelTheOperatorIsToldOnce) {
  Limits limits;
  limits.memory_soft = 800;
  limits.memory = 1000;
  Store s(limits);
  s.write(0, "/d", "");
  s.call(0, kSetPerms, "/d|b0|");
  s.write(1, "/d/1", std::string(763, 'x'));
  EXPECT_THAT(s.events, testing::IsEmpty());
  s.write(1, "/d/1", std::string(764, 'x'));
  EXPECT_THAT(s.events, ElementsAre("warning:1:memory:800:800:soft"));
  s.write(1, "/d/1", std::string(765, 'x'));
  EXPECT_THAT(s.events, testing::IsEmpty());
  // To and fro at the level is one crossing; an eighth below it is not.
  s.write(1, "/d/1", std::string(700, 'x'));
  s.write(1, "/d/1", std::string(764, 'x'));
  EXPECT_THAT(s.events, testing::IsEmpty());
  s.write(1, "/d/1", std::string(600, 'x'));
  s.write(1, "/d/1", std::string(764, 'x'));
  EXPECT_THAT(s.events, ElementsAre("warning:1:memory:800:800:soft"));
  // A refusal is told once too, though a refused request changes nothing else.
  s.write(1, "/d/1", std::string(900, 'x'));
  EXPECT_EQ(s.write(1, "/d/2", std::string(100, 'x')), "ENOMEM");
  EXPECT_THAT(s.events, ElementsAre("warning:1:memory:1000:936:hard"));
  EXPECT_TRUE(s.mutated);
  EXPECT_EQ(s.write(1, "/d/2", std::string(100, 'x')), "ENOMEM");
  EXPECT_THAT(s.events, testing::IsEmpty());
  EXPECT_FALSE(s.mutated);
  // A raised limit makes the warning good.
  EXPECT_EQ(s.call(0, kSetQuota, "1|soft-memory|5000|"), "OK|");
  EXPECT_EQ(s.call(0, kSetQuota, "1|soft-memory|900|"), "OK|");
  EXPECT_THAT(s.events, ElementsAre("warning:1:memory:900:936:soft"));
  EXPECT_TRUE(s.engine.check());
}

TEST(Quotas, ChangesFromOutsideAreAllOrNone) {
  Store s;
  Recorder out;
  const auto nodes = static_cast<std::uint32_t>(find_quota("nodes").value());
  const LimitChange good{LimitChange::kEveryDomain, nodes, 5};
  EXPECT_EQ(s.engine.set_limits(std::vector{good, LimitChange{77, nodes, 5}}, out).error().kind(),
            ErrorKind::kNotFound);
  EXPECT_EQ(s.engine.set_limits(std::vector{good, LimitChange{1, 99, 5}}, out).error().kind(),
            ErrorKind::kInvalid);
  EXPECT_EQ(s.engine.limits(), Limits{});
  EXPECT_TRUE(s.engine.set_limits(std::vector{good, LimitChange{1, nodes, 6}}, out));
  EXPECT_EQ(s.engine.limits().nodes, 5U);
  EXPECT_EQ(s.engine.limits_of(1).nodes, 6U);
}

TEST(Features, AreWhatThisServerCanDo) {
  Store s;
  EXPECT_EQ(s.call(1, kGetFeature, ""), "7|");  // rings reconnect and tell errors, WATCH takes a depth
  EXPECT_EQ(s.call(1, kGetFeature, "1|"), "EACCES");
  EXPECT_EQ(s.call(0, kGetFeature, "2|"), "7|");
  EXPECT_EQ(s.call(0, kSetFeature, "2|8|"), "EINVAL");
  EXPECT_EQ(s.call(0, kSetFeature, "77|4|"), "ENOENT");
  EXPECT_EQ(s.call(0, kSetFeature, "0|0|"), "EBUSY");
  EXPECT_EQ(s.call(0, kSetFeature, "2|0|"), "OK|");
  EXPECT_EQ(s.call(2, kGetFeature, ""), "0|");
  EXPECT_EQ(s.call(2, kWatch, "/tool|t|1|"), "EINVAL");
  EXPECT_EQ(s.call(2, kWatch, "/tool|t|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/tool|t|1|"), "OK|");
}

// Nothing is said about a damaged node but EIO, and nothing is changed.
TEST(Damage, IsFoundBeforeAnybodyIsTold) {
  for (const auto& [type, payload] :
       std::vector<std::pair<std::uint32_t, std::string>>{{kRead, "/a|"},
                                                          {kGetPerms, "/a|"},
                                                          {kDirectory, "/a|"},
                                                          {kWrite, "/a|new"},
                                                          {kWrite, "/a/child|new"},
                                                          {kMkdir, "/a/child|"},
                                                          {kSetPerms, "/a|n0|"},
                                                          {kRm, "/a|"}}) {
    SCOPED_TRACE(std::to_string(type) + " " + payload);
    Store s;
    s.write(0, "/a", "value");
    s.engine.flip_bit();
    Recorder out;
    const Outcome outcome = run(s.engine, out, 0, type, nul(payload));
    EXPECT_TRUE(outcome.damaged);
    EXPECT_FALSE(outcome.mutated);
    EXPECT_THAT(out.said, ElementsAre(testing::StartsWith("reply:16:EIO")));
    Recorder told;
    s.engine.on_damage([&](const std::string& what) { told.said.push_back(what); });
    run(s.engine, out, 0, type, nul(payload));
    EXPECT_THAT(told.said, ElementsAre("damaged value or permissions of /a"));
  }
}

TEST(Damage, OfAnAncestorWhosePermissionsDecide) {
  Store s;
  s.write(0, "/a", "value");
  s.engine.flip_bit();
  EXPECT_EQ(s.read(1, "/a/b/c"), "EIO");
}

// A commit copies what the transaction wrote; a new hash must not make damaged values good ones.
TEST(Damage, OfWhatATransactionWrote) {
  Store s;
  s.write(0, "/a", std::string(100, 'v'));  // too long to be copied with its node
  const std::uint32_t t = s.begin(0);
  s.call(0, kSetPerms, "/a|n1|", t);
  s.write(0, "/elsewhere", "");  // so that the commit has to copy
  s.engine.flip_bit();           // the value is shared with the transaction's tree
  EXPECT_EQ(s.end(0, t), "EIO");
  EXPECT_FALSE(s.engine.check());
}

TEST(Fingerprint, FollowsFromTheInputs) {
  Store a;
  Store b;
  const auto same = [&] { return a.engine.fingerprint() == b.engine.fingerprint(); };
  EXPECT_TRUE(same());
  const std::vector<std::pair<std::uint32_t, std::string>> changes{{kWrite, "/a|x"},
                                                                   {kWatch, "/a|t|"},
                                                                   {kIntroduce, "5|1|2|"},
                                                                   {kTransactionStart, "|"},
                                                                   {kRm, "/a|"},
                                                                   {kSetTarget, "5|0|"},
                                                                   {kControl, "quota|set|nodes|9|"},
                                                                   {kSetPerms, "@releaseDomain|n0|r1|"}};
  for (const auto& [type, payload] : changes) {
    a.call(0, type, payload);
    EXPECT_FALSE(same()) << type;
    b.call(0, type, payload);
    EXPECT_TRUE(same()) << type;
    auto restored = read_snapshot(write_snapshot(a.engine));
    ASSERT_TRUE(restored);
    EXPECT_EQ(restored->fingerprint(), a.engine.fingerprint()) << type;
  }
}

TEST(Control, Commands) {
  Store s;
  EXPECT_EQ(s.call(0, kControl, "check|"), "OK|");
  EXPECT_EQ(s.call(0, kControl, "log|on|"), "OK|");
  EXPECT_THAT(s.events, ElementsAre("log:log on"));
  EXPECT_EQ(s.call(0, kControl, "log|loud|"), "EINVAL");
  EXPECT_EQ(s.call(0, kControl, "nothing|"), "EINVAL");
  EXPECT_EQ(s.call(0, kControl, "check"), "EINVAL");
  EXPECT_THAT(s.call(0, kControl, "help|"), testing::HasSubstr("quota\t[set <name> <val>|<domid>]\n"));
  EXPECT_THAT(s.call(0, kControl, "quota|"), testing::HasSubstr("nodes            :     1000 "));
  EXPECT_THAT(s.call(0, kControl, "quota|0|"),
              testing::StartsWith("Domain 0:\nnodes           :        3\n"));
  EXPECT_EQ(s.call(0, kControl, "quota|77|"), "ENOENT");
  EXPECT_FALSE(s.mutated);
  EXPECT_EQ(s.call(0, kControl, "quota|set|nodes|7|"), "OK|");
  EXPECT_TRUE(s.mutated);
  EXPECT_EQ(s.engine.limits().nodes, 7U);
  EXPECT_EQ(s.call(0, kControl, "quota|set|nodes|0|"), "EINVAL");
  EXPECT_EQ(s.call(0, kControl, "quota|set|nothing|7|"), "EINVAL");
  EXPECT_EQ(s.call(0, kControl, "quota-soft|set|memory|7|"), "OK|");
  EXPECT_EQ(s.engine.limits().memory_soft, 7U);
  s.engine.flip_bit();
  EXPECT_EQ(s.call(0, kControl, "check|"), "EIO");
}

}  // namespace
}  // namespace bulkhead::xenstore::test
