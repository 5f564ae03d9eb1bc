// Checksums of what waits in custody: every flipped bit is found before it matters, and no instant at which
// an owner may die looks like damage.
#include <gtest/gtest.h>

#include <random>

#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

constexpr CustodySettings kRoomy{.geometry = {.max_connections = 4, .in_bytes = 16384, .out_bytes = 1 << 18},
                                 .journal_bytes = 1,
                                 .snapshot_bytes = 1 << 20};

class SealsTest : public testing::Test {
 protected:
  SealsTest() {
    for (std::uint32_t i = 0; i < 3; ++i) process_->executor.connect(i, i == 2 ? 7 : 0);
    process_->call(0, kWrite, "/big|" + std::string(3000, 'x'));
    process_->call(0, kSetPerms, "/big|r0|");
    process_->send(0);
  }
  Connections& connections() { return process_->connections; }
  Slot& slot(std::uint32_t index) { return connections().slot(index); }
  std::byte* input(std::uint32_t index) {
    return segment_.data() + 4096 + std::size_t{index} * kRoomy.geometry.in_bytes;
  }
  std::byte* output(std::uint32_t index) {
    return segment_.data() + 4096 + std::size_t{4} * kRoomy.geometry.in_bytes +
           std::size_t{index} * kRoomy.geometry.out_bytes;
  }
  // The client of `slot` asks `count` times for 3000 bytes and reads nothing.
  void let_wait(std::uint32_t slot, int count) {
    for (int i = 0; i < count; ++i) process_->call(slot, kRead, "/big|");
  }
  bool all_sound(std::uint32_t index) {
    return connections().output_sound(index, connections().unsent(index));
  }
  // The server hands `most` bytes to the kernel.
  void send_some(std::uint32_t index, std::size_t most) {
    const std::size_t length = std::min(most, connections().send_source(index).size());
    ASSERT_TRUE(connections().output_sound(index, length));
    connections().set_sent(index, slot(index).sent.load() + length);
    process_->executor.delivery().sent(index);
  }
  void succeed() {
    process_.reset();
    process_.emplace(store_);
    process_->take_over();
    for (std::uint32_t i = 0; i < 3; ++i) process_->executor.delivery().opened(i);
  }
  // Flips each bit in turn; `sound` must say no each time, and yes before and after.
  template <typename Sound>
  static void expect_each_bit_found(std::span<std::byte> bytes, Sound sound) {
    ASSERT_TRUE(sound());
    for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
      EXPECT_FALSE(sound()) << "bit " << bit;
      bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    }
    ASSERT_TRUE(sound());
  }
  template <typename T>
  static std::span<std::byte> bytes_of(T& value) {
    return std::as_writable_bytes(std::span(&value, 1));
  }

  MemoryCustody store_ = small_custody(kRoomy);
  Mapping segment_ = store_.map("connections");
  std::optional<Incarnation> process_{store_};
  Request pending_{};
};

// ---- input ----

TEST_F(SealsTest, EveryFlippedBitOfWaitingInputIsFound) {
  const std::string half = message(kWrite, "/a|" + std::string(20, 'v')).substr(0, 25);
  process_->call(1, kRead, "/big|");  // so that nothing stands at an offset of 0
  process_->receive(1, half);
  connections().seal_input(1);
  const auto sound = [&] { return connections().input_sound(1); };
  expect_each_bit_found({input(1) + (slot(1).parsed - slot(1).in_base), half.size()}, sound);
  expect_each_bit_found(bytes_of(slot(1).parsed), sound);
  expect_each_bit_found(bytes_of(slot(1).received), sound);
  expect_each_bit_found(bytes_of(slot(1).rest_seal), sound);
  expect_each_bit_found(bytes_of(slot(1).in_base).first(1), sound);
}

// A position that moves while nothing waits would make old bytes a request again.
TEST_F(SealsTest, EveryFlippedBitOfIdlePositionsIsFound) {
  process_->call(1, kRead, "/big|");
  connections().seal_input(1);
  const auto sound = [&] { return connections().input_sound(1); };
  expect_each_bit_found(bytes_of(slot(1).parsed), sound);
  expect_each_bit_found(bytes_of(slot(1).received), sound);
}

TEST_F(SealsTest, OpeningDamagedInputKeepsTheEvidence) {
  process_->receive(1, "half");
  connections().seal_input(1);
  input(1)[2] ^= std::byte{8};
  EXPECT_FALSE(connections().open_input(1));
  EXPECT_FALSE(connections().open_input(1));
  input(1)[2] ^= std::byte{8};
  EXPECT_TRUE(connections().open_input(1));
  input(1)[2] ^= std::byte{8};
  EXPECT_TRUE(connections().open_input(1)) << "worked on: it is not sealed";
}

// Messages of all sizes, in pieces, through many wraps of the buffer.
TEST_F(SealsTest, InputThatIsSealedAndOpenedAllTheTimeIsSound) {
  std::mt19937 random(5);
  std::string unsent;
  for (int round = 0; round < 5000; ++round) {
    if (unsent.size() < 5000) unsent += message(kRead, "/" + std::string(random() % 2000, 'p') + "|");
    ASSERT_TRUE(connections().open_input(1)) << round;
    unsent.erase(0, process_->receive(1, unsent.substr(0, 1 + random() % 3000)));
    Request request{};
    for (auto n = random() % 3;
         n > 0 && connections().next_message(1, request) == Connections::Input::kMessage; --n) {
      process_->executor.execute(1, request);
      process_->send(1);
    }
    connections().seal_input(1);
    if (round % 50 == 0) succeed();
  }
}

