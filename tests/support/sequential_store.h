// A xenstore without concurrency, in the plainest form: the sequential specification that histories are
// checked against. Rules as in Xen's docs/misc/xenstore.txt, for clients that may do everything.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "tests/support/history.h"

namespace bulkhead::xs {

// What an operation changed, as watches are told.
struct Changes {
  std::set<std::string> fired;    // paths that were written, made, removed or given permissions
  std::set<std::string> removed;  // those of them that were removed with all below
  bool none() const { return fired.empty(); }
};

// Executes one request on `nodes`. Its result as in Step.
std::string execute(const Request& request, Nodes& nodes, Changes& changes);

// Executes the operation on `nodes` if its results are those that it gets here (any will do if it was not
// answered). False: they are not, and `nodes` and `changes` are unspecified. A transaction's changes are what
// is left of them at its end.
bool explain(const Operation& operation, Nodes& nodes, Changes& changes);

// The paths of the events that a watch on `watch` gets of `changes`, which led from `before` to something
// else, in order of path.
std::vector<std::string> events_of(const Changes& changes, const Nodes& before, const std::string& watch);

bool is_below(std::string_view path, std::string_view parent);

}  // namespace bulkhead::xs
