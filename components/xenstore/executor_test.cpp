// Executing: what one input changes becomes true at once, and an instance that dies anywhere leaves to its
// successor exactly what an undisturbed one would have come to.
#include "components/xenstore/executor.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>

#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::UnorderedElementsAre;

std::vector<JournalRecord> journal_records(const Journal& journal) {
  std::vector<JournalRecord> records;
  for (std::uint64_t at = 0; at < journal.tail(); at = records.back().next) {
    records.emplace_back();
    if (!journal.read(at, records.back())) ADD_FAILURE() << "unreadable at " << at;
  }
  return records;
}

class ExecutorTest : public testing::Test {
 protected:
  ExecutorTest() {
    process_.executor.connect(0, 0);
    process_.executor.connect(1, 0);
    process_.call(1, kWatch, "/a|token|");
    process_.send(1);
  }
  Slot& slot(std::uint32_t index) { return process_.connections.slot(index); }
  std::uint64_t tail() const { return process_.custody.journal().tail(); }
  // Connection 1's events can take no more; connection 0 reads its replies.
  void overflow_watcher() {
    const std::string path = "/a/" + std::string(900, 'x') + "|";
    for (int i = 0; i < 30 && slot(1).overflowed == 0; ++i) {
      process_.call(0, kWrite, path + std::to_string(i));
      process_.send(0);
    }
    ASSERT_EQ(slot(1).overflowed, 1U);
  }

  MemoryCustody store_ = small_custody();
  Incarnation process_{store_};
};

TEST_F(ExecutorTest, AnswersAndTellsTheWatchers) {
  process_.executor.take_woken();
  process_.call(0, kWrite, "/a/b|value");
  EXPECT_THAT(process_.executor.take_woken(), UnorderedElementsAre(0, 1));
  EXPECT_THAT(process_.executor.take_woken(), IsEmpty());
  EXPECT_THAT(process_.executor.take_overflowed(), IsEmpty());
  EXPECT_THAT(lines(process_.send(0)), ElementsAre("11:1:OK|"));
  EXPECT_THAT(lines(process_.send(1)), ElementsAre("15:0:/a/b|token|"));
  EXPECT_EQ(slot(0).parsed, slot(0).received);
}

TEST_F(ExecutorTest, RepliesCarryTheRequestsNumbers) {
  const std::string bytes = message(kRead, "/nothing|", 77, 0);
  process_.receive(0, bytes);
  process_.execute_next(0);
  EXPECT_THAT(lines(process_.send(0)), ElementsAre("16:77:ENOENT|"));
}

// In a child that dies before the commit, between storing it and applying any of it, between two of its
// values.
TEST(ExecutorTogether, ReplyAndEventsBecomeTrueAtOnce) {
  struct Case {
    const char* point;
    std::uint32_t pass;
    bool happened;
  };
  for (const Case& c :
       {Case{"request-executed", 1, false}, Case{"request-journalled", 1, false},
        Case{"commit-prepared", 1, false}, Case{"committed", 1, true}, Case{"commit-half-applied", 1, true},
        Case{"commit-half-applied", 2, true}, Case{"commit-applied", 1, true}}) {
    SCOPED_TRACE(c.point + std::to_string(c.pass));
    const MemoryCustody store = small_custody();
    ASSERT_TRUE(dies([&] {
      Incarnation owner(store);
      owner.executor.connect(0, 0);
      owner.executor.connect(1, 0);
      owner.call(1, kWatch, "/a|token|");
      owner.send(1);
      ASSERT_TRUE(CrashPoint::arm(c.point, c.pass));
      owner.call(0, kWrite, "/a/b|value");
    }));
    Incarnation successor(store);
    successor.take_over();
    EXPECT_EQ(lines(successor.send(0)).size(), c.happened ? 1U : 0U);
    EXPECT_EQ(lines(successor.send(1)).size(), c.happened ? 1U : 0U);
    EXPECT_EQ(journal_records(successor.custody.journal()).size(), c.happened ? 4U : 3U);
    Request request{};
    EXPECT_EQ(successor.connections.next_message(0, request),
              c.happened ? Connections::Input::kIncomplete : Connections::Input::kMessage);
  }
}

