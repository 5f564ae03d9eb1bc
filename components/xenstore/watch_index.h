// Watches indexed by path, so that an event costs as much as its path is deep and as many watches as it
// meets.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/engine.h"

namespace bulkhead::xenstore::core {

struct Watch {
  ConnectionId connection;
  std::uint64_t sequence;  // registration order over all connections
  std::string path;        // absolute, or special: "@..."
  std::string token;
  std::uint32_t
      prefix;  // leading bytes of `path` not told to the client, who gave a relative path; 0: absolute
  std::int32_t depth;  // levels below `path` that match; -1: all
};

// Does not own the watches. Special names live apart from paths and match as a whole.
class WatchIndex {
 public:
  WatchIndex();
  ~WatchIndex();
  WatchIndex(WatchIndex&&) noexcept;
  WatchIndex& operator=(WatchIndex&&) noexcept;

  void add(Watch& watch);
  void remove(Watch& watch);

  // The watch that this connection has set with this path and token, if any.
  Watch* find(ConnectionId connection, std::string_view path, std::string_view token) const;

  // Appends the watches a change of `path` (or the special event `path`) concerns: those at it and, within
  // their depth, above it.
  void matching(std::string_view path, std::vector<Watch*>& out) const;
  // Whether matching() would find any.
  bool concerned(std::string_view path) const;
  // Appends all watches strictly below `path`, in the order of their paths.
  void below(std::string_view path, std::vector<Watch*>& out) const;

  std::size_t size() const { return by_key_.size(); }
  bool contains(const Watch& watch) const;

 private:
  struct Place {
    std::map<std::string, std::unique_ptr<Place>, std::less<>> children;
    std::vector<Watch*> watches;
  };
  template <typename Take>
  void each_matching(std::string_view path, Take take) const;
  const Place* place(std::string_view path) const;
  const std::vector<Watch*>* at(std::string_view path) const;
  static void collect(const Place& place, std::vector<Watch*>& out);

  // What tells a connection's watches apart; the sequence only serves to keep what a forged snapshot repeats.
  struct Key {
    ConnectionId connection;
    std::string_view token;
    std::string_view path;
    std::uint64_t sequence;
    auto operator<=>(const Key&) const = default;
  };
  struct ByKey {
    using is_transparent = void;
    static Key key(const Watch* watch) {
      return {watch->connection, watch->token, watch->path, watch->sequence};
    }
    static Key key(const Key& of) { return of; }
    bool operator()(const auto& a, const auto& b) const { return key(a) < key(b); }
  };

  std::unique_ptr<Place> root_;
  std::map<std::string, std::vector<Watch*>, std::less<>> special_;
  std::set<Watch*, ByKey> by_key_;
};

inline bool is_special(std::string_view path) {
  return path.starts_with('@');
}

}  // namespace bulkhead::xenstore::core
