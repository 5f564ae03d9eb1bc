// Random histories: those made from a real order pass, and whatever is done to them, the check says what a
// search through all permutations says.
#include <gtest/gtest.h>

#include <algorithm>
#include <numeric>
#include <random>

#include "tests/support/linearizability.h"
#include "tests/support/sequential_store.h"

namespace bulkhead::xs {
namespace {

using Random = std::mt19937_64;

size_t below(Random& random, size_t bound) {
  return random() % bound;
}

const std::vector<std::string>& paths() {
  static const std::vector<std::string> kPaths{"/r/a", "/r/b", "/r/a/x", "/r/a/y"};
  return kPaths;
}

Request random_request(Random& random, size_t number) {
  static constexpr std::array kKinds{
      Request::Kind::kRead,      Request::Kind::kRead,     Request::Kind::kWrite,
      Request::Kind::kWrite,     Request::Kind::kMkdir,    Request::Kind::kRemove,
      Request::Kind::kDirectory, Request::Kind::kSetPerms, Request::Kind::kGetPerms};
  Request request{kKinds[below(random, kKinds.size())], paths()[below(random, paths().size())]};
  if (request.kind == Request::Kind::kWrite) request.argument = std::to_string(number);
  if (request.kind == Request::Kind::kSetPerms) request.argument = "n" + std::to_string(number % 3);
  return request;
}

struct Shape {
  size_t operations;
  size_t clients;
  size_t watchers;
  int64_t overlap;  // an operation's interval extends up to so much to both sides; instants are 10 apart
};

void carry_out(Operation& operation, Nodes& nodes, Changes& changes) {
  Nodes copy = nodes;
  Nodes& target = operation.kind == Operation::Kind::kSnapshot ? copy : nodes;
  Changes unseen;
  const Nodes before = nodes;
  for (Step& step : operation.steps) step.result = execute(step.request, target, unseen);
  // explain() reduces a transaction's changes.
  Nodes again = before;
  ASSERT_TRUE(explain(operation, again, changes));
}

// A sequential execution, one operation at each instant, seen through intervals around the instants.
History random_history(Random& random, const Shape& shape) {
  History history;
  history.initial = {{"/r", {"", "n0"}}, {"/r/a", {"0", "n0"}}, {"/r/b", {"0", "n0"}}};
  for (size_t i = 0; i < shape.watchers; ++i) history.watchers.push_back({i == 0 ? "/r" : "/r/a/x", {}});
  Nodes nodes = history.initial;
  std::vector<int64_t> last_sent(shape.clients);
  std::vector<int64_t> last_answered(shape.clients);
  std::vector<int64_t> last_heard(shape.watchers);
  for (size_t i = 0; i < shape.operations; ++i) {
    const int64_t instant = 1000 + 10 * static_cast<int64_t>(i);
    const auto spread = [&] {
      return static_cast<int64_t>(below(random, static_cast<size_t>(shape.overlap)));
    };
    Operation operation;
    operation.client = below(random, shape.clients);
    const size_t kind = below(random, 10);
    if (kind == 0) operation.kind = Operation::Kind::kSnapshot;
    if (kind == 1 || kind == 2) operation.kind = Operation::Kind::kCommit;
    const size_t steps = operation.kind == Operation::Kind::kSingle ? 1 : 2 + below(random, 2);
    bool removes = false;
    while (operation.steps.size() < steps) {
      Request request = random_request(random, 10 * i + operation.steps.size());
      if (request.kind == Request::Kind::kRemove && std::exchange(removes, true)) continue;
      operation.steps.push_back({std::move(request), ""});
    }
    const Nodes before = nodes;
    Changes changes;
    carry_out(operation, nodes, changes);
    int64_t& sent = last_sent[operation.client];
    int64_t& answered = last_answered[operation.client];
    operation.invoked_ns = sent = std::max(sent, instant - spread());
    operation.answered_ns = answered = std::max(answered, instant + spread());
    for (size_t w = 0; w < shape.watchers; ++w) {
      last_heard[w] = std::max(last_heard[w], instant + spread());
      for (const std::string& path : events_of(changes, before, history.watchers[w].path)) {
        history.watchers[w].events.push_back({last_heard[w], path});
      }
    }
    history.operations.push_back(std::move(operation));
  }
  return history;
}

// Whether the operations explain everything in this order; `order` may leave out what was not answered.
bool explains(const History& history, const std::vector<size_t>& order) {
  Nodes nodes = history.initial;
  std::vector<size_t> heard(history.watchers.size());
  for (const size_t i : order) {
    const Nodes before = nodes;
    Changes changes;
    if (!explain(history.operations[i], nodes, changes)) return false;
    for (size_t w = 0; w < heard.size(); ++w) {
      const std::vector<Event>& events = history.watchers[w].events;
      std::vector<std::string> due = events_of(changes, before, history.watchers[w].path);
      for (size_t n = 0, number = due.size(); n < number; ++n, ++heard[w]) {
        if (heard[w] == events.size()) return false;
        if (events[heard[w]].received_ns < history.operations[i].invoked_ns) return false;
        const auto found = std::ranges::find(due, events[heard[w]].path);
        if (found == due.end()) return false;
        due.erase(found);
      }
    }
  }
  for (size_t w = 0; w < heard.size(); ++w) {
    if (heard[w] != history.watchers[w].events.size()) return false;
  }
  return true;
}

bool respects_time_and_clients(const History& history, const std::vector<size_t>& order) {
  for (size_t later = 0; later < order.size(); ++later) {
    for (size_t earlier = 0; earlier < later; ++earlier) {
      const Operation& first = history.operations[order[earlier]];
      const Operation& second = history.operations[order[later]];
      if (second.answered_ns < first.invoked_ns) return false;
      if (first.client == second.client && order[earlier] > order[later]) return false;
    }
  }
  return true;
}

bool brute_force(const History& history, const std::vector<size_t>& chosen) {
  std::vector<size_t> order = chosen;
  do {
    if (respects_time_and_clients(history, order) && explains(history, order)) return true;
  } while (std::ranges::next_permutation(order).found);
  return false;
}

// Any choice of those not answered may have taken effect, of one client only those sent first.
bool brute_force(const History& history) {
  std::vector<size_t> optional;
  for (size_t i = 0; i < history.operations.size(); ++i) {
    if (!history.operations[i].answered()) optional.push_back(i);
  }
  for (size_t choice = 0; choice < (size_t{1} << optional.size()); ++choice) {
    std::vector<size_t> chosen;
    std::vector<bool> cut(history.operations.size());
    bool possible = true;
    for (size_t i = 0; i < history.operations.size(); ++i) {
      const auto position = static_cast<size_t>(std::ranges::find(optional, i) - optional.begin());
      const bool taken = position == optional.size() || ((choice >> position) & 1U) != 0;
      const size_t client = history.operations[i].client;
      if (taken && cut[client]) possible = false;
      if (taken) chosen.push_back(i);
      if (!taken) cut[client] = true;
    }
    if (possible && brute_force(history, chosen)) return true;
  }
  return false;
}

void damage_result(Random& random, History& history) {
  Operation& operation = history.operations[below(random, history.operations.size())];
  std::string& result = operation.steps[below(random, operation.steps.size())].result;
  const Operation& other = history.operations[below(random, history.operations.size())];
  const std::array<std::string, 4> candidates{"0", "!ENOENT", other.steps[0].result,
                                              other.steps[0].request.argument};
  result = candidates[below(random, candidates.size())];
}

void damage_events(Random& random, History& history) {
  if (history.watchers.empty()) return damage_result(random, history);
  std::vector<Event>& events = history.watchers[below(random, history.watchers.size())].events;
  if (events.empty()) return damage_result(random, history);
  const size_t at = below(random, events.size());
  switch (below(random, 4)) {
    case 0:
      events.erase(events.begin() + static_cast<std::ptrdiff_t>(at));
      break;
    case 1:
      events.insert(events.begin() + static_cast<std::ptrdiff_t>(at), events[at]);
      break;
    case 2:
      std::swap(events[at].path, events[below(random, events.size())].path);
      break;
    default:
      events[at].received_ns -= static_cast<int64_t>(below(random, 60));
  }
}

void damage(Random& random, History& history) {
  Operation& operation = history.operations[below(random, history.operations.size())];
  switch (below(random, 6)) {
    case 0:
      operation.answered_ns = Operation::kNever;
      break;
    case 1: {  // asked later, if it still fits its client's order
      const int64_t later = operation.invoked_ns + static_cast<int64_t>(below(random, 40));
      operation.invoked_ns = std::min(later, operation.answered_ns);
      break;
    }
    case 2:
    case 3:
      return damage_events(random, history);
    default:
      return damage_result(random, history);
  }
}

TEST(LinearizabilityRandom, LargeHistoriesOfARealOrderPass) {
  Random random(1);
  for (int round = 0; round < 60; ++round) {
    const History history = random_history(random, {150, 2 + below(random, 5), below(random, 3), 45});
    const Verdict verdict = check_linearizable(history);
    ASSERT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << "round " << round << ": " << verdict.why;
    ASSERT_TRUE(explains(history, verdict.order));
    ASSERT_TRUE(respects_time_and_clients(history, verdict.order));
  }
}

TEST(LinearizabilityRandom, OneImpossibleResultInALargeHistoryIsFound) {
  Random random(2);
  for (int round = 0; round < 60; ++round) {
    History history = random_history(random, {100, 4, 1, 35});
    Operation& operation = history.operations[below(random, history.operations.size())];
    operation.steps[below(random, operation.steps.size())].result = "nobody wrote this";
    ASSERT_EQ(check_linearizable(history).kind, Verdict::Kind::kViolation) << "round " << round;
  }
}

TEST(LinearizabilityRandom, AgreesWithBruteForce) {
  Random random(3);
  int passed = 0;
  int failed = 0;
  for (int round = 0; round < 6000; ++round) {
    const Shape shape{1 + below(random, 7), 1 + below(random, 4), below(random, 3), 40};
    History history = random_history(random, shape);
    for (size_t n = below(random, 3); n > 0; --n) damage(random, history);
    const Verdict verdict = check_linearizable(history);
    ASSERT_NE(verdict.kind, Verdict::Kind::kUndecided);
    const bool pass = verdict.kind == Verdict::Kind::kLinearizable;
    ++(pass ? passed : failed);
    std::string text;
    for (const Operation& operation : history.operations) text += "\n" + describe(operation);
    ASSERT_EQ(pass, brute_force(history)) << "round " << round << ": " << verdict.why << text;
    if (!pass) continue;
    EXPECT_TRUE(explains(history, verdict.order)) << text;
    EXPECT_TRUE(respects_time_and_clients(history, verdict.order)) << text;
  }
  // The damage really damages, and not everything.
  EXPECT_GT(passed, 1000);
  EXPECT_GT(failed, 1000);
}

// Locality: the parts say together what the whole says.
TEST(LinearizabilityRandom, PartsAgreeWithTheWhole) {
  Random random(4);
  int partitioned = 0;
  for (int round = 0; round < 4000; ++round) {
    History history;
    history.initial = {{"/r", {"", "n0"}}, {"/r/a", {"0", "n0"}}, {"/r/b", {"0", "n0"}}};
    std::vector<int64_t> now(3);
    for (size_t i = 0; i < 6; ++i) {
      const size_t client = below(random, 3);
      const std::string path = paths()[below(random, 2)];
      Step step{{Request::Kind::kRead, path}, std::to_string(below(random, 4))};
      if (below(random, 2) == 0) step = {{Request::Kind::kWrite, path, std::to_string(i % 4)}, "OK"};
      const int64_t from = now[client] + static_cast<int64_t>(below(random, 10));
      now[client] = from + static_cast<int64_t>(below(random, 20));
      history.operations.push_back({client, from, now[client], Operation::Kind::kSingle, {step}});
    }
    const std::vector<History> parts = partition(history);
    if (parts.size() > 1) ++partitioned;
    const auto passes = [](const History& h) {
      return check_linearizable(h).kind == Verdict::Kind::kLinearizable;
    };
    ASSERT_EQ(std::ranges::all_of(parts, passes), passes(history)) << "round " << round;
  }
  EXPECT_GT(partitioned, 1000);
}

}  // namespace
}  // namespace bulkhead::xs