TEST_F(ExecutorTest, WhatChangesStateIsJournalledAsItCame) {
  const std::uint64_t before = tail();
  const std::string bytes = message(kWrite, "/a/b|value", 9, 0);
  process_.receive(0, bytes);
  process_.execute_next(0);
  EXPECT_GT(tail(), before);
  EXPECT_EQ(process_.replica.position(), tail());
  const auto records = journal_records(process_.custody.journal());
  ASSERT_EQ(records.size(), 4U);
  EXPECT_EQ(records[0].kind, 1U);  // connected
  EXPECT_EQ(records[3].kind, 3U);
  EXPECT_EQ(records[3].subject, 0U);
  EXPECT_EQ(as_text(records[3].payload), bytes);
}

TEST_F(ExecutorTest, WhatChangesNothingIsNotJournalled) {
  process_.call(0, kWrite, "/a/b|value");
  process_.send(0);
  const std::uint64_t before = tail();
  process_.call(0, kRead, "/a/b|");
  process_.call(0, kDirectory, "/a|");
  process_.call(0, kGetPerms, "/a|");
  process_.call(0, kRead, "/missing|");
  process_.call(0, kWrite, "no slash and a NUL is missing");
  process_.call(0, 9999, "");
  process_.call(0, kMkdir, "/a/b|");
  EXPECT_EQ(tail(), before);
  EXPECT_EQ(lines(process_.send(0)).size(), 7U);
  EXPECT_EQ(slot(0).parsed, slot(0).received);
  // Reading in a transaction is remembered there, so it counts as a change.
  process_.call(0, kTransactionStart, "|");
  const std::uint64_t started = tail();
  EXPECT_GT(started, before);
  process_.call(0, kRead, "/a/b|", 1);
  EXPECT_GT(tail(), started);
}

TEST_F(ExecutorTest, EveryConnectionHasItsOwnSerial) {
  EXPECT_EQ(slot(0).serial, 1U);
  EXPECT_EQ(slot(1).serial, 2U);
  EXPECT_EQ(process_.executor.next_serial(), 3U);
  EXPECT_EQ(slot(1).state, SlotState::kOpen);
  process_.executor.disconnect(1);
  EXPECT_EQ(slot(1).state, SlotState::kClosing);
  EXPECT_EQ(slot(1).serial, 2U);
  EXPECT_EQ(process_.executor.next_serial(), 3U);
  slot(1).state = SlotState::kFree;
  process_.executor.connect(1, 5);
  EXPECT_EQ(slot(1).serial, 3U);
  EXPECT_EQ(slot(1).domid, 5U);
  EXPECT_EQ(process_.executor.next_serial(), 4U);
  EXPECT_EQ(slot(1).parsed, 0U);
  const auto records = journal_records(process_.custody.journal());
  ASSERT_EQ(records.size(), 5U);
  EXPECT_EQ(records[3].kind, 2U);
  EXPECT_EQ(records[3].subject, 1U);
  EXPECT_THAT(records[3].payload, IsEmpty());
  ConnectInput input{};
  ASSERT_EQ(records[4].payload.size(), sizeof input);
  std::memcpy(&input, records[4].payload.data(), sizeof input);
  EXPECT_EQ(input.serial, 3U);
  EXPECT_EQ(input.domid, 5U);
}

TEST_F(ExecutorTest, DisconnectedClientsWatchesAreSilent) {
  process_.executor.disconnect(1);
  slot(1).state = SlotState::kFree;
  process_.executor.connect(1, 0);
  process_.call(0, kWrite, "/a/b|value");
  EXPECT_EQ(process_.send(1), "");
}

