// What can be asked about a history without looking for an order of the whole.
#include <algorithm>
#include <map>

#include "tests/support/linearizability.h"
#include "tests/support/sequential_store.h"

namespace bulkhead::xs {
namespace {

bool touches_one_lasting_node(const Operation& operation, const Nodes& initial) {
  if (operation.kind != Operation::Kind::kSingle) return false;
  const Request& request = operation.steps[0].request;
  switch (request.kind) {
    case Request::Kind::kRead:
    case Request::Kind::kWrite:
    case Request::Kind::kGetPerms:
    case Request::Kind::kSetPerms:
      return initial.contains(request.path);
    default:
      return false;
  }
}

bool one_at_a_time(const History& history) {
  std::map<size_t, int64_t> last_answer;
  return std::ranges::all_of(history.operations, [&](const Operation& operation) {
    const auto before = last_answer.find(operation.client);
    const bool waited = before == last_answer.end() || before->second < operation.invoked_ns;
    last_answer[operation.client] = operation.answered_ns;
    return waited;
  });
}

// Could it have changed `path`, whatever the state?
bool may_fire(const Operation& operation, const std::string& path) {
  if (operation.kind == Operation::Kind::kSnapshot) return false;
  return std::ranges::any_of(operation.steps, [&](const Step& step) {
    switch (step.request.kind) {
      case Request::Kind::kWrite:
      case Request::Kind::kMkdir:
      case Request::Kind::kSetPerms:
        return step.request.path == path;
      case Request::Kind::kRemove:
        return step.request.path == path || is_below(path, step.request.path);
      default:
        return false;
    }
  });
}

// The paths it must have fired. A write always does; in a transaction, unless something was removed.
std::vector<std::string> must_fire(const Operation& operation) {
  std::vector<std::string> paths;
  if (operation.kind == Operation::Kind::kSnapshot || !operation.answered()) return paths;
  for (const Step& step : operation.steps) {
    if (step.request.kind == Request::Kind::kRemove) return {};
    if (step.request.kind == Request::Kind::kWrite) paths.push_back(step.request.path);
  }
  return paths;
}

}  // namespace

std::vector<History> partition(const History& history) {
  const bool sound = history.watchers.empty() && one_at_a_time(history) &&
                     std::ranges::all_of(history.operations, [&](const Operation& operation) {
                       return touches_one_lasting_node(operation, history.initial);
                     });
  if (!sound) return {history};
  std::map<std::string, History> parts;
  for (const Operation& operation : history.operations) {
    const std::string& path = operation.steps[0].request.path;
    History& part = parts[path];
    part.initial[path] = history.initial.at(path);
    part.operations.push_back(operation);
  }
  std::vector<History> result;
  for (auto& [path, part] : parts) result.push_back(std::move(part));
  return result;
}

std::string check_merged_events(const History& history) {
  for (const Watcher& watcher : history.watchers) {
    for (const Event& event : watcher.events) {
      const bool caused = std::ranges::any_of(history.operations, [&](const Operation& operation) {
        return operation.invoked_ns <= event.received_ns && may_fire(operation, event.path);
      });
      if (!caused) return "event without a cause: " + event.path;
    }
    for (const Operation& operation : history.operations) {
      for (const std::string& path : must_fire(operation)) {
        if (path != watcher.path && !is_below(path, watcher.path)) continue;
        const bool heard = std::ranges::any_of(watcher.events, [&](const Event& event) {
          return event.path == path && event.received_ns >= operation.invoked_ns;
        });
        if (!heard) return "no event after " + describe(operation);
      }
    }
  }
  return {};
}

}  // namespace bulkhead::xs
