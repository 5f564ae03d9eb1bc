// The connection table: every message comes out as it went in, wherever the buffers wrap, and what is staged
// is nothing until it is committed.
#include "components/xenstore/connections.h"

#include <gtest/gtest.h>

#include <deque>
#include <random>

#include "components/xenstore/service_test_support.h"

namespace bulkhead::xenstore::test {
namespace {

using Input = Connections::Input;
constexpr std::size_t kIn = kSmallSettings.geometry.in_bytes;
constexpr std::size_t kOut = kSmallSettings.geometry.out_bytes;

std::string patterned(std::size_t length, std::uint32_t seed) {
  std::string text(length, '\0');
  for (std::size_t i = 0; i < length; ++i) text[i] = static_cast<char>('a' + (i * 7 + seed) % 26);
  return text;
}

class ConnectionsTest : public testing::Test {
 protected:
  ConnectionsTest() {
    for (std::uint32_t i = 0; i < 4; ++i) connections_.prepare(i);
  }
  Slot& slot(std::uint32_t index = 1) { return connections_.slot(index); }
  void receive(std::string_view bytes) { ASSERT_EQ(process_.receive(1, bytes), bytes.size()); }
  // As a commit does.
  void consume(std::size_t bytes) { slot().parsed.fetch_add(bytes); }
  void commit_output() { slot().produced = connections_.staged(1); }
  bool stage(std::string_view payload) {
    return connections_.stage(1, {kRead, 1, 0, static_cast<std::uint32_t>(payload.size())},
                              as_bytes(payload));
  }
  // The message at the front of the input, "" if it is not whole.
  std::string next() {
    Request request{};
    if (connections_.next_message(1, request) != Input::kMessage) return "";
    EXPECT_EQ(request.payload.size(), request.header.length);
    std::string bytes(reinterpret_cast<const char*>(&request.header), sizeof request.header);
    return bytes.append(as_text(request.payload));
  }
  // Leaves the input with its first waiting byte at `at` of the buffer: `byte`.
  void begin_at(std::size_t at, char byte) {
    receive(std::string(at, '-') + byte);
    consume(at);
    ASSERT_EQ(slot().in_base, 0U);
  }

