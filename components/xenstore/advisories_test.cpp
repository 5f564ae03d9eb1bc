// The attacks of Xen's security advisories on xenstored, as far as they are requests to the engine: each as
// an unprivileged domain would send it, and what must hold here. docs/advisories.md has the table.
//
// Not here, because they need sockets, rings or processes (tests/fault has them): XSA-72 (a length that is
// not what follows), XSA-206 (starving others by writes at full speed: a matter of time), XSA-233 and XSA-425
// (a connection that ends in the middle of its request), XSA-325 (a client that is cut off), XSA-326 and
// XSA-416 (a client that never reads, that fills its pipeline), XSA-420 (a negative length), XSA-481 and
// XSA-484 as crashes of the process that the supervisor and the quarantine have to bear.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/snapshot.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Not;

// Domains 1 to 3 with a home each, as the toolstack makes them.
class Advisory : public testing::Test {
 protected:
  explicit Advisory(const Limits& limits = {}) : s(limits) {
    for (int domid = 1; domid <= 3; ++domid) introduce(domid);
  }
  void introduce(int domid) {
    const std::string id = std::to_string(domid);
    EXPECT_EQ(s.call(0, kIntroduce, id + "|1|1|"), "OK|");
    EXPECT_EQ(s.write(0, home(domid), ""), "OK|");
    EXPECT_EQ(s.call(0, kSetPerms, home(domid) + "|n" + id + "|"), "OK|");
  }
  static std::string home(int domid) { return "/local/domain/" + std::to_string(domid); }

  // Usage of every domain, to be compared.
  std::map<std::pair<std::uint32_t, std::string>, std::uint64_t> usage() const {
    std::map<std::pair<std::uint32_t, std::string>, std::uint64_t> rows;
    for (const QuotaRow& row : s.engine.quotas()) rows[{row.domid, std::string(row.name)}] = row.used;
    return rows;
  }
  void TearDown() override {
    Status sound = s.engine.check();
    EXPECT_TRUE(sound) << sound.error().message();
  }

  Store s;
};

// Class: sizes. A reply that does not fit a message must become an error, not an overrun.
TEST_F(Advisory, Xsa072_RepliesThatDoNotFitAreErrors) {
  s.call(0, kSetQuota, "nodes|0|");
  s.call(0, kSetQuota, "node-size|0|");
  s.call(0, kSetQuota, "permissions|0|");
  const std::string name(200, 'n');
  for (int i = 0; i < 25; ++i) ASSERT_EQ(s.write(1, home(1) + "/" + name + std::to_string(i), ""), "OK|");
  EXPECT_EQ(s.list(1, home(1)), "E2BIG");
  std::string many = home(1) + "|";
  for (int i = 0; i < 1300; ++i) many += "r1|";
  ASSERT_LE(many.size(), kMaxPayload);
  EXPECT_EQ(s.call(1, kSetPerms, many), "OK|");
  EXPECT_LE(s.call(1, kGetPerms, home(1) + "|").size(), kMaxPayload);
  // One part of the directory after the other is always there.
  EXPECT_LE(s.call(1, kDirectoryPart, home(1) + "|0|").size(), kMaxPayload);
  Request request{.header = {kRead, 1, 0, kMaxPayload + 1}, .payload = {}};
  const std::vector<std::byte> large(kMaxPayload + 1, std::byte{'/'});
  request.payload = large;
  Recorder out;
  s.engine.execute(1, request, out);
  EXPECT_THAT(out.said, ElementsAre("reply:16:EINVAL" + std::string(1, '\0')));
}

