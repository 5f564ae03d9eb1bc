// The replica: the same state by executing the same records, and a clear end where that is not possible.
#include "components/xenstore/replica.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/service_test_support.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::HasSubstr;

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

class ReplicaTest : public testing::Test {
 protected:
  ReplicaTest() {
    owner_.executor.connect(0, 0);
    owner_.executor.connect(1, 1);
  }
  Journal& journal() { return owner_.custody.journal(); }
  void write(std::string_view path, std::string_view value) {
    owner_.call(0, kWrite, std::string(path) + "|" + std::string(value));
    owner_.send(0);
  }
  void expect_same_state() {
    EXPECT_EQ(replica_.position(), journal().tail());
    EXPECT_TRUE(write_snapshot(replica_.engine()) == write_snapshot(owner_.replica.engine()));
  }
  void append(std::uint32_t kind, std::uint32_t subject, std::string_view payload) {
    journal().commit(journal().prepare(kind, subject, {as_bytes(payload)}));
  }
  Error failure_of_follow() {
    auto followed = replica_.follow(kAll);
    return followed ? Error(ErrorKind::kFailed, "(followed)") : followed.error();
  }

  MemoryCustody store_ = small_custody();
  Incarnation owner_{store_};
  Custody custody_ = Custody::open(store_).value();  // the standby's own
  Replica replica_{custody_};
};

TEST_F(ReplicaTest, FollowsEveryRecord) {
  owner_.call(0, kWatch, "/a|token|");
  owner_.call(1, kTransactionStart, "|");
  write("/a/b", "value");
  owner_.call(0, kRead, "/a/b|");
  owner_.executor.disconnect(1);
  EXPECT_FALSE(replica_.follow(kAll).value());
  EXPECT_EQ(replica_.executed(), 6U);
  EXPECT_EQ(replica_.loads(), 0U);
  expect_same_state();
  EXPECT_FALSE(replica_.follow(kAll).value());
  EXPECT_EQ(replica_.executed(), 6U);
  write("/a/c", "more");
  EXPECT_FALSE(replica_.follow(kAll).value());
  expect_same_state();
}

// What the hypervisor says, and what is done about a ring.
TEST_F(ReplicaTest, FollowsWhatBecomesOfDomains) {
  owner_.call(0, kWatch, "@releaseDomain|w|");
  owner_.call(0, kIntroduce, "1|77|5|");
  owner_.call(0, kIntroduce, "2|78|6|");
  owner_.send(0);
  owner_.call(1, kWatch, "/a|token|");
  owner_.call(1, kTransactionStart, "|");
  owner_.send(1);
  EXPECT_TRUE(owner_.executor.take_domains_changed());
  EXPECT_FALSE(owner_.executor.take_domains_changed());
  owner_.executor.domain_shut_down(1);
  EXPECT_THAT(lines(owner_.send(0)), testing::ElementsAre("15:0:@releaseDomain|w|"));
  owner_.receive(1, "half");
  owner_.executor.reset(1);
  const Slot& slot = owner_.connections.slot(1);
  EXPECT_EQ(slot.parsed.load(), slot.received.load()) << "what it was about to say counts no more";
  owner_.executor.domain_gone(2);
  EXPECT_TRUE(owner_.executor.take_domains_changed());
  EXPECT_FALSE(replica_.follow(kAll).value());
  expect_same_state();
  ASSERT_EQ(replica_.engine().introduced_domains().size(), 1U);
  EXPECT_TRUE(replica_.engine().introduced_domains()[0].shut_down);
  EXPECT_EQ(replica_.engine().transactions_of(1), 0U);
}

TEST_F(ReplicaTest, StopsAtTheLimit) {
  for (int i = 0; i < 8; ++i) write("/n", std::to_string(i));
  EXPECT_TRUE(replica_.follow(4).value());
  EXPECT_EQ(replica_.executed(), 4U);
  EXPECT_TRUE(replica_.follow(6).value());
  EXPECT_EQ(replica_.position(), journal().tail());
  EXPECT_FALSE(replica_.follow(1).value());
  expect_same_state();
}

