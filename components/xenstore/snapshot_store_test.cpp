// Snapshots in custody: published whole, never backwards, and nobody waits for the dead.
#include "components/xenstore/snapshot_store.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kAll = std::numeric_limits<std::size_t>::max();

class SnapshotStoreTest : public testing::Test {
 protected:
  // A state that says which journal position it stands for.
  static Store state_at(std::uint64_t position, int nodes = 20) {
    Store s;
    s.write(0, "/position", std::to_string(position));
    for (int i = 0; i < nodes; ++i) s.write(0, "/n/" + std::to_string(i), std::string(50, 'x'));
    return s;
  }
  std::optional<SnapshotWriting> begin(std::uint64_t position, int nodes = 20) {
    const Store s = state_at(position, nodes);
    return SnapshotWriting::begin(custody_, s.engine, position);
  }
  void publish(std::uint64_t position, int nodes = 20) {
    auto writing = begin(position, nodes);
    ASSERT_TRUE(writing.has_value());
    ASSERT_FALSE(writing->step(kAll).value());
  }
  // The position of what is loaded, 0 if there is nothing; a state that is not that of its position fails.
  std::uint64_t loaded() { return loaded_from(custody_); }
  static std::uint64_t loaded_from(Custody& custody) {
    auto loaded = SnapshotStore(custody).load();
    if (!loaded) {
      ADD_FAILURE() << loaded.error().message();
      return 0;
    }
    if (!*loaded) return 0;
    EXPECT_TRUE((*loaded)->engine.check());
    Store s;
    s.engine = std::move((*loaded)->engine);
    EXPECT_EQ(s.read(0, "/position"), std::to_string((*loaded)->journal_position));
    return (*loaded)->journal_position;
  }
  std::size_t free_segments() {
    std::vector<SnapshotWriting> all;
    while (auto writing = begin(1)) all.push_back(std::move(*writing));
    return all.size();
  }

  MemoryCustody store_ = small_custody();
  Custody custody_ = Custody::open(store_).value();
  SnapshotStore snapshots_{custody_};
};

TEST_F(SnapshotStoreTest, NothingAtFirst) {
  EXPECT_EQ(snapshots_.position(), 0U);
  EXPECT_EQ(snapshots_.length(), 0U);
  ASSERT_TRUE(snapshots_.load());
  EXPECT_FALSE(snapshots_.load()->has_value());
}

TEST_F(SnapshotStoreTest, IsWhatWasWritten) {
  const Store s = state_at(4711);
  auto writing = SnapshotWriting::begin(custody_, s.engine, 4711);
  ASSERT_TRUE(writing.has_value());
  ASSERT_FALSE(writing->step(kAll).value());
  EXPECT_EQ(snapshots_.position(), 4711U);
  EXPECT_EQ(loaded(), 4711U);
  const auto bytes = write_snapshot(s.engine);
  EXPECT_EQ(snapshots_.length(), bytes.size());
  EXPECT_EQ(write_snapshot(snapshots_.load().value()->engine), bytes);
  // Other processes see it too.
  Custody other = Custody::open(store_).value();
  EXPECT_EQ(loaded_from(other), 4711U);
}

TEST_F(SnapshotStoreTest, OnlyMovesForward) {
  auto older = begin(10);
  auto newer = begin(20);
  ASSERT_TRUE(older && newer);
  ASSERT_FALSE(newer->step(kAll).value());
  EXPECT_EQ(loaded(), 20U);
  ASSERT_FALSE(older->step(kAll).value());  // no failure: it is not needed
  EXPECT_EQ(snapshots_.position(), 20U);
  EXPECT_EQ(loaded(), 20U);
  older.reset();
  newer.reset();
  publish(20);
  publish(15);
  EXPECT_EQ(loaded(), 20U);
  publish(21);
  EXPECT_EQ(loaded(), 21U);
}

TEST_F(SnapshotStoreTest, HalfWrittenIsNeverSeen) {
  publish(100);
  for (int round = 0; round < 3; ++round) {
    auto writing = begin(200);
    ASSERT_TRUE(writing.has_value());
    for (int slice = 0; slice < 10; ++slice) {
      ASSERT_TRUE(writing->step(64).value());
      ASSERT_EQ(loaded(), 100U);
      ASSERT_EQ(snapshots_.position(), 100U);
    }
  }  // given up
  EXPECT_EQ(loaded(), 100U);
  auto writing = begin(300);
  int slices = 0;
  while (writing->step(64).value()) {
    ASSERT_EQ(loaded(), 100U);
    ++slices;
  }
  EXPECT_GT(slices, 10);
  EXPECT_EQ(loaded(), 300U);
}

