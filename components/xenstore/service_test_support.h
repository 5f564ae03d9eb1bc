// For the service's tests: custody kept in memory, instances that succeed each other on it, and children that
// die.
#pragma once

#include <gtest/gtest.h>
#include <sys/wait.h>

#include <cstdio>
#include <cstring>
#include <functional>
#include <limits>
#include <map>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "components/xenstore/custody.h"
#include "components/xenstore/executor.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/replica.h"
#include "components/xenstore/snapshot_store.h"

namespace bulkhead::xenstore::test {

inline constexpr CustodySettings kSmallSettings{
    .geometry = {.max_connections = 4, .in_bytes = 8192, .out_bytes = 16384},
    .journal_bytes = 1,  // the smallest there is
    .snapshot_bytes = 256 * 1024};

// Real segments, which outlive the instances of a test as they outlive processes.
class MemoryCustody : public CustodyStore {
 public:
  const CustodyEntry* custody(const std::string& name) const override {
    const auto found = items.find(name);
    return found == items.end() ? nullptr : &found->second;
  }
  Status deposit(const std::string& name, const std::string& kind, UniqueFd fd) override {
    if (deposits_left == 0) return failure(ErrorKind::kDisconnected, "the core is gone");
    --deposits_left;
    items.insert_or_assign(name, CustodyEntry{kind, std::move(fd)});
    return {};
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, item] : items) all.push_back(name);
    return all;
  }
  Status withdraw(const std::string& name) override {
    items.erase(name);
    return {};
  }
  Mapping map(const std::string& name) const { return Mapping::map(items.at(name).fd.borrow(), 1).value(); }

  std::map<std::string, CustodyEntry> items;
  std::size_t deposits_left = std::numeric_limits<std::size_t>::max();
};

inline MemoryCustody small_custody(const CustodySettings& settings = kSmallSettings) {
  MemoryCustody store;
  EXPECT_TRUE(Custody::create(store, settings));
  return store;
}

// A message as it travels: header and payload. '|' stands for NUL.
inline std::string message(std::uint32_t type, std::string_view payload, std::uint32_t request_id = 1,
                           std::uint32_t transaction = 0) {
  const Header header{type, request_id, transaction, static_cast<std::uint32_t>(payload.size())};
  std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
  for (const char c : payload) bytes += c == '|' ? '\0' : c;
  return bytes;
}

// The messages of a stream, one line each: "type:request_id:payload", NUL as '|'; "+N" for N bytes left over.
inline std::vector<std::string> lines(std::string_view stream) {
  std::vector<std::string> result;
  Header header{};
  while (stream.size() >= sizeof header) {
    std::memcpy(&header, stream.data(), sizeof header);
    if (stream.size() - sizeof header < header.length) break;
    std::string line = std::to_string(header.type) + ":" + std::to_string(header.request_id) + ":";
    for (const char c : stream.substr(sizeof header, header.length)) line += c == '\0' ? '|' : c;
    result.push_back(std::move(line));
    stream.remove_prefix(sizeof header + header.length);
  }
  if (!stream.empty()) result.push_back("+" + std::to_string(stream.size()));
  return result;
}

// What one process has: its own mappings, its own replica. The kernel's part, the bytes that come and go, is
// played by receive() and send().
struct Incarnation {
  explicit Incarnation(const CustodyStore& store)
      : custody(Custody::open(store).value()),
        replica(custody),
        connections(custody),
        executor(custody, connections, replica) {}

  // As Server::take_over does.
  void take_over() {
    EXPECT_TRUE(executor.redo());
    while (replica.follow(std::numeric_limits<std::uint64_t>::max()).value()) {
    }
    for (std::uint32_t i = 0; i < connections.capacity(); ++i) connections.unstage(i);
  }

  // The client's bytes arrive, as many as there is space for.
  std::size_t receive(std::uint32_t slot, std::string_view bytes) {
    std::size_t done = 0;
    while (done < bytes.size()) {
      const auto space = connections.receive_space(slot);
      if (space.empty()) break;
      const std::size_t count = std::min(space.size(), bytes.size() - done);
      std::memcpy(space.data(), bytes.data() + done, count);
      done += count;
      connections.slot(slot).received.fetch_add(count);
    }
    return done;
  }
  // The client reads all that is committed.
  std::string send(std::uint32_t slot) {
    std::string bytes;
    while (connections.output_pending(slot)) {
      const auto source = connections.send_source(slot);
      bytes += as_text(source);
      connections.set_sent(slot, connections.slot(slot).sent.load() + source.size());
    }
    return bytes;
  }
  // Executes the message at the front of the input.
  void execute_next(std::uint32_t slot) {
    Request request{};
    ASSERT_EQ(connections.next_message(slot, request), Connections::Input::kMessage);
    executor.execute(slot, request);
  }
  void call(std::uint32_t slot, std::uint32_t type, std::string_view payload, std::uint32_t transaction = 0) {
    const std::string bytes = message(type, payload, 1, transaction);
    ASSERT_EQ(receive(slot, bytes), bytes.size());
    execute_next(slot);
  }
  void publish_snapshot() {
    auto writing = SnapshotWriting::begin(custody, replica.engine(), replica.position());
    ASSERT_TRUE(writing.has_value());
    ASSERT_FALSE(writing->step(std::numeric_limits<std::size_t>::max()).value());
  }

  Custody custody;
  Replica replica;
  Connections connections;
  Executor executor;
};

// Runs `life` in a child process. True if it was killed (by default: a crash point was hit), false if it came
// to its end.
inline bool dies(const std::function<void()>& life, int signal = SIGKILL) {
  std::fflush(stdout);  // else the child says it again
  const pid_t pid = ::fork();
  if (pid == 0) {
    life();
    ::_exit(testing::Test::HasFailure() ? 1 : 0);
  }
  int status = 0;
  EXPECT_EQ(::waitpid(pid, &status, 0), pid);
  if (WIFSIGNALED(status)) {
    EXPECT_EQ(WTERMSIG(status), signal);
    return true;
  }
  EXPECT_EQ(WEXITSTATUS(status), 0) << "the child failed";
  return false;
}

}  // namespace bulkhead::xenstore::test
