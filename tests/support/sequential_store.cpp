#include "tests/support/sequential_store.h"

#include <algorithm>

namespace bulkhead::xs {
namespace {

const std::string kOk = "OK";
const std::string kNoEntry = "!ENOENT";

std::string parent_of(const std::string& path) {
  return path.substr(0, path.rfind('/'));
}

// Makes the node and what is missing above it; permissions are the parent's.
Node& make(const std::string& path, Nodes& nodes) {
  if (const auto found = nodes.find(path); found != nodes.end()) return found->second;
  std::string perms = make(parent_of(path), nodes).perms;
  return nodes.emplace(path, Node{"", std::move(perms)}).first->second;
}

std::string names_below(const std::string& path, const Nodes& nodes) {
  std::string names;
  for (auto at = nodes.upper_bound(path); at != nodes.end(); ++at) {
    if (is_below(at->first, path) && parent_of(at->first) == path) {
      names.append(at->first, path.size() + 1).append(1, '\0');
    }
  }
  return names;
}

std::string remove(const std::string& path, Nodes& nodes, Changes& changes) {
  // What is not there may be removed, provided its parent is.
  if (!nodes.contains(path)) return nodes.contains(parent_of(path)) ? kOk : kNoEntry;
  std::erase_if(nodes, [&](const auto& node) { return node.first == path || is_below(node.first, path); });
  changes.fired.insert(path);
  changes.removed.insert(path);
  return kOk;
}

std::string read(const Request& request, const Nodes& nodes) {
  const auto found = nodes.find(request.path);
  if (found == nodes.end()) return kNoEntry;
  switch (request.kind) {
    case Request::Kind::kRead:
      return found->second.value;
    case Request::Kind::kGetPerms:
      return found->second.perms;
    default:
      return names_below(request.path, nodes);
  }
}

bool explain_steps(const Operation& operation, Nodes& nodes, Changes& changes) {
  return std::ranges::all_of(operation.steps, [&](const Step& step) {
    const std::string result = execute(step.request, nodes, changes);
    return !operation.answered() || result == step.result;
  });
}

}  // namespace

bool is_below(std::string_view path, std::string_view parent) {
  return path.size() > parent.size() && path.starts_with(parent) && path[parent.size()] == '/';
}

std::string execute(const Request& request, Nodes& nodes, Changes& changes) {
  switch (request.kind) {
    case Request::Kind::kWrite:
      make(request.path, nodes).value = request.argument;
      changes.fired.insert(request.path);
      return kOk;
    case Request::Kind::kMkdir:
      if (!nodes.contains(request.path)) changes.fired.insert(request.path);
      make(request.path, nodes);
      return kOk;
    case Request::Kind::kRemove:
      return remove(request.path, nodes, changes);
    case Request::Kind::kSetPerms:
      if (!nodes.contains(request.path)) return kNoEntry;
      nodes[request.path].perms = request.argument;
      changes.fired.insert(request.path);
      return kOk;
    default:
      return read(request, nodes);
  }
}

bool explain(const Operation& operation, Nodes& nodes, Changes& changes) {
  if (operation.kind == Operation::Kind::kSnapshot) {
    Nodes copy = nodes;
    Changes ignored;
    return explain_steps(operation, copy, ignored);
  }
  if (operation.kind == Operation::Kind::kSingle) return explain_steps(operation, nodes, changes);
  const Nodes before = nodes;
  if (!explain_steps(operation, nodes, changes)) return false;
  // What a transaction made and removed again nobody has seen.
  const auto never_seen = [&](const std::string& path) {
    return !before.contains(path) && !nodes.contains(path);
  };
  std::erase_if(changes.fired, never_seen);
  std::erase_if(changes.removed, [&](const std::string& path) { return !before.contains(path); });
  return true;
}

std::vector<std::string> events_of(const Changes& changes, const Nodes& before, const std::string& watch) {
  std::vector<std::string> events;
  for (const std::string& path : changes.fired) {
    if (path == watch || is_below(path, watch)) events.push_back(path);
  }
  // A watch on something that went with what was above it is told its own path.
  if (!before.contains(watch) || changes.fired.contains(watch)) return events;
  for (const std::string& path : changes.removed) {
    if (is_below(watch, path)) events.push_back(watch);
  }
  return events;
}

}  // namespace bulkhead::xs
