#include "tests/support/linearizability.h"

#include <algorithm>
#include <memory>
#include <optional>
#include <unordered_map>
#include <unordered_set>

#include "tests/support/sequential_store.h"

namespace bulkhead::xs {
namespace {

void append_text(std::string& key, const std::string& text) {
  const auto length = static_cast<uint32_t>(text.size());
  key.append(reinterpret_cast<const char*>(&length), sizeof length).append(text);
}

// Equal states are one object with one number, so that places are compared by that number.
class States {
 public:
  struct State {
    uint32_t number = 0;
    Nodes nodes;
  };

  const State* of(Nodes nodes) {
    std::string key;
    for (const auto& [path, node] : nodes) {
      append_text(key, path);
      append_text(key, node.value);
      append_text(key, node.perms);
    }
    auto& state = states_[std::move(key)];
    if (!state)
      state = std::make_unique<State>(State{static_cast<uint32_t>(states_.size()), std::move(nodes)});
    return state.get();
  }

 private:
  std::unordered_map<std::string, std::unique_ptr<State>> states_;
};

// One client's operations, as positions in the history; and when each must have taken effect at the latest.
struct Line {
  std::vector<size_t> operations;
  std::vector<int64_t> due;
  size_t obliged = 0;  // as many must have taken effect
};

std::vector<Line> lines_of(const History& history) {
  std::vector<Line> lines;
  for (size_t i = 0; i < history.operations.size(); ++i) {
    const size_t client = history.operations[i].client;
    if (client >= lines.size()) lines.resize(client + 1);
    lines[client].operations.push_back(i);
  }
  for (Line& line : lines) {
    line.due.resize(line.operations.size());
    int64_t due = Operation::kNever;
    for (size_t i = line.operations.size(); i-- > 0;) {
      // What was never answered was executed before what this client was answered later.
      due = std::min(due, history.operations[line.operations[i]].answered_ns);
      line.due[i] = due;
      if (due != Operation::kNever && line.obliged == 0) line.obliged = i + 1;
    }
  }
  return lines;
}

// How much has been taken of each client and watcher, and the state that leads to.
struct Place {
  std::vector<uint32_t> taken;
  std::vector<uint32_t> seen;
  const States::State* state = nullptr;

  std::string key() const {
    std::string key(reinterpret_cast<const char*>(taken.data()), taken.size() * sizeof taken[0]);
    key.append(reinterpret_cast<const char*>(seen.data()), seen.size() * sizeof seen[0]);
    return key.append(reinterpret_cast<const char*>(&state->number), sizeof state->number);
  }
};

struct Move {
  size_t operation = 0;
  int64_t due = 0;
  Place to;
};

// It can never change anything. Not the same as changing nothing here: a MKDIR of what exists may be the one
// that made it, in another order.
bool only_reads(const Operation& operation) {
  return operation.kind == Operation::Kind::kSnapshot ||
         std::ranges::all_of(operation.steps, [](const Step& step) {
           return step.request.kind == Request::Kind::kRead ||
                  step.request.kind == Request::Kind::kDirectory ||
                  step.request.kind == Request::Kind::kGetPerms;
         });
}

class Search {
 public:
  Search(const History& history, size_t max_places)
      : history_(history), max_places_(max_places), lines_(lines_of(history)) {}

  Verdict run() {
    enter({std::vector<uint32_t>(lines_.size()), std::vector<uint32_t>(history_.watchers.size()),
           states_.of(history_.initial)});
    while (!path_.empty()) {
      if (at_end(path_.back().place)) return success();
      if (places_.size() > max_places_) {
        return {
            Verdict::Kind::kUndecided, std::to_string(max_places_) + " places searched", {}, places_.size()};
      }
      std::vector<Move>& open = path_.back().open;
      if (open.empty()) {
        path_.pop_back();
        continue;
      }
      Move move = std::move(open.back());
      open.pop_back();
      if (!places_.contains(move.to.key())) enter(std::move(move.to), move.operation);
    }
    return {Verdict::Kind::kViolation, explanation(), {}, places_.size()};
  }

 private:
  struct Visit {
    Place place;
    size_t by;               // the operation that led here
    std::vector<Move> open;  // not tried yet, the best one last
  };

  void enter(Place place, size_t by = 0) {
    places_.insert(place.key());
    if (path_.size() + 1 > deepest_length_) {
      deepest_length_ = path_.size() + 1;
      deepest_ = place;
    }
    std::vector<Move> open = moves_from(place);
    path_.push_back({std::move(place), by, std::move(open)});
  }