// Class: information. A watch on what one may not read must tell nothing, neither names nor the moment.
TEST_F(Advisory, Xsa115_WatchesTellNothingOfNodesOneMayNotRead) {
  s.write(0, home(2) + "/secret", "");
  s.call(0, kSetPerms, home(2) + "/secret|n2|");
  EXPECT_EQ(s.call(1, kWatch, home(2) + "|t|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, home(2) + "/secret|t|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "/|t|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "@introduceDomain|t|"), "OK|");
  EXPECT_EQ(s.call(1, kWatch, "@releaseDomain|t|"), "OK|");
  const std::uint32_t t = s.begin(2);
  s.write(2, home(2) + "/secret/x", "1", t);
  std::vector<std::string> heard;
  const auto listen = [&] {
    for (const std::string& event : s.events) {
      if (event.starts_with("event:1:")) heard.push_back(event);
    }
  };
  s.end(2, t);
  listen();
  s.write(2, home(2) + "/secret", "2");
  listen();
  s.call(2, kSetPerms, home(2) + "/secret|n2|r3|");
  listen();
  s.call(2, kRm, home(2) + "/secret|");
  listen();
  s.call(0, kIntroduce, "4|1|1|");
  listen();
  s.call(0, kRelease, "4|");
  listen();
  EXPECT_THAT(heard, IsEmpty());
  EXPECT_EQ(s.call(1, kIsDomainIntroduced, "2|"), "EACCES");
  EXPECT_EQ(s.read(1, home(2) + "/none"), "EACCES");  // existing or not: one answer
  EXPECT_EQ(s.read(1, home(2) + "/secret"), "EACCES");
}

// Class: starving. What a guest writes of its own must not make a transaction of domain 0 fail that did not
// look at it, however often.
TEST_F(Advisory, Xsa206_AGuestsWritesFailNobodyElsesTransaction) {
  for (int round = 0; round < 100; ++round) {
    const std::uint32_t t = s.begin(0);
    s.write(0, home(2) + "/device", std::to_string(round), t);
    s.list(0, "/local/domain", t);
    ASSERT_EQ(s.write(1, home(1) + "/data", std::to_string(round)), "OK|");
    const std::uint32_t own = s.begin(1);
    ASSERT_EQ(s.write(1, home(1) + "/n" + std::to_string(round % 7), "", own), "OK|");
    ASSERT_EQ(s.end(1, own), "OK|");
    ASSERT_EQ(s.end(0, t), "OK|") << round;
  }
}

// Class: lifetime. A domain and its stub domain that end at the same time: nothing of either is used after,
// and nothing is left.
TEST_F(Advisory, Xsa233_ADomainAndItsStubDomainEndTogether) {
  s.call(0, kSetTarget, "2|1|");
  ASSERT_EQ(s.call(2, kWatch, home(1) + "|t|"), "OK|");
  ASSERT_EQ(s.write(2, home(1) + "/qemu", "x"), "OK|");
  s.begin(1);
  s.begin(2);
  EXPECT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_EQ(s.call(0, kRelease, "2|"), "OK|");
  EXPECT_EQ(s.call(0, kRelease, "2|"), "ENOENT");
  Recorder out;
  s.engine.disconnect(2, out);
  s.engine.disconnect(1, out);
  s.engine.disconnect(1, out);
  EXPECT_EQ(s.used(1, "memory"), ~std::uint64_t{0});  // not known any more
  EXPECT_EQ(s.used(2, "memory"), ~std::uint64_t{0});
  EXPECT_EQ(s.read(0, home(1)), "ENOENT");
}

// Class: quota. Every way to make a node counts it, parents made on the way included.
TEST_F(Advisory, Xsa272_EveryWayToMakeANodeCounts) {
  s.call(0, kSetQuota, "1|nodes|6|");
  ASSERT_EQ(s.write(1, home(1) + "/a/b", ""), "OK|");
  ASSERT_EQ(s.call(1, kMkdir, "c/d|"), "OK|");
  EXPECT_EQ(s.used(1, "nodes"), 5U);
  const std::uint32_t t = s.begin(1);
  EXPECT_EQ(s.write(1, home(1) + "/e/f", "", t), "ENOSPC");
  EXPECT_EQ(s.write(1, home(1) + "/e", "", t), "OK|");
  EXPECT_EQ(s.end(1, t), "OK|");
  EXPECT_EQ(s.used(1, "nodes"), 6U);
  for (int i = 0; i < 50; ++i) {
    EXPECT_EQ(s.write(1, "g" + std::to_string(i), ""), "ENOSPC");
    EXPECT_EQ(s.call(1, kMkdir, "h" + std::to_string(i) + "|"), "ENOSPC");
  }
}

// Class: identity. What was granted to a domain must not be the next one's that gets its number.
TEST_F(Advisory, Xsa322_ALaterDomainInheritsNoRights) {
  s.write(0, "/granted", "secret");
  s.call(0, kSetPerms, "/granted|n0|b1|");
  s.call(0, kSetPerms, "@releaseDomain|n0|r1|");
  s.call(0, kSetTarget, "3|1|");
  ASSERT_EQ(s.read(1, "/granted"), "secret");
  s.write(0, "/elsewhere", "");
  s.call(0, kSetPerms, "/elsewhere|n1|");
  ASSERT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_EQ(s.read(0, "/elsewhere"), "ENOENT");  // neither anybody's nor a later domain's
  introduce(1);
  EXPECT_EQ(s.read(1, "/granted"), "EACCES");
  EXPECT_EQ(s.write(1, "/granted", "mine"), "EACCES");
  EXPECT_EQ(s.read(3, home(1)), "EACCES");
  ASSERT_EQ(s.call(1, kWatch, "@releaseDomain|t|"), "OK|");
  s.call(0, kRelease, "2|");
  EXPECT_THAT(s.events, Not(testing::Contains(testing::StartsWith("event:1:"))));
}

// Class: paths. A path that one way can make, every way can read: the limit is on the path, not on how it is
// said.
TEST_F(Advisory, Xsa323_RelativeAndAbsolutePathsHaveOneLimit) {
  std::string path;
  while (path.size() < 2040) path += (path.empty() ? "" : "/") + std::string(60, 'p');
  path.resize(2048);
  if (path.back() == '/') path.back() = 'p';
  s.call(0, kSetQuota, "1|memory|0|");
  ASSERT_EQ(s.write(1, path, "deep"), "OK|");
  EXPECT_EQ(s.read(1, home(1) + "/" + path), "deep");
  EXPECT_EQ(s.read(0, home(1) + "/" + path), "deep");
  EXPECT_EQ(s.write(1, path + "x", ""), "EINVAL");
  EXPECT_EQ(s.write(1, home(1) + "/" + path + "x", ""), "EINVAL");
  EXPECT_EQ(s.call(0, kRm, home(1) + "/" + path.substr(0, 60) + "|"), "OK|");
}

// Class: sizes. An event that does not fit a message is not sent, and hurts nobody.
TEST_F(Advisory, Xsa324_EventsThatDoNotFitAreNotSent) {
  s.call(0, kSetQuota, "1|memory|0|");
  const std::string token(4096 - 3 - 2, 't');
  ASSERT_EQ(s.call(1, kWatch, "a|" + token + "|"), "OK|");
  s.write(1, "a/" + std::string(500, 'x'), "");
  for (const std::string& line : s.said) EXPECT_LE(line.size(), kMaxPayload + 10);
  EXPECT_THAT(s.events, IsEmpty());
  ASSERT_EQ(s.call(1, kUnwatch, "a|" + token + "|"), "OK|");
  EXPECT_EQ(s.used(1, "watches"), 0U);
}

// Class: identity. A connection that is cut off is no released domain: the toolstack is told of the end when
// the domain ends, and then for certain.
TEST_F(Advisory, Xsa325_ACutOffConnectionIsNoReleasedDomain) {
  s.call(0, kWatch, "@releaseDomain|t|");
  Recorder out;
  s.engine.disconnect(1, out);
  EXPECT_THAT(out.said, IsEmpty());
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "1|"), "T|");
  EXPECT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_THAT(s.events, testing::Contains("event:0:@releaseDomain|t|"));
}