  MemoryCustody store_ = small_custody();
  Incarnation process_{store_};
  Connections& connections_ = process_.connections;
};

TEST_F(ConnectionsTest, MessageIsThereOnceItIsWhole) {
  const std::string bytes = message(kWrite, "/a/b|value");
  for (const char byte : bytes) {
    EXPECT_EQ(next(), "");
    receive({&byte, 1});
  }
  EXPECT_EQ(next(), bytes);
  EXPECT_EQ(next(), bytes);  // until it is consumed
  consume(bytes.size());
  EXPECT_EQ(next(), "");
}

TEST_F(ConnectionsTest, SeveralInARow) {
  const std::vector<std::string> messages{message(kRead, "/a|", 1), message(kWrite, "", 2),
                                          message(kWrite, "/b|" + patterned(4000, 1), 3),
                                          message(kRead, "/c|", 4)};
  std::string stream;
  for (const auto& one : messages) stream += one;
  receive(stream + message(kRead, "/d|").substr(0, 18));
  for (const auto& one : messages) {
    EXPECT_EQ(next(), one);
    consume(one.size());
  }
  EXPECT_EQ(next(), "");
}

TEST_F(ConnectionsTest, ConnectionsDoNotTouchEachOther) {
  for (std::uint32_t i = 0; i < 4; ++i) {
    const std::string bytes = message(kWrite, patterned(4096, i), i) + message(kWrite, patterned(3000, i), i);
    ASSERT_EQ(process_.receive(i, bytes), bytes.size());
    while (connections_.stage(i, {kWatchEvent, i, 0, 1000}, as_bytes(patterned(1000, i)))) {
    }
  }
  for (std::uint32_t i = 0; i < 4; ++i) {
    Request request{};
    ASSERT_EQ(connections_.next_message(i, request), Input::kMessage);
    EXPECT_EQ(as_text(request.payload), patterned(4096, i));
    slot(i).produced = connections_.staged(i);
    const auto sent = lines(process_.send(i));
    ASSERT_EQ(sent.size(), kOut / 1016);
    for (const auto& line : sent) EXPECT_EQ(line, "15:" + std::to_string(i) + ":" + patterned(1000, i));
  }
}

// The message begins so that it wraps after each of its bytes, and arrives in two pieces cut at each.
TEST_F(ConnectionsTest, WrappedAndSplitAtEveryByte) {
  const std::string bytes = message(kWrite, "/some/path|" + patterned(20, 3), 99, 5);
  for (std::size_t before = 1; before <= bytes.size(); ++before) {
    for (std::size_t cut = 1; cut < bytes.size(); ++cut) {
      connections_.prepare(1);
      begin_at(kIn - before, bytes[0]);
      receive(std::string_view(bytes).substr(1, cut - 1));
      ASSERT_EQ(next(), "") << before << " " << cut;
      receive(std::string_view(bytes).substr(cut));
      ASSERT_EQ(next(), bytes) << before << " " << cut;
    }
  }
}

TEST_F(ConnectionsTest, LargestMessageWraps) {
  const std::string bytes = message(kWrite, patterned(kMaxPayload, 5));
  for (std::size_t before = 1; before < bytes.size(); before += 37) {
    connections_.prepare(1);
    begin_at(kIn - before, bytes[0]);
    receive(std::string_view(bytes).substr(1));
    ASSERT_EQ(next(), bytes) << before;
  }
}

TEST_F(ConnectionsTest, OversizedIsKnownFromItsHeader) {
  for (const std::uint32_t length : {4097U, 0x80000000U, 0xffffffffU}) {
    for (std::size_t before = 1; before <= sizeof(Header); ++before) {
      connections_.prepare(1);
      const Header header{kWrite, 1, 0, length};
      const std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
      begin_at(kIn - before, bytes[0]);
      receive(std::string_view(bytes).substr(1, sizeof header - 2));
      Request request{};
      EXPECT_EQ(connections_.next_message(1, request), Input::kIncomplete);
      receive(std::string_view(bytes).substr(sizeof header - 1));
      EXPECT_EQ(connections_.next_message(1, request), Input::kOversized);
      EXPECT_EQ(request.header.length, length);
    }
  }
}

TEST_F(ConnectionsTest, ReceiveSpaceOfAnEmptyBufferIsAllOfIt) {
  std::byte* const first = connections_.receive_space(1).data();
  EXPECT_EQ(connections_.receive_space(1).size(), kIn);
  receive(std::string(100, 'x'));
  EXPECT_EQ(connections_.receive_space(1).data(), first + 100);
  EXPECT_EQ(connections_.receive_space(1).size(), kIn - 100);
  EXPECT_EQ(slot().in_base, 0U);
  consume(100);
  EXPECT_EQ(connections_.receive_space(1).data(), first);
  EXPECT_EQ(connections_.receive_space(1).size(), kIn);
  EXPECT_EQ(slot().in_base, 100U);
}

TEST_F(ConnectionsTest, ReceiveSpaceOfAFullBufferIsNone) {
  std::byte* const first = connections_.receive_space(1).data();
  receive(std::string(kIn, 'x'));
  EXPECT_TRUE(connections_.receive_space(1).empty());
  consume(1);
  EXPECT_EQ(connections_.receive_space(1).data(), first);
  EXPECT_EQ(connections_.receive_space(1).size(), 1U);
  receive("y");
  EXPECT_TRUE(connections_.receive_space(1).empty());
}

TEST_F(ConnectionsTest, ReceiveSpaceNeverReachesBytesThatCount) {
  std::byte* const first = connections_.receive_space(1).data();
  receive(std::string(kIn - 10, 'x'));
  consume(300);
  EXPECT_EQ(connections_.receive_space(1).data(), first + kIn - 10);
  EXPECT_EQ(connections_.receive_space(1).size(), 10U);  // up to the end of the buffer
  receive(std::string(10, 'x'));
  EXPECT_EQ(connections_.receive_space(1).data(), first);
  EXPECT_EQ(connections_.receive_space(1).size(), 300U);  // up to the first byte not consumed
  receive(std::string(100, 'x'));
  EXPECT_EQ(connections_.receive_space(1).size(), 200U);
  EXPECT_EQ(slot().in_base, 0U);
}

TEST_F(ConnectionsTest, StagedIsInvisibleUntilCommitted) {
  EXPECT_EQ(connections_.room(1), kOut);
  ASSERT_TRUE(stage("one"));
  ASSERT_TRUE(stage("two"));
  EXPECT_EQ(connections_.staged(1), 38U);
  EXPECT_EQ(connections_.room(1), kOut - 38);
  EXPECT_FALSE(connections_.output_pending(1));
  EXPECT_TRUE(connections_.send_source(1).empty());
  EXPECT_EQ(Connections(process_.custody).staged(1), 0U);  // nor does a successor know
  commit_output();
  EXPECT_TRUE(connections_.output_pending(1));
  EXPECT_EQ(lines(process_.send(1)), (std::vector<std::string>{"2:1:one", "2:1:two"}));
  EXPECT_EQ(connections_.room(1), kOut);
}

TEST_F(ConnectionsTest, UnstageForgetsOnlyWhatIsNotCommitted) {
  stage("kept");
  commit_output();
  stage("forgotten");
  connections_.unstage(1);
  EXPECT_EQ(connections_.staged(1), 20U);
  EXPECT_EQ(connections_.room(1), kOut - 20);
  stage("instead");
  commit_output();
  EXPECT_EQ(lines(process_.send(1)), (std::vector<std::string>{"2:1:kept", "2:1:instead"}));
}

TEST_F(ConnectionsTest, WhatDoesNotFitIsNotStagedAtAll) {
  ASSERT_TRUE(stage(patterned(kOut - 16 - 16 - 4, 1)));
  EXPECT_EQ(connections_.room(1), 20U);
  EXPECT_FALSE(stage("12345"));
  EXPECT_EQ(connections_.room(1), 20U);
  ASSERT_TRUE(stage("1234"));
  EXPECT_EQ(connections_.room(1), 0U);
  EXPECT_FALSE(stage(""));
  commit_output();
  const auto sent = lines(process_.send(1));
  ASSERT_EQ(sent.size(), 2U);
  EXPECT_EQ(sent[0], "2:1:" + patterned(kOut - 36, 1));
  EXPECT_EQ(sent[1], "2:1:1234");
}

// A message staged so that it wraps after each of its bytes; sending takes it in two pieces.
TEST_F(ConnectionsTest, OutputWrapsAtEveryByte) {
  for (std::size_t before = 1; before <= 16 + 30; ++before) {
    connections_.prepare(1);
    ASSERT_TRUE(stage(patterned(kOut - before - 16, 2)));
    commit_output();
    slot().sent = kOut - before - 1;  // all but one byte is gone
    ASSERT_TRUE(stage(patterned(30, 9)));
    EXPECT_EQ(slot().out_base, 0U);
    commit_output();
    EXPECT_EQ(connections_.send_source(1).size(), std::min<std::size_t>(before + 1, 47));
    const std::string sent = process_.send(1);
    EXPECT_EQ(lines(sent.substr(1)), std::vector<std::string>{"2:1:" + patterned(30, 9)}) << before;
  }
}

TEST_F(ConnectionsTest, OutputBaseMovesOnlyWhileNothingWaits) {
  stage("one");
  stage("two");
  commit_output();
  EXPECT_EQ(slot().out_base, 0U);
  slot().sent = 37;
  stage("three");
  EXPECT_EQ(slot().out_base, 0U);
  commit_output();
  process_.send(1);
  EXPECT_EQ(slot().out_base, 0U);
  stage("four");
  EXPECT_EQ(slot().out_base, 59U);
  stage("five");  // behind what is staged: not empty, though nothing is committed
  EXPECT_EQ(slot().out_base, 59U);
  connections_.unstage(1);
  EXPECT_FALSE(connections_.output_pending(1));
  stage("six");
  commit_output();
  EXPECT_EQ(lines(process_.send(1)), std::vector<std::string>{"2:1:six"});
}

TEST_F(ConnectionsTest, PrepareMakesASlotNew) {
  receive(std::string(kIn, 'x'));
  stage("old");
  commit_output();
  slot().end_of_input = 1;
  slot().overflowed = 1;
  slot().domid = 7;
  for (int again = 0; again < 2; ++again) {
    connections_.prepare(1);
    EXPECT_EQ(next(), "");
    EXPECT_FALSE(connections_.output_pending(1));
    EXPECT_EQ(connections_.room(1), kOut);
    EXPECT_EQ(connections_.receive_space(1).size(), kIn);
    EXPECT_EQ(slot().end_of_input, 0U);
    EXPECT_EQ(slot().overflowed, 0U);
    EXPECT_EQ(slot().domid, 0U);
  }
}

// ---- everything at random, against plain queues ----

class RandomTraffic {
 public:
  explicit RandomTraffic(std::uint32_t seed) : random_(seed) {
    for (std::uint32_t i = 0; i < kSmallSettings.geometry.max_connections; ++i) process().prepare(i);
  }
  void step() {
    const auto index = static_cast<std::uint32_t>(random_()) % kSmallSettings.geometry.max_connections;
    switch (random_() % 8) {
      case 0:
      case 1:
        return arrive(index);
      case 2:
      case 3:
        return parse(index);
      case 4:
        return stage(index);
      case 5:
        return random_() % 4 == 0 ? forget(index) : commit(index);
      case 6:
        return send(index);
      default:
        if (random_() % 20 == 0) succeed();
        return compare(index);
    }
  }
  std::uint64_t bytes_received = 0;
  std::uint64_t bytes_sent = 0;