TEST_F(ReplicaTest, RecordThatIsNotCommittedNeverWas) {
  const std::string bytes = message(kWrite, "/never|x");
  journal().prepare(3, 0, {as_bytes(bytes)});
  EXPECT_FALSE(replica_.follow(kAll).value());
  EXPECT_EQ(replica_.executed(), 2U);
  expect_same_state();
}

TEST_F(ReplicaTest, OvertakenLoadsTheSnapshot) {
  write("/a", "in the snapshot");
  EXPECT_TRUE(replica_.follow(1).value());
  owner_.publish_snapshot();
  journal().release(owner_.replica.position());
  write("/b", "after it");
  EXPECT_FALSE(replica_.follow(kAll).value());
  EXPECT_EQ(replica_.loads(), 1U);
  EXPECT_EQ(replica_.executed(), 2U);
  expect_same_state();
}

TEST_F(ReplicaTest, NewOneLoadsOnlyWhatItNeeds) {
  write("/a", "x");
  owner_.publish_snapshot();
  EXPECT_FALSE(replica_.follow(kAll).value());  // the journal still reaches back
  EXPECT_EQ(replica_.loads(), 0U);
  journal().release(owner_.replica.position());
  Replica fresh(custody_);
  EXPECT_FALSE(fresh.follow(kAll).value());
  EXPECT_EQ(fresh.loads(), 1U);
  EXPECT_EQ(fresh.executed(), 0U);
  EXPECT_EQ(fresh.position(), journal().tail());
  EXPECT_FALSE(replica_.follow(kAll).value());  // is where the journal begins
  EXPECT_EQ(replica_.loads(), 0U);
}

TEST_F(ReplicaTest, BeginningGoneWithoutASnapshot) {
  journal().release(journal().tail());
  const Error error = failure_of_follow();
  EXPECT_EQ(error.kind(), ErrorKind::kNotFound);
  EXPECT_THAT(error.message(), HasSubstr("the journal's beginning is gone and there is no snapshot"));
}

// Nothing can be done: to try again for ever would be worse.
TEST_F(ReplicaTest, SnapshotOlderThanTheJournal) {
  owner_.publish_snapshot();
  const std::uint64_t snapshot = owner_.replica.position();
  write("/a", "x");
  journal().release(journal().tail());
  const Error error = failure_of_follow();
  EXPECT_EQ(error.kind(), ErrorKind::kInvalid);
  EXPECT_THAT(error.message(), HasSubstr("begins at position " + std::to_string(journal().tail())));
  EXPECT_THAT(error.message(), HasSubstr("ends at " + std::to_string(snapshot)));
}

TEST_F(ReplicaTest, DamagedSnapshot) {
  owner_.publish_snapshot();
  journal().release(journal().tail());
  custody_.snapshot(custody_.control().published & 3).data()[kSnapshotData + 50] ^= std::byte{4};
  EXPECT_THAT(failure_of_follow().message(), HasSubstr("cannot load the snapshot"));
}

TEST_F(ReplicaTest, DamagedRecordIsNamed) {
  const std::uint64_t position = journal().tail();
  write("/a", "the damaged one");
  write("/b", "never reached");
  const Mapping segment = store_.map("journal");
  EXPECT_TRUE(replica_.follow(2).value());
  const std::size_t length = 24 + 16 + 3 + 15;
  for (std::size_t i = 0; i < length; ++i) {
    segment.data()[4096 + position + i] ^= std::byte{0x10};
    const Error error = failure_of_follow();
    EXPECT_EQ(error.kind(), ErrorKind::kInvalid) << i;
    EXPECT_THAT(error.message(), HasSubstr("journal damaged at position " + std::to_string(position))) << i;
    EXPECT_EQ(replica_.position(), position);
    segment.data()[4096 + position + i] ^= std::byte{0x10};
  }
  EXPECT_EQ(replica_.executed(), 2U);
  EXPECT_FALSE(replica_.follow(kAll).value());
  expect_same_state();
}

