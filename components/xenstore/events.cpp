#include "components/xenstore/events.h"

#include <algorithm>

namespace bulkhead::xenstore::core {
namespace {

// An event that would not fit a message is not sent.
void send(const Watch& watch, std::string_view path, Output& out) {
  std::array<char, kMaxPayload> payload;
  path.remove_prefix(watch.prefix);
  if (path.size() + watch.token.size() + 2 > payload.size()) return;
  char* end = std::copy(path.begin(), path.end(), payload.begin());
  *end++ = '\0';
  end = std::copy(watch.token.begin(), watch.token.end(), end);
  *end++ = '\0';
  out.event(watch.connection, as_bytes({payload.data(), static_cast<std::size_t>(end - payload.data())}));
}

void in_order_of_registration(std::vector<Watch*>& watches) {
  if (watches.size() < 2) return;
  std::sort(watches.begin(), watches.end(),
            [](const Watch* a, const Watch* b) { return a->sequence < b->sequence; });
}

bool may_know(const State& state, const Session& session, const Change& change, const Node* parent) {
  if (session.privileged()) return true;
  auto reads = [&](const Node* node) {
    return node != nullptr && (state.rights(session, *node) & kMayRead) != 0;
  };
  if (change.before != nullptr &&
      (state.rights(session, *change.before, change.before_generation) & kMayRead) != 0) {
    return true;
  }
  return reads(change.now) || reads(parent);
}

// The node at `path`, which is `top_path` or below it, in the subtree `top`.
const Node* find_in(const Node& top, std::string_view top_path, std::string_view path) {
  const Node* node = &top;
  std::size_t skip = top_path.size() > 1 ? top_path.size() : 0;
  if (path.size() <= std::max<std::size_t>(skip, 1)) return node;
  for (Components rest(path.substr(skip)); node != nullptr && !rest.done();)
    node = node->children.find(rest.next());
  return node;
}

}  // namespace

void fire(State& state, const Change& change, Output& out) {
  state.matched.clear();
  state.watches.matching(change.path, state.matched);
  in_order_of_registration(state.matched);
  const Node* parent = nullptr;
  for (const Watch* watch : state.matched) {
    const Session& session = *state.session(watch->connection);
    if (!session.privileged() && parent == nullptr) parent = state.tree.find(parent_path(change.path));
    if (may_know(state, session, change, parent)) send(*watch, change.path, out);
  }
}

void fire_below(State& state, std::string_view path, const Node& old_top, std::string_view old_path,
                const Transaction* skip_changes_of, Output& out) {
  state.matched.clear();
  state.watches.below(path, state.matched);
  for (const Watch* watch : state.matched) {
    const Node* node = find_in(old_top, old_path, watch->path);
    if (node == nullptr) continue;
    const Access* own = skip_changes_of != nullptr ? skip_changes_of->find(watch->path) : nullptr;
    if (own != nullptr && (own->flags & kFiresEvent) != 0) continue;
    Change change{
        .path = watch->path, .before = node->permissions.get(), .before_generation = node->generation};
    const Node* parent = find_in(old_top, old_path, parent_path(watch->path));
    if (may_know(state, *state.session(watch->connection), change, parent)) send(*watch, watch->path, out);
  }
}

void fire_domain_event(State& state, std::string_view name, std::uint32_t domid, Output& out) {
  std::string with_domain = std::string(name) + '/' + std::to_string(domid);
  state.matched.clear();
  state.watches.matching(name, state.matched);
  std::erase_if(state.matched, [](const Watch* watch) { return watch->depth == 0; });
  state.watches.matching(with_domain, state.matched);
  in_order_of_registration(state.matched);
  const PermissionSet& permissions = **state.special_permissions(name);
  for (const Watch* watch : state.matched) {
    const Session& session = *state.session(watch->connection);
    if ((state.rights(session, permissions, state.generation) & kMayRead) == 0) continue;
    send(*watch, watch->path.size() == name.size() && watch->depth < 0 ? name : std::string_view(with_domain),
         out);
  }
}

void fire_initial(const Watch& watch, Output& out) {
  send(watch, watch.path, out);
}

}  // namespace bulkhead::xenstore::core