// The rest is kept for events: replies alone never cut a client off.
TEST_F(ExecutorTest, RepliesThatNobodyReadsFillAQuarterOfTheBuffer) {
  process_.call(0, kWrite, "/big|" + std::string(2000, 'x'));
  int executed = 0;
  while (process_.executor.has_room(0) && executed < 100) {
    process_.call(0, kRead, "/big|");
    ++executed;
  }
  EXPECT_EQ(executed, (16384 / 4 - 19) / 2016 + 1);
  EXPECT_THAT(process_.executor.take_overflowed(), IsEmpty());
  process_.send(0);
  EXPECT_TRUE(process_.executor.has_room(0));
}

TEST_F(ExecutorTest, RefusingAnswersAndChangesNothingElse) {
  const std::uint64_t before = tail();
  const std::uint64_t digest = process_.replica.engine().digest();
  const std::string bytes = message(kWrite, "/a/b|value", 9, 0);
  process_.receive(0, bytes);
  Request request{};
  ASSERT_EQ(process_.connections.next_message(0, request), Connections::Input::kMessage);
  process_.executor.refuse(0, request, ErrorCode::kNoSpace);
  EXPECT_THAT(lines(process_.send(0)), ElementsAre("16:9:ENOSPC|"));
  EXPECT_EQ(process_.send(1), "");
  EXPECT_EQ(slot(0).parsed, slot(0).received);
  EXPECT_EQ(tail(), before);
  EXPECT_EQ(process_.replica.engine().digest(), digest);
}

// Whatever is admitted, every client's end still fits.
TEST_F(ExecutorTest, JournalKeepsRoomForEveryConnectionsEnd) {
  process_.executor.connect(2, 0);
  process_.executor.connect(3, 0);
  Journal& journal = process_.custody.journal();
  const std::string value(4000, 'x');
  while (process_.executor.can_journal()) {
    process_.call(0, kWrite, "/n|" + value);
    process_.send(0);
    ASSERT_LE(journal.used(), journal.capacity());
  }
  for (std::uint32_t i = 0; i < 4; ++i) process_.executor.disconnect(i);
  EXPECT_LE(journal.used(), journal.capacity());
  EXPECT_EQ(journal_records(journal).back().subject, 3U);
}

TEST_F(ExecutorTest, ClientThatDoesNotReadItsEventsOverflows) {
  overflow_watcher();
  EXPECT_THAT(process_.executor.take_overflowed(), ElementsAre(1));
  EXPECT_THAT(process_.executor.take_overflowed(), IsEmpty());
  // It gets whole messages up to there.
  for (const auto& line : lines(process_.send(1))) EXPECT_TRUE(line.starts_with("15:0:/a/xxx")) << line;
  EXPECT_EQ(slot(0).overflowed, 0U);
}

// Else it would go on with a client that misses an event.
TEST_F(ExecutorTest, SuccessorLearnsOfTheOverflow) {
  overflow_watcher();
  Incarnation successor(store_);
  successor.take_over();
  EXPECT_THAT(successor.executor.take_overflowed(), ElementsAre(1));
}

TEST_F(ExecutorTest, OverflowIsKnownBeforeTheCommitThatDropsTheEvent) {
  for (int i = 0; i < 17; ++i) {
    process_.call(0, kWrite, "/a/" + std::string(900, 'x') + "|");
    process_.send(0);
  }
  ASSERT_EQ(slot(1).overflowed, 0U);
  ASSERT_TRUE(dies([&] {
    CrashPoint::arm("committed");
    process_.call(0, kWrite, "/a/" + std::string(900, 'x') + "|");
  }));
  Incarnation successor(store_);
  successor.take_over();
  EXPECT_EQ(successor.connections.slot(0).parsed, successor.connections.slot(0).received);
  EXPECT_THAT(successor.executor.take_overflowed(), ElementsAre(1));
}

TEST_F(ExecutorTest, OverflowEndsWithItsConnection) {
  overflow_watcher();
  process_.executor.disconnect(1);
  EXPECT_THAT(process_.executor.take_overflowed(), IsEmpty());
  Incarnation while_closing(store_);
  while_closing.take_over();
  EXPECT_THAT(while_closing.executor.take_overflowed(), IsEmpty());
  slot(1).state = SlotState::kFree;
  process_.executor.connect(1, 0);
  Incarnation successor(store_);
  successor.take_over();
  EXPECT_THAT(successor.executor.take_overflowed(), IsEmpty());
}