TEST_F(SnapshotStoreTest, TwoWritersNeverWaitForEachOther) {
  EXPECT_EQ(free_segments(), 3U);
  for (std::uint64_t position = 1; position < 20; position += 2) {
    publish(position);
    EXPECT_EQ(free_segments(), 2U);
    auto active = begin(position + 1);
    auto standby = begin(position + 1);
    ASSERT_TRUE(active && standby);
    EXPECT_FALSE(begin(position + 1).has_value());
    EXPECT_EQ(loaded(), position);
  }
}

TEST_F(SnapshotStoreTest, AssigningGivesTheOldSegmentBack) {
  auto one = begin(1);
  auto two = begin(2);
  auto three = begin(3);
  EXPECT_EQ(free_segments(), 0U);
  *one = std::move(*two);
  EXPECT_EQ(free_segments(), 1U);
  two.reset();
  EXPECT_EQ(free_segments(), 1U);
  ASSERT_FALSE(one->step(kAll).value());
  EXPECT_EQ(loaded(), 2U);
}

TEST_F(SnapshotStoreTest, TheDeadHoldNothing) {
  publish(1);
  for (int i = 0; i < 3; ++i) {
    EXPECT_FALSE(dies([&] {
      auto one = begin(2);
      auto two = begin(3);
      ASSERT_TRUE(one && two);
      ASSERT_TRUE(one->step(64).value());
      ::_exit(0);  // with both locks
    }));
    EXPECT_EQ(loaded(), 1U);
    EXPECT_EQ(free_segments(), 2U);
  }
  publish(4);
  EXPECT_EQ(loaded(), 4U);
}

TEST_F(SnapshotStoreTest, WriterDiesAtEachPoint) {
  std::uint64_t position = 1;
  publish(position);
  for (const char* point : {"snapshot-begun", "snapshot-written", "snapshot-published"}) {
    for (int i = 0; i < 4; ++i) {
      ASSERT_TRUE(dies([&] {
        CrashPoint::arm(point);
        publish(position + 1);
      })) << point;
      if (std::string_view(point) == "snapshot-published") ++position;
      EXPECT_EQ(snapshots_.position(), position) << point;
      EXPECT_EQ(loaded(), position) << point;
      EXPECT_EQ(free_segments(), 2U) << point;
    }
    publish(++position);
    EXPECT_EQ(loaded(), position) << point;
  }
}

// A writer that publishes as fast as it can, a reader that loads meanwhile: two processes.
TEST_F(SnapshotStoreTest, LoadsWhileAnotherProcessWrites) {
  Store s = state_at(1, 1000);
  std::fflush(stdout);
  const pid_t writer = ::fork();
  if (writer == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (std::uint64_t position = 2;; ++position) {
      s.write(0, "/position", std::to_string(position));
      auto writing = SnapshotWriting::begin(custody_, s.engine, position);
      if (!writing) ::_exit(1);
      while (writing->step(4096).value()) {
      }
    }
  }
  std::uint64_t seen = 0;
  int changes = 0;
  for (int loads = 0; (loads < 100 || changes < 10) && !HasFailure(); ++loads) {
    const std::uint64_t position = snapshots_.position();
    EXPECT_GE(position, seen);
    const std::uint64_t now = loaded();
    EXPECT_GE(now, position);
    if (now != seen) ++changes;
    seen = now;
  }
  int status = 0;
  EXPECT_EQ(::waitpid(writer, &status, WNOHANG), 0) << "the writer has failed";
  ::kill(writer, SIGKILL);
  ::waitpid(writer, &status, 0);
  EXPECT_EQ(free_segments(), 2U);
  EXPECT_EQ(loaded(), snapshots_.position());
}