class CheckpointTest : public ReplicaTest {
 protected:
  using Wrong = Replica::Verdict::Wrong;
  void follow_all() {
    for (;;) {
      auto more = replica_.follow(kAll);
      ASSERT_TRUE(more) << more.error().message();
      if (!*more || replica_.at_checkpoint()) return;
      if (auto verdict = replica_.take_verdict()) verdicts_.push_back(*verdict);
    }
  }
  // Another state than the journal gives, and no hash to tell.
  static void diverge(Replica& replica) {
    Recorder out;
    run(replica.engine(), out, 0, kWrite, nul("/diverged|x"));
  }
  void expect_verdict(Wrong wrong, std::uint64_t incarnation) {
    ASSERT_EQ(verdicts_.size(), 1U);
    EXPECT_EQ(verdicts_[0].wrong, wrong);
    EXPECT_EQ(verdicts_[0].incarnation, incarnation);
  }
  std::vector<Replica::Verdict> verdicts_;
};

TEST_F(CheckpointTest, EqualStatesAgree) {
  owner_.call(0, kWatch, "/a|token|");
  owner_.call(1, kTransactionStart, "|");
  write("/a/b", "value");
  owner_.executor.checkpoint(1);
  follow_all();
  EXPECT_TRUE(replica_.at_checkpoint());
  EXPECT_EQ(replica_.agreed().position, journal().tail());
  EXPECT_EQ(replica_.agreed().fingerprint, owner_.replica.engine().fingerprint());
  EXPECT_THAT(verdicts_, testing::IsEmpty());
  write("/a/c", "more");
  EXPECT_FALSE(replica_.follow(kAll).value());
  EXPECT_FALSE(replica_.at_checkpoint());
  expect_same_state();
}

TEST_F(CheckpointTest, PausesThereWhenAsked) {
  write("/a", "x");
  owner_.executor.checkpoint(1);
  write("/b", "y");
  EXPECT_TRUE(replica_.follow(kAll, true).value());
  EXPECT_TRUE(replica_.at_checkpoint());
  EXPECT_LT(replica_.position(), journal().tail());
  EXPECT_FALSE(replica_.follow(kAll, true).value());
}

TEST_F(CheckpointTest, TheFollowerIsWrong) {
  for (const bool from_snapshot : {false, true}) {
    SCOPED_TRACE(from_snapshot);
    verdicts_.clear();
    write("/a", "x");
    if (from_snapshot) owner_.publish_snapshot();
    if (from_snapshot) journal().release(owner_.replica.position());
    follow_all();
    diverge(replica_);
    write("/b", "y");
    owner_.executor.checkpoint(1);
    write("/c", "z");
    follow_all();
    expect_verdict(Wrong::kSelf, 1);
    expect_same_state();
    owner_.executor.checkpoint(1);
    follow_all();
    EXPECT_TRUE(replica_.at_checkpoint());
    EXPECT_EQ(verdicts_.size(), 1U);
  }
}

TEST_F(CheckpointTest, TheOwnerIsWrong) {
  write("/a", "x");
  owner_.publish_snapshot();
  diverge(owner_.replica);
  write("/b", "y");
  owner_.executor.checkpoint(7);
  follow_all();
  expect_verdict(Wrong::kOwner, 7);
  // What it says is not believed any more, and no replay needed to say so again.
  const std::uint64_t loads = replica_.loads();
  owner_.executor.checkpoint(7);
  verdicts_.clear();
  follow_all();
  expect_verdict(Wrong::kOwner, 7);
  EXPECT_EQ(replica_.loads(), loads);
  // Its successor, with the state the journal gives, agrees.
  Incarnation successor(store_);
  for (;;) {
    if (!successor.replica.follow(kAll).value()) break;
    (void)successor.replica.take_verdict();
  }
  successor.executor.checkpoint(8);
  verdicts_.clear();
  follow_all();
  EXPECT_TRUE(replica_.at_checkpoint());
  EXPECT_THAT(verdicts_, testing::IsEmpty());
  EXPECT_EQ(replica_.engine().fingerprint(), successor.replica.engine().fingerprint());
}