// Class: memory. Whatever is held for a domain is counted and refused at the limit: values, watches,
// transactions that never end, and all of them together.
TEST_F(Advisory, Xsa326_WhatIsHeldForADomainIsBounded) {
  s.call(0, kSetQuota, "1|memory|20000|");
  s.call(0, kSetQuota, "1|nodes|0|");
  s.call(0, kSetQuota, "1|watches|0|");
  s.call(0, kSetQuota, "1|transactions|0|");
  s.call(0, kSetQuota, "1|transaction-nodes|0|");
  const std::string value(1000, 'v');
  int refused = 0;
  for (int i = 0; i < 200; ++i) {
    const std::string n = std::to_string(i);
    const std::uint32_t t = s.begin(1);
    refused += s.write(1, "t" + n, value, t) == "ENOMEM" ? 1 : 0;
    refused += s.write(1, "n" + n, value) == "ENOMEM" ? 1 : 0;
    refused += s.call(1, kWatch, "w" + n + "|" + value + "|") == "ENOMEM" ? 1 : 0;
    refused += s.read(1, "nothing" + n, t) == "ENOMEM" ? 1 : 0;
    ASSERT_LE(s.used(1, "memory"), 20'000U);
  }
  EXPECT_GT(refused, 500);
  // And it is all given back.
  EXPECT_EQ(s.call(1, kResetWatches, "|"), "OK|");
  for (int i = 0; i < 200; ++i) s.call(1, kRm, "n" + std::to_string(i) + "|");
  EXPECT_LT(s.used(1, "memory"), 100U);
}

// Class: quota. Resetting takes the watches away everywhere, not from the count alone.
TEST_F(Advisory, Xsa330_ResetWatchesAreGone) {
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 100; ++i) ASSERT_EQ(s.call(1, kWatch, "w|" + std::to_string(i) + "|"), "OK|");
    ASSERT_EQ(s.used(1, "watches"), 100U);
    ASSERT_EQ(s.call(1, kResetWatches, "|"), "OK|");
    ASSERT_EQ(s.used(1, "watches"), 0U);
    ASSERT_EQ(s.write(1, "w", std::to_string(round)), "OK|");
    ASSERT_THAT(s.events, IsEmpty());
  }
  s.call(1, kRm, "w|");
  EXPECT_EQ(s.used(1, "memory"), 24U + 8U + home(1).size());
}