// Stops this process where it first touches a page, and lets a child live its whole life there.
class Interruption {
 public:
  Interruption(std::byte* page, const std::function<void()>& meanwhile) : page_(page) {
    int go[2];
    int end[2];
    if (::pipe2(go, O_CLOEXEC) != 0 || ::pipe2(end, O_CLOEXEC) != 0) std::abort();
    std::fflush(stdout);
    child_ = ::fork();
    go_ = UniqueFd(go[1]);
    end_ = UniqueFd(end[0]);
    const UniqueFd childs_go(go[0]);
    const UniqueFd childs_end(end[1]);
    if (child_ == 0) {
      go_.reset();
      char told = 0;
      if (::read(childs_go.get(), &told, 1) == 1) meanwhile();
      ::_exit(0);
    }
    current_ = this;
    struct sigaction action{};
    action.sa_handler = [](int) { current_->happen(); };
    ::sigaction(SIGSEGV, &action, &before_);
    ::mprotect(page_, 4096, PROT_NONE);
  }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  ~Interruption() {
    EXPECT_TRUE(happened_);
    ::mprotect(page_, 4096, PROT_READ | PROT_WRITE);
    ::sigaction(SIGSEGV, &before_, nullptr);
    go_.reset();
    ::waitpid(child_, nullptr, 0);
  }

 private:
  // In the signal handler.
  void happen() {
    if (happened_) std::abort();  // a fault of another kind
    happened_ = true;
    ::mprotect(page_, 4096, PROT_READ | PROT_WRITE);
    char byte = 1;
    (void)!::write(go_.get(), &byte, 1);
    (void)!::read(end_.get(), &byte, 1);  // returns when the child has ended
  }

  static inline Interruption* current_ = nullptr;
  std::byte* page_;
  pid_t child_ = -1;
  UniqueFd go_;
  UniqueFd end_;
  struct sigaction before_{};
  bool happened_ = false;
};

TEST_F(SnapshotStoreTest, ReplacedWhileItIsCopied) {
  publish(1, 200);
  const Mapping& segment = custody_.snapshot(custody_.control().published & 3);
  ASSERT_GT(snapshots_.length(), 3U * 4096);
  {
    const Interruption interruption(segment.data() + kSnapshotData + 4096, [this] {
      publish(2, 200);
      publish(3, 200);  // where the reader is
    });
    EXPECT_EQ(loaded(), 3U);
  }
  ASSERT_EQ(segment.data(), custody_.snapshot(custody_.control().published & 3).data());
  const Interruption interruption(segment.data() + kSnapshotData + 4096, [this] {
    publish(4, 200);
    auto half = begin(5, 200);
    ASSERT_TRUE(half->step(8192).value());
    ::_exit(0);
  });
  EXPECT_EQ(loaded(), 4U);
}

// The journal is released up to the position: it must be one that a newcomer finds.
TEST_F(SnapshotStoreTest, PositionIsNeverThatOfAnUnpublishedOne) {
  publish(1);
  const Interruption interruption(custody_.snapshot(custody_.control().published & 3).data(), [this] {
    publish(2);
    CrashPoint::arm("snapshot-written");
    publish(3);  // dies before it is published
  });
  EXPECT_EQ(snapshots_.position(), 2U);
  EXPECT_EQ(loaded(), 2U);
}

TEST_F(SnapshotStoreTest, TooLargeSaysWhatToDo) {
  publish(1);
  EXPECT_FALSE(snapshots_.too_large());
  for (int i = 0; i < 5; ++i) {
    auto writing = begin(2, 3000);
    ASSERT_TRUE(writing.has_value());
    Result<bool> more = true;
    while (more && *more) more = writing->step(4096);
    ASSERT_FALSE(more);
    EXPECT_EQ(more.error().kind(), ErrorKind::kExhausted);
    EXPECT_THAT(more.error().message(), AllOf(HasSubstr("262144 bytes"), HasSubstr("raise snapshot_bytes")));
    EXPECT_EQ(loaded(), 1U);
    EXPECT_TRUE(snapshots_.too_large());
  }
  EXPECT_EQ(free_segments(), 2U);
  publish(3);
  EXPECT_FALSE(snapshots_.too_large());
  EXPECT_EQ(loaded(), 3U);
}

TEST_F(SnapshotStoreTest, DamageIsAnError) {
  publish(1);
  custody_.snapshot(custody_.control().published & 3).data()[kSnapshotData + 100] ^= std::byte{1};
  const auto loaded = snapshots_.load();
  ASSERT_FALSE(loaded);
  EXPECT_EQ(loaded.error().kind(), ErrorKind::kInvalid);
  EXPECT_THAT(loaded.error().message(), HasSubstr("cannot load the snapshot"));
}

TEST_F(SnapshotStoreTest, ImpossibleLengthIsAnError) {
  publish(1);
  custody_.snapshot(custody_.control().published & 3).at<SnapshotHead>(0)->length = std::uint64_t{1} << 40;
  EXPECT_FALSE(snapshots_.load());
}

}  // namespace
}  // namespace bulkhead::xenstore::test
