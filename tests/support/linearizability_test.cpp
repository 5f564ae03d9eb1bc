// The linearizability check passes what may be seen of a xenstore and finds what may not: written by hand,
// and at random against a search by brute force.
#include "tests/support/linearizability.h"

#include <gtest/gtest.h>

#include <algorithm>

#include "tests/support/sequential_store.h"

namespace bulkhead::xs {
namespace {

using Kind = Request::Kind;

Step write(const std::string& path, const std::string& value) {
  return {{Kind::kWrite, path, value}, "OK"};
}
Step read(const std::string& path, const std::string& value) {
  return {{Kind::kRead, path}, value};
}
Step mkdir(const std::string& path) {
  return {{Kind::kMkdir, path}, "OK"};
}
Step rm(const std::string& path, const std::string& result = "OK") {
  return {{Kind::kRemove, path}, result};
}
Step directory(const std::string& path, const std::string& names) {
  return {{Kind::kDirectory, path}, names};
}
Step set_perms(const std::string& path, const std::string& perms) {
  return {{Kind::kSetPerms, path, perms}, "OK"};
}
Step get_perms(const std::string& path, const std::string& perms) {
  return {{Kind::kGetPerms, path}, perms};
}
std::string names(std::initializer_list<const char*> each) {
  std::string joined;
  for (const char* name : each) joined.append(name).append(1, '\0');
  return joined;
}

constexpr int64_t kNever = Operation::kNever;

// /r with /r/a = "0" and /r/b = "0".
struct Story : History {
  Story() { initial = {{"/r", {"", "n0"}}, {"/r/a", {"0", "n0"}}, {"/r/b", {"0", "n0"}}}; }