// Class: quota. Nobody gives its nodes to somebody else's account.
TEST_F(Advisory, Xsa352_OnlyDomainZeroChangesAnOwner) {
  ASSERT_EQ(s.write(1, "mine", std::string(1000, 'x')), "OK|");
  const auto before = usage();
  for (const char* owner : {"0", "2", "77"}) {
    const std::string change = std::string("|n") + owner + "|b1|";
    EXPECT_EQ(s.call(1, kSetPerms, "mine" + change), "EPERM");
    const std::uint32_t t = s.begin(1);
    EXPECT_EQ(s.call(1, kSetPerms, "mine" + change, t), "EPERM");
    s.end(1, t);
  }
  EXPECT_EQ(s.call(1, kSetPerms, "mine|n32752|"), "ENOENT");
  EXPECT_EQ(usage(), before);
  // Given away by domain 0 it counts for the new owner, at once and entirely.
  const std::uint64_t memory = s.used(2, "memory");
  ASSERT_EQ(s.call(0, kSetPerms, home(1) + "/mine|n2|"), "OK|");
  EXPECT_EQ(s.used(2, "nodes"), 2U);
  EXPECT_EQ(s.used(2, "memory"), memory + 1000 + 24 + 8 + home(1).size() + 5);
  EXPECT_EQ(s.used(1, "nodes"), 1U);
}