// A counter no node's hash covers.
TEST_F(CheckpointTest, OneIsEnoughWhateverDiffers) {
  write("/a", "x");
  follow_all();
  Recorder out;
  run(replica_.engine(), out, 0, kControl, nul("quota|set|nodes|9|"));
  owner_.executor.checkpoint(1);
  follow_all();
  expect_verdict(Wrong::kSelf, 1);
}

TEST_F(CheckpointTest, NobodyCanTellWhenTheJournalIsDamaged) {
  const std::uint64_t position = journal().tail();
  write("/a", "x");
  follow_all();
  diverge(replica_);
  owner_.executor.checkpoint(1);
  store_.map("journal").data()[4096 + position + 30] ^= std::byte{1};
  const Error error = failure_of_follow();
  EXPECT_THAT(error.message(), HasSubstr("cannot tell whose state is wrong: journal damaged"));
}

// Well written, but not by a program of this version.
TEST_F(ReplicaTest, RecordsOfUnknownShape) {
  const auto header = [](std::uint32_t length) {
    const Header h{kWrite, 1, 0, length};
    return std::string(reinterpret_cast<const char*>(&h), sizeof h);
  };
  const auto connected = [](std::uint32_t domid) {
    const ConnectInput input{9, domid, 0};
    return std::string(reinterpret_cast<const char*>(&input), sizeof input);
  };
  const std::vector<std::pair<std::uint32_t, std::string>> records{
      {4, ""},
      {8, std::string(15, '\0')},
      {0xffffffff, message(kWrite, "/a|x")},
      {1, ""},
      {1, std::string(15, '\0')},
      {1, std::string(17, '\0')},
      {1, connected(kFirstReservedDomain)},
      {2, "x"},
      {3, ""},
      {3, std::string(15, '\0')},
      {5, "x"},
      {6, "x"},
      {7, "x"},
      {3, header(5) + "/a"},
      {3, header(1) + std::string("/a\0x", 4)},
      {3, header(4097) + std::string(4097, 'x')},
  };
  std::uint64_t position = journal().tail();
  EXPECT_FALSE(replica_.follow(kAll).value());
  for (const auto& [kind, payload] : records) {
    append(kind, 0, payload);
    const Error error = failure_of_follow();
    EXPECT_EQ(error.kind(), ErrorKind::kInvalid);
    EXPECT_THAT(error.message(), HasSubstr("unknown shape at position " + std::to_string(position)));
    EXPECT_EQ(replica_.position(), position);
    EXPECT_EQ(replica_.executed(), 2U);
    position = journal().tail();
    replica_.advance(position);
  }
  append(1, custody_.geometry().max_connections, connected(1));
  EXPECT_EQ(failure_of_follow().kind(), ErrorKind::kInvalid);
  EXPECT_TRUE(write_snapshot(replica_.engine()) == write_snapshot(owner_.replica.engine()));
}

// Several times around the smallest journal; the standby reads in fits and starts, and is overtaken at times.
TEST_F(ReplicaTest, KeepsUpWithAnOwnerAtAnyPace) {
  std::mt19937 random(7);
  std::uint64_t overtaken = 0;
  while (journal().tail() < 6 * journal().capacity()) {
    write("/n/" + std::to_string(random() % 50), std::string(random() % 2000, 'v'));
    if (journal().free() < journal().capacity() / 2 + 8192) {
      owner_.publish_snapshot();
      journal().release(owner_.replica.position());
    }
    if (random() % 100 != 0) continue;
    const std::uint64_t loads = replica_.loads();
    while (replica_.follow(random() % 40 + 1).value() && random() % 8 != 0) {
    }
    overtaken += replica_.loads() - loads;
  }
  EXPECT_FALSE(replica_.follow(kAll).value());
  expect_same_state();
  EXPECT_GT(overtaken, 2U);
  EXPECT_GT(replica_.executed(), 100U);
}

}  // namespace
}  // namespace bulkhead::xenstore::test
