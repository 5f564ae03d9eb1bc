// INTRODUCE, RELEASE, RESUME, SET_TARGET, GET_DOMAIN_PATH, IS_DOMAIN_INTRODUCED.
#include <vector>

#include "components/xenstore/events.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

// A number that is no domain's stays one when narrowed.
std::uint32_t parse_domid(std::string_view text) {
  std::int64_t number = leading_number(text);
  return number < 0 || number > 0xFFFFFFFF ? 0xFFFFFFFF : static_cast<std::uint32_t>(number);
}

Domain* find_introduced(const State& state, std::uint32_t domid) {
  Domain* domain = state.domains.find(domid);
  return domain != nullptr && domain->introduced ? domain : nullptr;
}

// The introduced domain that is the request's only argument; never domain 0.
ErrorCode only_domain(const Call& call, Domain*& domain) {
  auto argument = only_argument(call.payload);
  if (!argument || parse_domid(*argument) == 0) return ErrorCode::kInvalid;
  domain = find_introduced(call.state, parse_domid(*argument));
  return domain != nullptr ? ErrorCode::kNone : ErrorCode::kNoEntry;
}

void reset_sessions(State& state, std::uint32_t domid) {
  for (const auto& session : state.sessions) {
    if (session && session->domid == domid) state.reset_session(*session);
  }
}

void remove_owned_tree(State& state, std::string_view path, Output& out) {
  Ref<Node> removed = state.tree.remove(path, ++state.generation, state.domains);
  fire_below(state, path, *removed, path, nullptr, out);
  fire(state, {.path = path, .before = removed->permissions.get(), .before_generation = removed->generation},
       out);
}

void disown_root(State& state) {
  Ref<PermissionSet> permissions = PermissionSet::make(state.tree.root().permissions->view());
  permissions->data()->domid = 0;
  state.tree.set_permissions("/", std::move(permissions), ++state.generation, state.domains);
}

// Removes all that the domain owns, with everything below. Its home is looked at first: mostly nothing else
// is its own, and the tree need not be searched.
void remove_owned_nodes(State& state, const Domain& domain, Output& out) {
  std::string home = domain_path(domain.domid);
  if (const Node* node = state.tree.find(home); node != nullptr && node->owner() == domain.domid) {
    remove_owned_tree(state, home, out);
  }
  if (state.tree.root().owner() == domain.domid) disown_root(state);
  if (domain.nodes == 0) return;
  std::vector<std::string> owned;
  for (TreeWalk walk(state.tree.root(), "/"); !walk.done();) {
    if (walk.node().owner() != domain.domid) {
      walk.next();
      continue;
    }
    owned.emplace_back(walk.path());
    walk.skip_children();
  }
  for (const std::string& path : owned) remove_owned_tree(state, path, out);
}

void forget_in_special_permissions(Ref<PermissionSet>& permissions, std::uint32_t domid) {
  std::vector<Permission> kept(permissions->view().begin(), permissions->view().end());
  if (kept.front().domid == domid) kept.front().domid = 0;
  std::erase_if(kept, [&](const Permission& entry) { return entry.domid == domid; });
  permissions = PermissionSet::make(kept);
}

// Nothing granted to the domain may mean a later one with its id: permissions on nodes age out by the
// generation, the rest is taken away, limits of its own too.
void end_domain(State& state, Domain& domain) {
  forget_in_special_permissions(state.introduce_permissions, domain.domid);
  forget_in_special_permissions(state.release_permissions, domain.domid);
  state.domains.for_each([&](Domain& other) {
    if (other.target == domain.domid) other.target.reset();
  });
  domain.introduced = domain.shut_down = false;
  domain.target.reset();
  domain.mfn = 0;
  domain.port = 0;
  domain.generation = ++state.generation;
  domain.ended = true;
  state.domains.reset(domain);
  state.domains.unsettle(domain);
  state.domains.forget_if_ended(domain);
}

}  // namespace

void end_introduced(State& state, Domain& domain, Output& out) {
  const std::uint32_t domid = domain.domid;
  reset_sessions(state, domid);
  remove_owned_nodes(state, domain, out);
  end_domain(state, domain);
  fire_domain_event(state, kReleaseEvent, domid, out);
  out.domain_released(domid);
}

ErrorCode handle_introduce(Call& call) {
  const auto asked = parse_introduction(call.payload);
  if (!asked) return ErrorCode::kInvalid;
  const auto [domid, mfn, port] = *asked;
  Domain& domain = call.state.domains.get(domid);
  bool first = !domain.introduced;
  domain.introduced = true;
  domain.ended = false;
  domain.shut_down = domain.shut_down && !first;
  domain.mfn = mfn;
  domain.port = port;
  domain.introduction = ++call.state.introductions;
  call.mutated = true;
  if (domid != 0) reset_sessions(call.state, domid);
  call.out.domain_introduced(domid, mfn, port);
  if (first) fire_domain_event(call.state, kIntroduceEvent, domid, call.out);
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode handle_release(Call& call) {
  Domain* domain = nullptr;
  if (ErrorCode error = only_domain(call, domain); error != ErrorCode::kNone) return error;
  end_introduced(call.state, *domain, call.out);
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode handle_resume(Call& call) {
  Domain* domain = nullptr;
  if (ErrorCode error = only_domain(call, domain); error != ErrorCode::kNone) return error;
  call.mutated = std::exchange(domain->shut_down, false);
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode handle_set_target(Call& call) {
  if (count_arguments(call.payload) < 2) return ErrorCode::kInvalid;
  std::string_view rest = call.payload;
  // A target lends its rights: what is no number must not pass for domain 0.
  const auto of = exact_domid(take_argument(rest).value_or(""));
  const auto to = exact_domid(take_argument(rest).value_or(""));
  if (!of || !to) return ErrorCode::kInvalid;
  Domain* domain = find_introduced(call.state, *of);
  Domain* target = find_introduced(call.state, *to);
  if (domain == nullptr || target == nullptr) return ErrorCode::kNoEntry;
  domain->target = target->domid;
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode handle_get_domain_path(Call& call) {
  auto argument = only_argument(call.payload);
  if (!argument) return ErrorCode::kInvalid;
  std::string path = domain_path(parse_domid(*argument));
  call.reply(std::string_view(path.c_str(), path.size() + 1));
  return ErrorCode::kNone;
}

ErrorCode handle_is_domain_introduced(Call& call) {
  auto argument = only_argument(call.payload);
  if (!argument) return ErrorCode::kInvalid;
  std::uint32_t domid = parse_domid(*argument);
  // The first reserved id is DOMID_SELF: whoever asks.
  bool introduced = domid == kFirstReservedDomain || find_introduced(call.state, domid) != nullptr;
  call.reply(std::string_view(introduced ? "T" : "F", 2));
  return ErrorCode::kNone;
}

}  // namespace bulkhead::xenstore::core