// Class: rights. The root is a node like any other.
TEST_F(Advisory, Xsa353_TheRootHasPermissionsToo) {
  const std::uint64_t digest = s.engine.digest();
  EXPECT_EQ(s.call(1, kSetPerms, "/|b1|"), "EACCES");
  EXPECT_EQ(s.call(1, kRm, "/|"), "EACCES");
  EXPECT_EQ(s.list(1, "/"), "EACCES");
  EXPECT_EQ(s.call(1, kGetPerms, "/|"), "EACCES");
  EXPECT_EQ(s.call(1, kDirectoryPart, "/|0|"), "EACCES");
  EXPECT_EQ(s.write(1, "/", "x"), "EACCES");
  EXPECT_EQ(s.write(1, "/new", "x"), "EACCES");
  EXPECT_EQ(s.call(1, kMkdir, "/new|"), "EACCES");
  EXPECT_EQ(s.call(0, kRm, "/|"), "EINVAL");
  EXPECT_EQ(s.engine.digest(), digest);
}

// Class: half-done work. A creation that fails on its way leaves neither nodes nor charges.
TEST_F(Advisory, Xsa414_AFailedCreationLeavesNothing) {
  const auto before = usage();
  const std::uint64_t digest = s.engine.digest();
  s.call(0, kSetQuota, "1|nodes|3|");
  EXPECT_EQ(s.write(1, "a/b/c/d", ""), "ENOSPC");
  s.call(0, kSetQuota, "1|nodes|0|");
  EXPECT_EQ(s.write(1, "a/b/c/d", std::string(3000, 'x')), "ENOSPC");
  s.call(0, kSetQuota, "1|memory|200|");
  EXPECT_EQ(s.write(1, "a/b/c/d", std::string(100, 'x')), "ENOMEM");
  EXPECT_EQ(usage(), before);
  EXPECT_EQ(s.engine.digest(), digest);
  EXPECT_EQ(s.read(0, home(1) + "/a"), "ENOENT");
}

// Class: half-done work. A transaction in which something failed for a limit commits no part of itself that
// hangs in the air.
TEST_F(Advisory, Xsa415_AFailedCreationInATransactionLeavesNoOrphans) {
  s.call(0, kSetQuota, "1|transaction-nodes|5|");
  const std::uint32_t t = s.begin(1);
  EXPECT_EQ(s.write(1, "ok", "", t), "OK|");
  EXPECT_EQ(s.write(1, "a/b/c/d/e/f", "", t), "ENOSPC");
  EXPECT_EQ(s.write(1, "ok", "2", t), "OK|");
  EXPECT_EQ(s.end(1, t), "ENOMEM");
  EXPECT_EQ(s.list(1, home(1)), "");
  EXPECT_EQ(s.used(1, "nodes"), 1U);
}

// Class: memory. Nothing of a request outlives its execution but what is counted; what goes to the client is
// the server's (limit "undelivered").
TEST_F(Advisory, Xsa416_RequestsLeaveNothingBehind) {
  const std::vector<std::byte> before = write_snapshot(s.engine);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(s.read(1, "nothing"), "ENOENT");
    EXPECT_EQ(s.list(1, home(1)), "");
    EXPECT_EQ(s.call(1, kGetPerms, home(1) + "|"), "n1|");
    EXPECT_FALSE(s.mutated);
  }
  EXPECT_EQ(write_snapshot(s.engine), before);
}

// Class: identity. A permission that names a domain which does not exist never means a domain that comes
// later.
TEST_F(Advisory, Xsa417_PermissionsNameExistingDomains) {
  ASSERT_EQ(s.write(1, "bait", "x"), "OK|");
  ASSERT_EQ(s.call(1, kSetPerms, "bait|n1|b9|"), "OK|");
  const std::size_t rows = usage().size();
  // Nor does naming them make the engine remember them: it would be memory that nobody pays for.
  for (int domid = 10; domid < 2000; ++domid) {
    ASSERT_EQ(s.call(1, kSetPerms, "bait|n1|b9|b" + std::to_string(domid) + "|"), "OK|");
  }
  EXPECT_EQ(usage().size(), rows);
  s.engine.connect(9, 9);
  EXPECT_EQ(s.read(9, home(1) + "/bait"), "EACCES");
  ASSERT_EQ(s.call(1, kSetPerms, "bait|n1|b9|"), "OK|");
  EXPECT_EQ(s.read(9, home(1) + "/bait"), "x");
}