  bool at_end(const Place& place) const {
    for (size_t client = 0; client < lines_.size(); ++client) {
      if (place.taken[client] < lines_[client].obliged) return false;
    }
    for (size_t watcher = 0; watcher < place.seen.size(); ++watcher) {
      if (place.seen[watcher] < history_.watchers[watcher].events.size()) return false;
    }
    return true;
  }

  // Whoever was answered first must be next: nothing may be taken that began after that answer.
  int64_t horizon(const Place& place) const {
    int64_t first = Operation::kNever;
    for (size_t client = 0; client < lines_.size(); ++client) {
      const Line& line = lines_[client];
      if (place.taken[client] < line.due.size()) first = std::min(first, line.due[place.taken[client]]);
    }
    return first;
  }

  std::vector<Move> moves_from(const Place& place) {
    std::vector<Move> moves;
    const int64_t latest = horizon(place);
    for (size_t client = 0; client < lines_.size(); ++client) {
      const Line& line = lines_[client];
      if (place.taken[client] == line.operations.size()) continue;
      const size_t operation = line.operations[place.taken[client]];
      if (history_.operations[operation].invoked_ns > latest) continue;
      std::optional<Move> move = take(place, operation, line.due[place.taken[client]]);
      if (!move) continue;
      if (only_reads(history_.operations[operation])) return {std::move(*move)};
      moves.push_back(std::move(*move));
    }
    std::ranges::sort(moves, std::ranges::greater(), &Move::due);
    return moves;
  }

  std::optional<Move> take(const Place& place, size_t number, int64_t due) {
    const Operation& operation = history_.operations[number];
    Nodes nodes = place.state->nodes;
    Changes changes;
    if (!explain(operation, nodes, changes)) return std::nullopt;
    Move move{number, due, place};
    if (!hear(operation, changes, place, move.to)) return std::nullopt;
    ++move.to.taken[operation.client];
    if (!only_reads(operation)) move.to.state = states_.of(std::move(nodes));
    return move;
  }

  // Takes the operation's events from every watcher; false: they are not the next ones.
  bool hear(const Operation& operation, const Changes& changes, const Place& from, Place& to) const {
    if (changes.none()) return true;
    for (size_t i = 0; i < history_.watchers.size(); ++i) {
      const Watcher& watcher = history_.watchers[i];
      std::vector<std::string> due = events_of(changes, from.state->nodes, watcher.path);
      std::ranges::sort(due);
      const size_t begin = from.seen[i];
      if (watcher.events.size() - begin < due.size()) return false;
      std::vector<std::string> heard;
      for (size_t n = begin; n < begin + due.size(); ++n) {
        if (watcher.events[n].received_ns < operation.invoked_ns) return false;
        heard.push_back(watcher.events[n].path);
      }
      std::ranges::sort(heard);
      if (heard != due) return false;
      to.seen[i] += static_cast<uint32_t>(due.size());
    }
    return true;
  }

  Verdict success() const {
    Verdict verdict{Verdict::Kind::kLinearizable, "", {}, places_.size()};
    for (size_t i = 1; i < path_.size(); ++i) verdict.order.push_back(path_[i].by);
    return verdict;
  }

  std::string explanation() const {
    const size_t whole = history_.operations.size();
    std::string text = "no order goes beyond " + std::to_string(deepest_length_ - 1) + " of " +
                       std::to_string(whole) + " operations; there the state is";
    for (const auto& [path, node] : deepest_.state->nodes) {
      text += " " + path + "=\"" + node.value + "\"(" + std::string(node.perms.c_str()) + ")";
    }
    text += " and none of these can follow:";
    for (size_t client = 0; client < lines_.size(); ++client) {
      const Line& line = lines_[client];
      const size_t next = deepest_.taken[client];
      if (next < line.operations.size())
        text += "\n  " + describe(history_.operations[line.operations[next]]);
    }
    for (size_t i = 0; i < history_.watchers.size(); ++i) {
      const Watcher& watcher = history_.watchers[i];
      text += "\n  watch on " + watcher.path + ": ";
      text += deepest_.seen[i] < watcher.events.size() ? "next " + watcher.events[deepest_.seen[i]].path
                                                       : "no more events";
    }
    return text;
  }

  const History& history_;
  size_t max_places_;
  std::vector<Line> lines_;
  States states_;
  std::unordered_set<std::string> places_;
  std::vector<Visit> path_;
  Place deepest_;
  size_t deepest_length_ = 0;
};

}  // namespace

Verdict check_linearizable(const History& history, size_t max_places) {
  return Search(history, max_places).run();
}

}  // namespace bulkhead::xs