// ---- output ----

TEST_F(SealsTest, EveryFlippedBitOfWaitingOutputIsFound) {
  process_->call(1, kRead, "/none|");
  process_->send(1);
  process_->call(1, kRead, "/none|");
  send_some(1, 3);
  const auto sound = [&] { return all_sound(1); };
  const std::size_t at = slot(1).sent - slot(1).out_base;
  expect_each_bit_found({output(1) + at, slot(1).produced - slot(1).sent}, sound);
  expect_each_bit_found(bytes_of(slot(1).sent), sound);
  expect_each_bit_found(bytes_of(slot(1).produced), sound);
  expect_each_bit_found(bytes_of(slot(1).out_crc), sound);
  expect_each_bit_found(bytes_of(slot(1).sent_seal), sound);
  expect_each_bit_found(bytes_of(slot(1).out_base).first(1), sound);
}

TEST_F(SealsTest, EveryFlippedBitOfIdleOutputPositionsIsFound) {
  process_->call(1, kRead, "/none|");
  process_->send(1);
  const auto sound = [&] {
    connections().unstage(1);  // as a successor, who knows no better
    return connections().adopt_output(1);
  };
  expect_each_bit_found(bytes_of(slot(1).sent), sound);
  expect_each_bit_found(bytes_of(slot(1).produced), sound);
}

// What is sent next is checked without looking at all that waits; what comes later is found when it is its
// turn.
TEST_F(SealsTest, AFlippedBitFarBehindIsFoundInTime) {
  for (const bool successor : {false, true}) {
    SCOPED_TRACE(successor);
    let_wait(1, 20);  // 60 KB
    if (successor) {
      succeed();
      ASSERT_TRUE(connections().adopt_output(1));
    }
    const std::uint64_t damaged = slot(1).produced - 1000;
    std::byte& byte = output(1)[damaged - slot(1).out_base];
    byte ^= std::byte{4};
    EXPECT_TRUE(connections().output_sound(1, 5000));
    while (slot(1).sent < damaged - 28 * 1024) ASSERT_NO_FATAL_FAILURE(send_some(1, 5000));
    ASSERT_LT(slot(1).sent, damaged);
    EXPECT_FALSE(all_sound(1));
    EXPECT_FALSE(connections().adopt_output(1));
    byte ^= std::byte{4};
    EXPECT_TRUE(all_sound(1));
    process_->send(1);
  }
}

// Clients that read in pieces of all sizes, for whom little or much waits; owners that succeed each other.
TEST_F(SealsTest, OutputThatComesAndGoesAllTheTimeIsSound) {
  std::mt19937 random(9);
  for (int round = 0; round < 4000; ++round) {
    for (const std::uint32_t client : {1U, 2U}) {
      if (process_->executor.has_room(client)) let_wait(client, static_cast<int>(random() % 4));
      for (auto n = random() % 3; n > 0 && connections().output_pending(client); --n) {
        ASSERT_NO_FATAL_FAILURE(send_some(client, 1 + random() % (round % 7 == 0 ? 70'000 : 4000))) << round;
      }
    }
    if (round % 97 != 0) continue;
    succeed();
    for (const std::uint32_t client : {1U, 2U}) ASSERT_TRUE(connections().adopt_output(client)) << round;
  }
  ASSERT_GT(slot(1).produced, 3 * kRoomy.geometry.out_bytes);
}

// ---- deaths ----

// As the server does it: whatever it was doing when it died, its successor finds no damage.
TEST_F(SealsTest, DeathsAreNotDamage) {
  const std::string request = message(kRead, "/big|");
  for (const char* point :
       {"input-opened", "request-parsed", "request-executed", "commit-prepared", "committed",
        "commit-half-applied", "commit-applied", "input-sealed", "send-sealed"}) {
    for (const std::uint32_t client : {1U, 2U}) {
      SCOPED_TRACE(std::string(point) + " for " + std::to_string(client));
      std::uint64_t sent = 0;
      ASSERT_TRUE(dies([&] {
        CrashPoint::arm(point);
        ASSERT_TRUE(connections().open_input(client));
        process_->receive(client, request);
        process_->execute_next(client);
        connections().seal_input(client);
        send_some(client, 1000);
      }));
      process_.reset();
      process_.emplace(store_);
      process_->take_over();
      ASSERT_TRUE(connections().input_sound(client));
      process_->executor.delivery().opened(client);
      // The completion that its predecessor had not counted is still in the ring.
      sent = slot(client).sent;
      if (std::string_view(point) == "send-sealed") connections().set_sent(client, sent + 1000);
      ASSERT_TRUE(connections().adopt_output(client));
      if (connections().next_message(client, pending_) == Connections::Input::kMessage) {
        process_->executor.execute(client, pending_);
      }
      EXPECT_EQ(slot(client).received, slot(client).parsed);
      ASSERT_TRUE(all_sound(client));
      process_->send(client);
      process_->executor.delivery().sent(client);
      process_->executor.delivery().closed(client);
      process_->executor.delivery().opened(client);
    }
  }
}

}  // namespace
}  // namespace bulkhead::xenstore::test