// Class: stack. Depth costs no stack: what walks trees does so with a list of its own.
TEST_F(Advisory, Xsa418_DeepTreesNeedNoStack) {
  s.call(0, kSetQuota, "1|path-depth|0|");
  s.call(0, kSetQuota, "1|transaction-nodes|0|");
  s.call(0, kSetQuota, "1|nodes|0|");
  std::string path = "x";
  while (path.size() + 2 <= kMaxRelativePath) path += "/x";
  ASSERT_EQ(s.write(1, path, "deep"), "OK|");
  ASSERT_EQ(s.call(1, kWatch, path + "|t|"), "OK|");
  EXPECT_TRUE(s.engine.check());
  auto restored = read_snapshot(write_snapshot(s.engine));
  ASSERT_TRUE(restored);
  const std::uint32_t t = s.begin(1);
  ASSERT_EQ(s.call(1, kRm, "x|", t), "OK|");
  ASSERT_EQ(s.end(1, t), "OK|");
  ASSERT_EQ(s.write(1, path, "deep"), "OK|");
  ASSERT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_EQ(s.read(0, home(1)), "ENOENT");
  // By default a guest gets nowhere near.
  EXPECT_EQ(s.write(2, path, ""), "EINVAL");
}

// Class: quota. What a domain leaves behind is removed, not given to domain 0, which has no limits.
TEST_F(Advisory, Xsa419_WhatADomainLeavesBehindIsRemoved) {
  s.write(0, "/shared", "");
  s.call(0, kSetPerms, "/shared|b0|");
  const std::uint64_t nodes = s.used(0, "nodes");
  for (int i = 0; i < 20; ++i) {
    ASSERT_EQ(s.write(1, "/shared/of1-" + std::to_string(i) + "/below", std::string(500, 'x')), "OK|");
  }
  ASSERT_EQ(s.write(2, "/shared/of2", "stays"), "OK|");
  ASSERT_EQ(s.call(0, kRelease, "1|"), "OK|");
  EXPECT_EQ(s.list(0, "/shared"), "of2|");
  EXPECT_EQ(s.used(0, "nodes"), nodes);
}

// Class: sizes. No number in an argument is too large, too small or no number.
TEST_F(Advisory, Xsa420_NumbersOutOfRangeAreErrors) {
  for (const char* number : {"-1", "4294967295", "9223372036854775808", "-99999999999999999999", "x", ""}) {
    const std::string n(number);
    EXPECT_THAT(s.call(1, kDirectoryPart, home(1) + "|" + n + "|"), Not(testing::HasSubstr("x")));
    EXPECT_NE(s.call(1, kSetPerms, home(1) + "|n" + n + "|"), "OK|");
    EXPECT_NE(s.call(0, kRelease, n + "|"), "OK|");
    EXPECT_NE(s.call(0, kIntroduce, n + "|1|0|"), "OK|");
    EXPECT_EQ(s.call(0, kSetQuota, "1|nodes|" + n + "|"), "EINVAL");
    EXPECT_NE(s.call(1, kTransactionEnd, n + "|", 0xFFFFFFFF), "OK|");
  }
  EXPECT_EQ(s.call(1, kWatch, "a|t|-1|"), "EINVAL");
}