// ---- deaths ----

// One thing that happens to the service.
struct Step {
  enum class What : std::uint8_t { kConnect, kDisconnect, kFree, kRequest } what;
  std::uint32_t slot;
  std::uint32_t domid = 0;
  std::string bytes = {};  // of the request
};

std::vector<Step> script() {
  using What = Step::What;
  const auto request = [](std::uint32_t slot, std::uint32_t type, std::string_view payload,
                          std::uint32_t transaction = 0) {
    return Step{What::kRequest, slot, 0, message(type, payload, 7, transaction)};
  };
  return {{What::kConnect, 0},
          {What::kConnect, 1},
          {What::kConnect, 2, 1},
          request(1, kWatch, "/a|one|"),
          request(2, kWatch, "/a|two|"),
          request(0, kWrite, "/a/b|value"),
          request(0, kSetPerms, "/a|n0|r1|"),
          request(0, kRead, "/a/b|"),
          request(1, kWrite, "/a/own|to itself"),
          request(0, kTransactionStart, "|"),
          request(0, kWrite, "/a/c|in it", 1),
          request(0, kRead, "/a/own|", 1),
          request(2, kRead, "/missing|"),
          request(0, kTransactionEnd, "T|", 1),
          {What::kDisconnect, 1},
          request(0, kRm, "/a|"),
          {What::kFree, 1},
          {What::kConnect, 1},
          request(1, kWatch, "/a|again|"),
          request(0, kWrite, "/a/b|" + std::string(500, 'y'))};
}

// Plays the script on an instance, from wherever its predecessors came to.
class Player {
 public:
  Player() {
    std::uint64_t serial = 1;
    std::array<std::uint64_t, 4> received{};
    for (const Step& step : steps_) {
      if (step.what == Step::What::kConnect) received[step.slot] = 0;
      ends_.push_back(step.what == Step::What::kConnect ? ++serial
                                                        : received[step.slot] += step.bytes.size());
    }
  }
  void play(Incarnation& instance, std::size_t& at) const {
    for (; at < steps_.size(); ++at) {
      if (!done(instance, at)) perform(instance, at);
    }
  }

 private:
  // What custody says of the step that was in hand when somebody died.
  bool done(Incarnation& instance, std::size_t at) const {
    const Step& step = steps_[at];
    const Slot& slot = instance.connections.slot(step.slot);
    switch (step.what) {
      case Step::What::kConnect:
        return instance.executor.next_serial() >= ends_[at];
      case Step::What::kDisconnect:
        return slot.state == SlotState::kClosing;
      case Step::What::kFree:
        return slot.state == SlotState::kFree;
      case Step::What::kRequest:
        return slot.parsed >= ends_[at];
    }
    return false;
  }
  void perform(Incarnation& instance, std::size_t at) const {
    const Step& step = steps_[at];
    switch (step.what) {
      case Step::What::kConnect:
        return instance.executor.connect(step.slot, step.domid);
      case Step::What::kDisconnect:
        return instance.executor.disconnect(step.slot);
      case Step::What::kFree:
        return instance.connections.slot(step.slot).state.store(SlotState::kFree);
      case Step::What::kRequest:
        if (instance.connections.slot(step.slot).received < ends_[at])
          instance.receive(step.slot, step.bytes);
        return instance.execute_next(step.slot);
    }
  }

  std::vector<Step> steps_ = script();
  std::vector<std::uint64_t>
      ends_;  // a request: the stream offset after it; a connection: the serial after it
};

// Everything that outlives an instance or can be seen of it.
struct Picture {
  std::vector<std::vector<std::uint64_t>> slots;
  std::vector<std::vector<std::string>> output;
  std::string journal;
  std::uint64_t next_serial;
  std::uint64_t committed;
  std::uint64_t applied;
  std::vector<std::byte> state;
  friend bool operator==(const Picture&, const Picture&) = default;
};