 private:
  struct Client {
    std::deque<std::byte> to_come;  // what the client still wants to send
    std::deque<std::byte> input;    // received, not consumed
    std::deque<std::byte> output;   // committed, not sent
    std::vector<std::byte> staged;
  };
  Connections& process() { return process_->connections; }
  Slot& slot(std::uint32_t index) { return process().slot(index); }
  std::size_t any_length() { return random_() % 4 == 0 ? random_() % (kMaxPayload + 1) : random_() % 60; }
  std::vector<std::byte> any_bytes(std::size_t length) {
    std::vector<std::byte> bytes(length);
    for (auto& byte : bytes) byte = static_cast<std::byte>(random_());
    return bytes;
  }

  void arrive(std::uint32_t index) {
    Client& client = clients_[index];
    while (client.to_come.size() < 500) {
      const auto payload = any_bytes(any_length());
      const Header header{kWrite, 1, 0, static_cast<std::uint32_t>(payload.size())};
      const auto head = std::as_bytes(std::span(&header, 1));
      client.to_come.insert(client.to_come.end(), head.begin(), head.end());
      client.to_come.insert(client.to_come.end(), payload.begin(), payload.end());
    }
    const auto space = process().receive_space(index);
    ASSERT_LE(client.input.size() + space.size(), kIn);
    ASSERT_EQ(space.empty(), client.input.size() == kIn);
    const std::size_t most = std::min(space.size(), client.to_come.size());
    const std::size_t count = most == 0 ? 0 : 1 + random_() % most;
    const auto end = client.to_come.begin() + static_cast<std::ptrdiff_t>(count);
    std::copy(client.to_come.begin(), end, space.begin());
    client.input.insert(client.input.end(), client.to_come.begin(), end);
    client.to_come.erase(client.to_come.begin(), end);
    slot(index).received.fetch_add(count);
    bytes_received += count;
  }
  void parse(std::uint32_t index) {
    auto& input = clients_[index].input;
    Request request{};
    const auto found = process().next_message(index, request);
    Header expected{};
    const bool header_there = input.size() >= sizeof expected;
    if (header_there) std::copy_n(input.begin(), sizeof expected, reinterpret_cast<std::byte*>(&expected));
    const std::size_t size = sizeof expected + expected.length;
    ASSERT_EQ(found, header_there && input.size() >= size ? Input::kMessage : Input::kIncomplete);
    if (found != Input::kMessage) return;
    ASSERT_EQ(request.payload.size(), expected.length);
    ASSERT_TRUE(std::equal(request.payload.begin(), request.payload.end(), input.begin() + sizeof expected));
    input.erase(input.begin(), input.begin() + static_cast<std::ptrdiff_t>(size));
    slot(index).parsed.fetch_add(size);
  }
  void stage(std::uint32_t index) {
    Client& client = clients_[index];
    const auto payload = any_bytes(any_length());
    const Header header{kRead, 1, 0, static_cast<std::uint32_t>(payload.size())};
    const std::size_t room = kOut - client.output.size() - client.staged.size();
    ASSERT_EQ(process().room(index), room);
    ASSERT_EQ(process().stage(index, header, payload), room >= sizeof header + payload.size());
    if (room < sizeof header + payload.size()) return;
    const auto head = std::as_bytes(std::span(&header, 1));
    client.staged.insert(client.staged.end(), head.begin(), head.end());
    client.staged.insert(client.staged.end(), payload.begin(), payload.end());
  }
  void commit(std::uint32_t index) {
    Client& client = clients_[index];
    slot(index).produced = process().staged(index);
    client.output.insert(client.output.end(), client.staged.begin(), client.staged.end());
    client.staged.clear();
  }
  void forget(std::uint32_t index) {
    process().unstage(index);
    clients_[index].staged.clear();
  }
  void send(std::uint32_t index) {
    auto& output = clients_[index].output;
    const auto source = process().send_source(index);
    ASSERT_LE(source.size(), output.size());
    ASSERT_EQ(source.empty(), output.empty());
    ASSERT_TRUE(std::equal(source.begin(), source.end(), output.begin()));
    const std::size_t count = source.empty() ? 0 : 1 + random_() % source.size();
    output.erase(output.begin(), output.begin() + static_cast<std::ptrdiff_t>(count));
    slot(index).sent.fetch_add(count);
    bytes_sent += count;
  }
  // Another process, in which nothing is staged.
  void succeed() {
    process_.emplace(store_);
    for (Client& client : clients_) client.staged.clear();
  }
  void compare(std::uint32_t index) {
    const Client& client = clients_[index];
    ASSERT_EQ(slot(index).received - slot(index).parsed, client.input.size());
    ASSERT_EQ(slot(index).produced - slot(index).sent, client.output.size());
    ASSERT_EQ(process().output_pending(index), !client.output.empty());
    ASSERT_LE(slot(index).in_base, slot(index).parsed);
    ASSERT_LE(slot(index).out_base, slot(index).sent);
  }

  std::mt19937 random_;
  MemoryCustody store_ = small_custody();
  std::optional<Incarnation> process_{std::in_place, store_};
  std::array<Client, kSmallSettings.geometry.max_connections> clients_;
};

class ConnectionsRandom : public testing::TestWithParam<std::uint32_t> {};

TEST_P(ConnectionsRandom, IsAQueueOfBytes) {
  RandomTraffic traffic(GetParam());
  for (int i = 0; i < 8000 && !HasFatalFailure(); ++i) traffic.step();
  // Each buffer went around several times.
  EXPECT_GT(traffic.bytes_received, 4 * 4 * kIn);
  EXPECT_GT(traffic.bytes_sent, 4 * 4 * kOut);
}
INSTANTIATE_TEST_SUITE_P(Seeds, ConnectionsRandom, testing::Range(1U, 9U));

}  // namespace
}  // namespace bulkhead::xenstore::test
