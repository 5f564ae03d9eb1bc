// Is there an order of all operations that explains what every client was told, in which no operation comes
// before one that was answered before it began? Wing and Gong's search, with Lowe's improvements: places
// already searched (what has been taken of each client and watcher, and the state) are remembered, and what
// only reads is taken as soon as it fits, which loses nothing: it could stand wherever it would come later.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

#include "tests/support/history.h"

namespace bulkhead::xs {

struct Verdict {
  enum class Kind : unsigned char { kLinearizable, kViolation, kUndecided };
  Kind kind = Kind::kLinearizable;
  // kViolation: how far any order gets, and what cannot follow there. kUndecided: what ran out.
  std::string why;
  // kLinearizable: an order, as positions in History::operations, of those that took effect.
  std::vector<size_t> order;
  size_t places = 0;  // searched
};

// `max_places` bounds time and memory; beyond it the verdict is kUndecided, which is not a pass.
//
// Watchers are part of the question: each operation's events must be the next ones of every watcher (in any
// order among themselves), received after the operation began, and in the end no event may be left over. So
// every watcher's events are in one and the same order with all that was read.
Verdict check_linearizable(const History& history, size_t max_places = 1'000'000);

// One history per node, if that asks the same question: every request is about one node that exists all the
// time, nobody watches, and no client has two requests in flight (its order across nodes would be lost).
// Otherwise the history itself.
std::vector<History> partition(const History& history);

// For servers that may merge an event with an equal one not yet delivered: each event has a cause that began
// before it was received, and each answered operation that must have changed something is followed by an
// event. Empty: all right; else what is wrong. Says nothing about number and order.
std::string check_merged_events(const History& history);

}  // namespace bulkhead::xs