  Story& op(size_t client, int64_t from, int64_t to, Step step) {
    operations.push_back({client, from, to, Operation::Kind::kSingle, {std::move(step)}});
    return *this;
  }
  Story& commit(size_t client, int64_t from, int64_t to, std::vector<Step> steps) {
    operations.push_back({client, from, to, Operation::Kind::kCommit, std::move(steps)});
    return *this;
  }
  Story& snapshot(size_t client, int64_t from, int64_t to, std::vector<Step> steps) {
    operations.push_back({client, from, to, Operation::Kind::kSnapshot, std::move(steps)});
    return *this;
  }
  Story& watch(const std::string& path, std::vector<Event> events) {
    watchers.push_back({path, std::move(events)});
    return *this;
  }
};

void expect_passes(const History& history) {
  const Verdict verdict = check_linearizable(history);
  EXPECT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << verdict.why;
}

void expect_fails(const History& history) {
  const Verdict verdict = check_linearizable(history);
  EXPECT_EQ(verdict.kind, Verdict::Kind::kViolation);
  EXPECT_NE(verdict.why, "");
}

TEST(LinearizabilityFails, StaleRead) {
  expect_fails(Story().op(0, 0, 10, write("/r/a", "1")).op(1, 11, 20, read("/r/a", "0")));
}

TEST(LinearizabilityFails, ReadFromTheFuture) {
  expect_fails(Story().op(0, 0, 10, read("/r/a", "1")).op(1, 11, 20, write("/r/a", "1")));
}

TEST(LinearizabilityFails, ValueNobodyWrote) {
  expect_fails(Story().op(0, 0, 10, write("/r/a", "1")).op(1, 5, 20, read("/r/a", "2")));
}

TEST(LinearizabilityFails, BackAndForth) {
  expect_fails(Story()
                   .op(0, 0, 100, write("/r/a", "1"))
                   .op(1, 10, 20, read("/r/a", "1"))
                   .op(1, 30, 40, read("/r/a", "0")));
}

TEST(LinearizabilityFails, TwoClientsSeeTwoOrders) {
  expect_fails(Story()
                   .op(0, 0, 100, write("/r/a", "1"))
                   .op(1, 0, 100, write("/r/b", "1"))
                   .op(2, 10, 20, read("/r/a", "1"))
                   .op(2, 30, 40, read("/r/b", "0"))
                   .op(3, 10, 20, read("/r/b", "1"))
                   .op(3, 30, 40, read("/r/a", "0")));
}

// Each node alone is right: only a check of the whole finds it.
TEST(LinearizabilityFails, RequestsInFlightOutOfOrder) {
  const auto story = Story()
                         .op(0, 0, 100, write("/r/a", "1"))
                         .op(0, 1, 101, write("/r/b", "1"))
                         .op(1, 10, 20, read("/r/b", "1"))
                         .op(1, 30, 40, read("/r/a", "0"));
  expect_fails(story);
  EXPECT_EQ(partition(story).size(), 1U);
}

TEST(LinearizabilityFails, AcknowledgedWriteLostInAKill) {
  expect_fails(Story()
                   .op(0, 0, 10, write("/r/a", "1"))
                   .op(0, 20, kNever, write("/r/b", "1"))  // under way in the kill
                   .op(1, 30, 40, read("/r/a", "0"))
                   .op(1, 50, 60, read("/r/b", "0")));
}

TEST(LinearizabilityFails, UnansweredWriteComesAndGoes) {
  expect_fails(Story()
                   .op(0, 0, kNever, write("/r/a", "1"))
                   .op(1, 10, 20, read("/r/a", "1"))
                   .op(1, 30, 40, read("/r/a", "0")));
}

TEST(LinearizabilityFails, UnansweredWriteBeforeItWasSent) {
  expect_fails(Story().op(1, 0, 10, read("/r/a", "1")).op(0, 20, kNever, write("/r/a", "1")));
}

// Both read the same and write one more.
TEST(LinearizabilityFails, LostUpdate) {
  expect_fails(Story()
                   .commit(0, 0, 10, {read("/r/a", "0"), write("/r/a", "1")})
                   .commit(1, 5, 20, {read("/r/a", "0"), write("/r/a", "1")}));
}

TEST(LinearizabilityFails, WriteSkew) {
  expect_fails(Story()
                   .commit(0, 0, 20, {read("/r/a", "0"), read("/r/b", "0"), write("/r/a", "1")})
                   .commit(1, 0, 20, {read("/r/a", "0"), read("/r/b", "0"), write("/r/b", "1")}));
}

TEST(LinearizabilityFails, TornTransaction) {
  expect_fails(Story()
                   .commit(0, 0, 100, {write("/r/a", "1"), write("/r/b", "1")})
                   .commit(1, 0, 100, {read("/r/a", "1"), read("/r/b", "0")}));
}

TEST(LinearizabilityFails, HalfATransactionIsSeenBetweenItsWrites) {
  expect_fails(Story()
                   .commit(0, 0, 100, {write("/r/a", "1"), write("/r/b", "1")})
                   .op(1, 10, 20, read("/r/a", "1"))
                   .op(1, 30, 40, read("/r/b", "0")));
}

TEST(LinearizabilityFails, RefusedCommitTookEffect) {
  expect_fails(
      Story().snapshot(0, 0, 10, {read("/r/a", "0"), write("/r/a", "1")}).op(1, 20, 30, read("/r/a", "1")));
}

TEST(LinearizabilityFails, TransactionsViewIsOfTwoInstants) {
  expect_fails(Story()
                   .op(0, 0, 10, write("/r/a", "1"))
                   .op(0, 20, 30, write("/r/b", "1"))
                   .snapshot(1, 0, 40, {read("/r/a", "0"), read("/r/b", "1")}));
}

TEST(LinearizabilityFails, RemovedAndStillThere) {
  expect_fails(Story()
                   .op(0, 0, 10, write("/r/a/x", "1"))
                   .op(0, 20, 30, rm("/r/a"))
                   .op(1, 40, 50, read("/r/a/x", "1")));
}

TEST(LinearizabilityFails, DirectoryShowsHalfASubtreesRemoval) {
  expect_fails(Story()
                   .op(0, 0, 10, mkdir("/r/a/x"))
                   .op(0, 20, 100, rm("/r/a"))
                   .op(1, 30, 40, directory("/r", names({"b"})))
                   .op(1, 50, 60, directory("/r/a", names({"x"}))));
}

// Two clients take the same lock by making a node in a transaction that found none.
TEST(LinearizabilityFails, NodeMadeTwice) {
  expect_fails(Story()
                   .commit(0, 0, 100, {read("/r/lock", "!ENOENT"), mkdir("/r/lock")})
                   .commit(1, 0, 100, {read("/r/lock", "!ENOENT"), mkdir("/r/lock")}));
}

TEST(LinearizabilityFails, PermissionsLost) {
  expect_fails(Story().op(0, 0, 10, set_perms("/r/a", "n0r1")).op(1, 20, 30, get_perms("/r/a", "n0")));
}

TEST(LinearizabilityFails, EventLost) {
  expect_fails(Story().op(0, 0, 10, write("/r/a", "1")).watch("/r", {}));
}

TEST(LinearizabilityFails, EventRepeated) {
  expect_fails(Story().op(0, 0, 10, write("/r/a", "1")).watch("/r", {{5, "/r/a"}, {6, "/r/a"}}));
}

TEST(LinearizabilityFails, EventBeforeItsCause) {
  expect_fails(Story().op(0, 10, 20, write("/r/a", "1")).watch("/r", {{5, "/r/a"}}));
}

TEST(LinearizabilityFails, EventOfANodeThatDidNotChange) {
  expect_fails(Story().op(0, 0, 10, write("/r/a", "1")).watch("/r", {{5, "/r/b"}}));
}

TEST(LinearizabilityFails, EventOfARefusedCommit) {
  expect_fails(Story().snapshot(0, 0, 10, {write("/r/a", "1")}).watch("/r", {{5, "/r/a"}}));
}

TEST(LinearizabilityFails, TwoWatchersHearTwoOrders) {
  expect_fails(Story()
                   .op(0, 0, 10, write("/r/a", "1"))
                   .op(1, 0, 10, write("/r/b", "1"))
                   .watch("/r", {{5, "/r/a"}, {6, "/r/b"}})
                   .watch("/r", {{5, "/r/b"}, {6, "/r/a"}}));
}

TEST(LinearizabilityFails, EventsInAnotherOrderThanReads) {
  expect_fails(Story()
                   .op(0, 0, 100, write("/r/a", "1"))
                   .op(1, 0, 100, write("/r/b", "1"))
                   .op(2, 10, 20, read("/r/a", "1"))
                   .op(2, 30, 40, read("/r/b", "0"))
                   .watch("/r", {{105, "/r/b"}, {106, "/r/a"}}));
}

TEST(LinearizabilityPasses, Nothing) {
  expect_passes(Story());
}

TEST(LinearizabilityPasses, OverlappingReadsSeeEither) {
  for (const char* value : {"0", "1"}) {
    expect_passes(Story().op(0, 0, 10, write("/r/a", "1")).op(1, 5, 20, read("/r/a", value)));
  }
}

TEST(LinearizabilityPasses, UnansweredWriteTookEffectOrNot) {
  for (const char* value : {"0", "1"}) {
    expect_passes(Story().op(0, 0, kNever, write("/r/a", "1")).op(1, 20, 30, read("/r/a", value)));
  }
}

TEST(LinearizabilityPasses, ConcurrentWritesInTheOrderOfTheReader) {
  for (const auto& [first, second] : {std::pair{"1", "2"}, {"2", "1"}}) {
    expect_passes(Story()
                      .op(0, 0, 100, write("/r/a", "1"))
                      .op(1, 0, 100, write("/r/a", "2"))
                      .op(2, 10, 20, read("/r/a", first))
                      .op(2, 30, 40, read("/r/a", second)));
  }
}

TEST(LinearizabilityPasses, RequestsInFlight) {
  expect_passes(Story()
                    .op(0, 0, 100, write("/r/a", "1"))
                    .op(0, 1, 101, write("/r/b", "1"))
                    .op(1, 10, 20, read("/r/a", "1"))
                    .op(1, 30, 40, read("/r/b", "0")));
}

TEST(LinearizabilityPasses, TransactionsAndWhatTheyDid) {
  expect_passes(Story()
                    .commit(0, 0, 100, {read("/r/a", "0"), write("/r/a", "1"), write("/r/b", "1")})
                    .commit(1, 0, 100, {read("/r/a", "1"), rm("/r/b"), mkdir("/r/b/x")})
                    .op(2, 0, 100, directory("/r/b", names({"x"})))
                    .op(2, 1, 101, rm("/r/c/d", "!ENOENT"))
                    .op(2, 2, 102, rm("/r/c"))
                    .watch("/r", {{5, "/r/b"}, {5, "/r/a"}, {6, "/r/b"}, {6, "/r/b/x"}})
                    .watch("/r/a", {{5, "/r/a"}}));
}

TEST(LinearizabilityPasses, ViewOfARefusedTransaction) {
  expect_passes(Story()
                    .op(0, 0, 10, write("/r/a", "1"))
                    .snapshot(1, 5, 15, {read("/r/a", "1"), write("/r/a", "2"), read("/r/a", "2")})
                    .op(2, 20, 30, read("/r/a", "1")));
}

TEST(LinearizabilityPasses, EventsForWhatWentWithItsParent) {
  expect_passes(Story()
                    .op(0, 0, 10, mkdir("/r/a/x"))
                    .op(0, 20, 30, rm("/r/a"))
                    .watch("/r/a/x", {{5, "/r/a/x"}, {25, "/r/a/x"}}));
}

TEST(LinearizabilityCheck, SaysWhereItEnds) {
  const Verdict verdict =
      check_linearizable(Story().op(0, 0, 10, write("/r/a", "1")).op(1, 11, 20, read("/r/a", "0")));
  EXPECT_NE(verdict.why.find("beyond 1 of 2"), std::string::npos) << verdict.why;
  EXPECT_NE(verdict.why.find("client 1 [11, 20] read /r/a -> 0"), std::string::npos) << verdict.why;
}

TEST(LinearizabilityCheck, GivesUpWithoutPassing) {
  Story story;
  for (size_t client = 0; client < 12; ++client) {
    story.op(client, 0, 100, write("/r/a", std::to_string(client)));
  }
  story.op(12, 101, 110, read("/r/a", "nothing"));
  EXPECT_EQ(check_linearizable(story, 100).kind, Verdict::Kind::kUndecided);
  EXPECT_EQ(check_linearizable(story).kind, Verdict::Kind::kViolation);
}

TEST(LinearizabilityCheck, Partitions) {
  auto story = Story()
                   .op(0, 0, 10, write("/r/a", "1"))
                   .op(1, 0, 10, write("/r/b", "1"))
                   .op(0, 11, 20, read("/r/b", "0"));
  const std::vector<History> parts = partition(story);
  ASSERT_EQ(parts.size(), 2U);
  expect_passes(parts[0]);
  expect_fails(parts[1]);
  expect_fails(story);
  story.op(1, 30, 40, directory("/r", names({"a", "b"})));
  EXPECT_EQ(partition(story).size(), 1U);
}

TEST(LinearizabilityCheck, MergedEvents) {
  const auto story = Story().op(0, 0, 10, write("/r/a", "1")).op(1, 5, 20, write("/r/a", "2"));
  EXPECT_EQ(check_merged_events(Story(story).watch("/r", {{25, "/r/a"}})), "");
  EXPECT_NE(check_merged_events(Story(story).watch("/r", {{4, "/r/a"}})), "");
  EXPECT_NE(check_merged_events(Story(story).watch("/r", {{25, "/r/b"}, {25, "/r/a"}})), "");
  EXPECT_NE(check_merged_events(Story(story).watch("/r", {})), "");
}

}  // namespace
}  // namespace bulkhead::xs
