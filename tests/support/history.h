// What concurrent clients of a xenstore asked, when, and what they were told: the input of the
// linearizability check.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <map>
#include <string>
#include <vector>

namespace bulkhead::xs {

// A step's and an operation's request. `argument` is WRITE's value and SET_PERMS' list as sent, else empty.
struct Request {
  enum class Kind : unsigned char {
    kRead,
    kWrite,
    kMkdir,
    kRemove,
    kDirectory,
    kGetPerms,
    kSetPerms,
  };
  Kind kind = Kind::kRead;
  std::string path;
  std::string argument = {};
};

// `result`: "OK", a value, a list of permissions as sent, a directory's names in order, each with its NUL; of
// an error its name with a "!" before it.
struct Step {
  Request request;
  std::string result;
};

// Either one request, or a transaction whose steps take effect as one.
struct Operation {
  enum class Kind : unsigned char {
    kSingle,    // steps[0]
    kCommit,    // a transaction that was committed; from the sending of its end to the answer
    kSnapshot,  // what a transaction that changed nothing (aborted, or answered EAGAIN) saw and would have
                // seen of its own: of one instant. From the sending of its start to the answer
  };
  // Not answered: may have taken effect at any time since, or not at all; the results say nothing.
  static constexpr int64_t kNever = std::numeric_limits<int64_t>::max();

  size_t client = 0;
  int64_t invoked_ns = 0;
  int64_t answered_ns = kNever;
  Kind kind = Kind::kSingle;
  std::vector<Step> steps;

  bool answered() const { return answered_ns != kNever; }
};

struct Node {
  std::string value;
  std::string perms;
  bool operator==(const Node&) const = default;
};
// By absolute path. The root of what the history is about is a node, too, and is never removed.
using Nodes = std::map<std::string, Node>;

struct Event {
  int64_t received_ns = 0;
  std::string path;
};

// One watch, registered before the first operation, and all its events up to after the last answer: a server
// that merges no events sends exactly one for each change.
struct Watcher {
  std::string path;
  std::vector<Event> events;
};

struct History {
  Nodes initial;
  // Each client's operations in the order in which it sent them; the clients' in any order. A server executes
  // the requests of one connection in the order sent, also if several are in flight.
  std::vector<Operation> operations;
  std::vector<Watcher> watchers;
};

// One line, for people.
std::string describe(const Operation& operation);

}  // namespace bulkhead::xs