// Class: half-done work. Made and removed in one transaction: it commits, entirely, and nothing is counted.
TEST_F(Advisory, Xsa421_MadeAndRemovedInOneTransaction) {
  for (int round = 0; round < 50; ++round) {
    const auto before = usage();
    const std::uint32_t t = s.begin(1);
    ASSERT_EQ(s.write(1, "a/b/c", "x", t), "OK|");
    ASSERT_EQ(s.call(1, kRm, "a/b|", t), "OK|");
    ASSERT_EQ(s.call(1, kRm, "a|", t), "OK|");
    if (round % 2 == 1) s.write(0, "/other", std::to_string(round));  // merged, not taken over
    ASSERT_EQ(s.end(1, t), "OK|");
    if (round % 2 == 0) {
      ASSERT_EQ(usage(), before) << round;
    }
    ASSERT_EQ(s.used(1, "nodes"), 1U);
    ASSERT_EQ(s.list(1, home(1)), "");
  }
}

// Class: lifetime. A connection that resets and reconnects, as a guest does that boots a new kernel.
TEST_F(Advisory, Xsa425_AConnectionThatStartsAnew) {
  for (int round = 0; round < 20; ++round) {
    s.begin(1);
    ASSERT_EQ(s.call(1, kWatch, "a|t|"), "OK|");
    const std::string began = round % 3 == 0   ? s.call(0, kIntroduce, "1|1|1|")
                              : round % 3 == 1 ? s.call(1, kResetWatches, "|")
                                               : "OK|";
    ASSERT_EQ(began, "OK|");
    Recorder out;
    s.engine.disconnect(1, out);
    s.engine.connect(1, 1);
    ASSERT_EQ(s.used(1, "watches"), 0U);
    ASSERT_EQ(s.used(1, "transactions"), 0U);
  }
}

// Class: paths. The prefix of every home, said as a path: an error with a name, whatever is done with it.
TEST_F(Advisory, Xsa481_PathsThatAreNearlyPathsAreErrors) {
  for (const char* path :
       {"/local/domain/", "/local/domain//", "/local/domain/1/", "//", "/ ", "", "@", "\x80"}) {
    const std::string name = std::string(path) + "|";
    for (std::uint32_t type : {kRead, kDirectory, kGetPerms, kMkdir, kRm}) {
      EXPECT_EQ(s.call(1, type, name), "EINVAL") << path << " " << type;
    }
    EXPECT_EQ(s.write(1, path, "x"), "EINVAL") << path;
    if (name[0] == '@') continue;  // a special event's name: one that never fires
    EXPECT_EQ(s.call(1, kWatch, name + "t|"), "EINVAL") << path;
  }
}

// Class: quota. A later domain with the same number starts at nothing.
TEST_F(Advisory, Xsa483_ALaterDomainStartsAtNothing) {
  s.call(0, kSetQuota, "nodes|5|");
  for (int round = 0; round < 10; ++round) {
    for (const char* name : {"a", "b", "c", "d"}) ASSERT_EQ(s.write(1, name, ""), "OK|") << round;
    ASSERT_EQ(s.write(1, "e", ""), "ENOSPC");
    s.call(1, kWatch, "a|t|");
    s.begin(1);
    ASSERT_EQ(s.call(0, kRelease, "1|"), "OK|");
    for (const char* name : {"nodes", "watches", "transactions", "memory"}) ASSERT_EQ(s.used(1, name), 0U);
    introduce(1);
  }
}

// Class: lifetime. RESET_WATCHES said within a transaction ends that transaction under its own request.
TEST_F(Advisory, Xsa484_ResetWithinATransaction) {
  const std::uint32_t t = s.begin(1);
  s.begin(1);
  ASSERT_EQ(s.write(1, "a", "", t), "OK|");
  EXPECT_EQ(s.call(1, kResetWatches, "|", t), "OK|");
  EXPECT_EQ(s.used(1, "transactions"), 0U);
  EXPECT_EQ(s.write(1, "b", "", t), "ENOENT");
  EXPECT_EQ(s.end(1, t), "ENOENT");
  EXPECT_EQ(s.call(1, kResetWatches, "|"), "OK|");
  EXPECT_EQ(s.read(1, "a"), "ENOENT");
  EXPECT_EQ(s.begin(1), 3U);
}

}  // namespace
}  // namespace bulkhead::xenstore::test