Picture picture(const MemoryCustody& store, Incarnation& instance) {
  const Control& control = instance.custody.control();
  Picture result{{}, {}, {}, control.next_serial, control.committed, control.applied, {}};
  for (std::uint32_t i = 0; i < instance.connections.capacity(); ++i) {
    const Slot& slot = instance.connections.slot(i);
    result.slots.push_back({std::uint64_t{static_cast<std::uint32_t>(slot.state.load())}, slot.domid,
                            slot.serial, slot.received, slot.parsed, slot.produced, slot.overflowed});
    result.output.push_back(lines(instance.send(i)));
  }
  const Mapping journal = store.map("journal");
  result.journal = as_text(journal.bytes().subspan(4096, instance.custody.journal().tail()));
  result.state = write_snapshot(instance.replica.engine());
  return result;
}

Picture undisturbed() {
  const MemoryCustody store = small_custody();
  Incarnation instance(store);
  std::size_t at = 0;
  Player().play(instance, at);
  return picture(store, instance);
}

// How far the dying came: shared with the children.
class SharedCount {
 public:
  SharedCount()
      : count_(static_cast<std::size_t*>(::mmap(nullptr, sizeof(std::size_t), PROT_READ | PROT_WRITE,
                                                MAP_SHARED | MAP_ANONYMOUS, -1, 0))) {
    *count_ = 0;
  }
  SharedCount(const SharedCount&) = delete;
  SharedCount& operator=(const SharedCount&) = delete;
  ~SharedCount() { ::munmap(count_, sizeof *count_); }
  std::size_t& operator*() const { return *count_; }

 private:
  std::size_t* count_;
};

// A life that takes over and plays on, with a crash point armed from its beginning.
bool lives_and_dies(const MemoryCustody& store, std::size_t& at, const char* point, std::uint32_t pass) {
  return dies([&] {
    Incarnation instance(store);
    CrashPoint::arm(point, pass);
    instance.take_over();
    Player().play(instance, at);
  });
}

class ExecutorDeath : public testing::TestWithParam<const char*> {};

// At every pass of the point; the successor plays the rest.
TEST_P(ExecutorDeath, SuccessorComesToTheSameBytes) {
  const Picture expected = undisturbed();
  ASSERT_EQ(expected.output[0].size(), 9U);  // the script does what it looks like
  ASSERT_FALSE(expected.output[2].empty());
  std::uint32_t deaths = 0;
  for (bool died = true; died;) {
    SCOPED_TRACE(deaths + 1);
    const MemoryCustody store = small_custody();
    SharedCount at;
    died = lives_and_dies(store, *at, GetParam(), deaths + 1);
    if (died) ++deaths;
    Incarnation successor(store);
    successor.take_over();
    Player().play(successor, *at);
    ASSERT_EQ(picture(store, successor), expected);
  }
  EXPECT_GE(deaths, 14U);
}

// One after the other dies at one of the point's first passes, in the take-over too, until nothing is left to
// do.
TEST_P(ExecutorDeath, ManyShortLivesComeToTheSameBytes) {
  const Picture expected = undisturbed();
  const MemoryCustody store = small_custody();
  SharedCount at;
  std::uint32_t lives = 0;
  while (lives_and_dies(store, *at, GetParam(), 1 + lives % 4)) ASSERT_LT(++lives, 60U);
  EXPECT_GE(lives, 5U);
  Incarnation successor(store);
  successor.take_over();
  EXPECT_EQ(picture(store, successor), expected);
}
INSTANTIATE_TEST_SUITE_P(At, ExecutorDeath,
                         testing::Values("request-parsed", "request-executed", "request-journalled",
                                         "commit-prepared", "committed", "commit-half-applied",
                                         "commit-applied"),
                         [](const auto& tested) {
                           std::string name(tested.param);
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace bulkhead::xenstore::test
