// For the engine's tests: an Output that remembers, and requests in one line.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::test {

// One thing the engine told its output, in order: "reply:2:value", "event:7:/path|token|",
// "introduced:5:...".
class Recorder : public Output {
 public:
  void reply(std::uint32_t type, std::span<const std::byte> payload) override {
    said.push_back("reply:" + std::to_string(type) + ":" + std::string(as_text(payload)));
  }
  void event(ConnectionId to, std::span<const std::byte> payload) override {
    said.push_back("event:" + std::to_string(to) + ":" + std::string(as_text(payload)));
  }
  void domain_introduced(std::uint32_t domid, std::uint64_t mfn, std::uint32_t port) override {
    said.push_back("introduced:" + std::to_string(domid) + ":" + std::to_string(mfn) + ":" +
                   std::to_string(port));
  }
  void domain_released(std::uint32_t domid) override { said.push_back("released:" + std::to_string(domid)); }
  void quota_warning(const QuotaWarning& warning) override {
    said.push_back("warning:" + std::to_string(warning.domid) + ":" + std::string(warning.name) + ":" +
                   std::to_string(warning.limit) + ":" + std::to_string(warning.used) +
                   (warning.hard ? ":hard" : ":soft"));
  }
  void log_control(std::string_view command) override { said.push_back("log:" + std::string(command)); }

  std::vector<std::string> said;
};

// NULs written as '|', for readable expectations: "/a|b|".
inline std::string nul(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c == '|') c = '\0';
  }
  return out;
}
inline std::string bar(std::string_view text) {
  std::string out(text);
  for (char& c : out) {
    if (c == '\0') c = '|';
  }
  return out;
}

inline Outcome run(Engine& engine, Output& out, ConnectionId connection, std::uint32_t type,
                   std::string_view payload, std::uint32_t transaction = 0) {
  Request request{.header = {.type = type,
                             .request_id = 1,
                             .transaction_id = transaction,
                             .length = static_cast<std::uint32_t>(payload.size())},
                  .payload = as_bytes(payload)};
  return engine.execute(connection, request, out);
}

// What a client of domain 0 would be told; by a connection 3 of its own.
inline std::string read_from(Engine& engine, const std::string& path) {
  Recorder out;
  engine.connect(3, 0);
  run(engine, out, 3, kRead, nul(path + "|"));
  Recorder ignored;
  engine.disconnect(3, ignored);
  return out.said.at(0);
}

// An engine with connection 0 of domain 0 and connections 1, 2, 3 of the domains 1, 2, 3.
class Store {
 public:
  explicit Store(const Limits& limits = {}) : engine(limits) {
    for (std::uint32_t i = 0; i < 4; ++i) engine.connect(i, i);
  }

  // The reply alone; its payload with NULs as '|', "ENOENT" for errors. What else was said is in `events`.
  std::string call(ConnectionId connection, std::uint32_t type, std::string_view payload,
                   std::uint32_t transaction = 0) {
    Recorder out;
    mutated = run(engine, out, connection, type, nul(payload), transaction).mutated;
    std::string reply;
    events.clear();
    said.clear();
    for (const std::string& line : out.said) {
      said.push_back(bar(line));
      if (!line.starts_with("reply:")) {
        events.push_back(bar(line));
        continue;
      }
      std::size_t colon = line.find(':', 6);
      reply = bar(line.substr(colon + 1));
      if (line.starts_with("reply:16:")) reply.pop_back();
    }
    return reply;
  }
  std::string write(ConnectionId connection, std::string_view path, std::string_view value,
                    std::uint32_t t = 0) {
    return call(connection, kWrite, std::string(path) + "|" + std::string(value), t);
  }
  std::string read(ConnectionId connection, std::string_view path, std::uint32_t t = 0) {
    return call(connection, kRead, std::string(path) + "|", t);
  }
  std::string list(ConnectionId connection, std::string_view path, std::uint32_t t = 0) {
    return call(connection, kDirectory, std::string(path) + "|", t);
  }
  std::uint32_t begin(ConnectionId connection) {
    return static_cast<std::uint32_t>(leading_number(call(connection, kTransactionStart, "|")));
  }
  std::string end(ConnectionId connection, std::uint32_t t, std::string_view verdict = "T") {
    return call(connection, kTransactionEnd, std::string(verdict) + "|", t);
  }
  std::uint64_t used(std::uint32_t domid, std::string_view name) const {
    for (const QuotaRow& row : engine.quotas()) {
      if (row.domid == domid && row.name == name) return row.used;
    }
    return ~std::uint64_t{0};
  }

  Engine engine;
  bool mutated = false;
  std::vector<std::string> events;  // of the last call, all but the reply
  std::vector<std::string> said;    // of the last call, everything
};

}  // namespace bulkhead::xenstore::test
