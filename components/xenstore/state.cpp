#include "components/xenstore/state.h"

#include <algorithm>

#include "components/xenstore/hash.h"

namespace bulkhead::xenstore::core {
namespace {

using std::string_view_literals::operator""sv;

Ref<PermissionSet> only_domain_zero() {
  const Permission nobody_else{.domid = 0, .rights = kNoRights, .ignored = 0};
  return PermissionSet::make({&nobody_else, 1});
}

}  // namespace

State::State(const Limits& initial_limits)
    : limits(initial_limits),
      introduce_permissions(only_domain_zero()),
      release_permissions(only_domain_zero()) {}

void State::charge_root() {
  domains.charge(tree.root().owner(), 1, static_cast<std::int64_t>(record_size(tree.root()) + 1));
}

// As the C xenstored does it: /, /tool and /tool/xenstored, and domain 0 counts as introduced.
void State::populate() {
  domains.get(0).introduced = true;
  charge_root();
  for (std::string_view path : {"/tool", "/tool/xenstored"}) {
    tree.create(path, {}, only_domain_zero(), ++generation, domains);
  }
}

Session& State::open_session(ConnectionId id, std::uint32_t domid) {
  if (id >= sessions.size()) sessions.resize(id + 1U);
  Domain& domain = domains.get(domid);
  ++domain.connections;
  sessions[id] = std::make_unique<Session>();
  *sessions[id] = Session{.id = id, .domid = domid, .domain = &domain, .watches = {}, .transactions = {}};
  return *sessions[id];
}

void State::close_session(Session& session) {
  reset_session(session);
  Domain& domain = *session.domain;
  sessions[session.id].reset();
  --domain.connections;
  domains.forget_if_ended(domain);
}

Watch& State::add_watch(Session& session, Watch watch) {
  session.domain->watches += 1;
  domains.add_memory(*session.domain, static_cast<std::int64_t>(watch.path.size() + watch.token.size()));
  std::uint64_t sequence = watch.sequence;
  Watch& added = session.watches.emplace(sequence, std::move(watch)).first->second;
  watches.add(added);
  return added;
}

void State::drop_watch(Session& session, Watch& watch) {
  session.domain->watches -= 1;
  domains.add_memory(*session.domain, -static_cast<std::int64_t>(watch.path.size() + watch.token.size()));
  watches.remove(watch);
  session.watches.erase(std::uint64_t{watch.sequence});
}

void State::drop_watches(Session& session) {
  while (!session.watches.empty()) drop_watch(session, session.watches.begin()->second);
}

Transaction& State::add_transaction(Session& session, std::uint32_t id) {
  session.domain->transactions += 1;
  auto transaction = std::make_unique<Transaction>(id, tree, domains);
  return *session.transactions.emplace(id, std::move(transaction)).first->second;
}

void State::drop_transaction(Session& session, Transaction& transaction) {
  session.domain->transactions -= 1;
  domains.add_memory(*session.domain, -transaction.memory());
  session.transactions.erase(transaction.id());
}

void State::reset_session(Session& session) {
  drop_watches(session);
  drop_transactions(session);
}

void State::drop_transactions(Session& session) {
  while (!session.transactions.empty()) drop_transaction(session, *session.transactions.begin()->second);
}

std::uint8_t State::rights(const Session& session, const PermissionSet& permissions, std::uint64_t at) const {
  if (session.privileged()) return kAllRights;
  std::optional<std::uint32_t> target = session.domain->target;
  auto is_self = [&](std::uint32_t domid) { return domid == session.domid || (target && domid == *target); };
  const Permission* entries = permissions.data();
  if (is_self(entries[0].domid)) return kAllRights;
  for (std::size_t i = 1; i < permissions.size; ++i) {
    const Permission& entry = entries[i];
    if (entry.ignored == 0 && is_self(entry.domid) && domains.existed_at(entry.domid, at))
      return entry.rights;
  }
  return entries[0].rights;
}

Ref<PermissionSet>* State::special_permissions(std::string_view name) {
  if (name == kIntroduceEvent) return &introduce_permissions;
  if (name == kReleaseEvent) return &release_permissions;
  return nullptr;
}

std::uint64_t State::digest() const {
  Hasher hasher;
  hasher.add(tree.digest());
  hasher.add(std::as_bytes(introduce_permissions->view()));
  hasher.add(std::as_bytes(release_permissions->view()));
  return hasher.finish();
}

// Everything that snapshots keep and that can be had without walking trees and watches.
std::uint64_t State::fingerprint() const {
  Hasher hasher;
  hasher.add(digest());
  for (std::uint64_t count : {tree.node_count(), tree.version(), generation, watch_sequence,
                              std::uint64_t{watches.size()}, std::uint64_t{introductions}}) {
    hasher.add(count);
  }
  for (const Quota& quota : all_quotas()) hasher.add(limits.*quota.limit);
  domains.for_each([&](const Domain& domain) {
    hasher.add(domain.domid | std::uint64_t{domain.connections} << 32);
    hasher.add((domain.introduced ? 1U : 0U) | (domain.shut_down ? 2U : 0U) | (domain.ended ? 4U : 0U) |
               (domain.target ? std::uint64_t{*domain.target} + 1 : 0) << 3 |
               std::uint64_t{domain.port} << 32);
    hasher.add(domain.mfn);
    hasher.add(domain.introduction);
    hasher.add(domain.generation);
    hasher.add(domain.own_limits | std::uint64_t{domain.features} << 32);
    hasher.add((domain.soft_warned ? 1U : 0U) | (domain.hard_warned ? 2U : 0U));
    for (const Quota& quota : all_quotas()) hasher.add(domain.limits.*quota.limit);
    for (std::int64_t used : {domain.nodes, domain.watches, domain.transactions, domain.memory}) {
      hasher.add(static_cast<std::uint64_t>(used));
    }
  });
  for (const auto& session : sessions) {
    if (!session) continue;
    hasher.add(session->id | std::uint64_t{session->domid} << 32);
    hasher.add(session->next_transaction_id | std::uint64_t{session->transactions.size()} << 32);
    hasher.add(session->watches.size());
  }
  return hasher.finish();
}

bool State::sound(std::string_view path, const Node& node) {
  if (node_hash(path, node) == node.hash) return true;
  damaged = true;
  if (on_damage) on_damage("damaged value or permissions of " + std::string(path));
  return false;
}

Accounts& Call::accounts() const {
  if (transaction != nullptr) return transaction->charges;
  return state.domains;
}

void Call::acknowledge() const {
  reply("OK\0"sv);
}

bool Call::is_allowed_path(std::string_view path) const {
  if (session.privileged()) return is_path_within(path, kMaxRelativePath);
  const std::uint32_t depth = limits().path_depth;
  const std::uint32_t bytes = limits().path_max;
  if (!is_path_within(path, bytes != 0 ? bytes : kMaxAbsolutePath)) return false;
  // A level takes two bytes at least: short paths need no counting.
  return depth == 0 || path.size() / 2 <= depth ||
         static_cast<std::uint64_t>(std::ranges::count(path, '/')) <= depth;
}

ErrorCode Call::out_of_memory(Domain& domain) {
  if (!domain.hard_warned && !domain.is_far_below(domain.limits.memory)) {
    domain.hard_warned = mutated = true;
    out.quota_warning(
        {domain.domid, "memory", domain.limits.memory, static_cast<std::uint64_t>(domain.memory), true});
  }
  return ErrorCode::kNoMemory;
}

std::string domain_path(std::uint32_t domid) {
  return "/local/domain/" + std::to_string(domid);
}

std::string_view resolve(Call& call, std::string_view name) {
  if (name.starts_with('/') || name.starts_with('@')) return name;
  std::string prefix = domain_path(call.session.domid) + '/';
  std::array<char, kMaxPayload + 64>& buffer = call.state.resolved_path;
  char* end = std::copy(prefix.begin(), prefix.end(), buffer.begin());
  end = std::copy(name.begin(), name.end(), end);
  return {buffer.data(), static_cast<std::size_t>(end - buffer.data())};
}

ErrorCode note(Call& call, std::string_view path, std::uint8_t flags) {
  Transaction* transaction = call.transaction;
  if (transaction == nullptr) return ErrorCode::kNone;
  if (!call.session.privileged() && !transaction->knows(path)) {
    ErrorCode refused = ErrorCode::kNone;
    Domain& domain = *call.session.domain;
    if (exceeds(transaction->accesses().size() + 1, domain.limits.transaction_nodes)) {
      refused = ErrorCode::kNoSpace;
    }
    auto bytes = domain.memory + static_cast<std::int64_t>(path.size());
    if (exceeds(static_cast<std::uint64_t>(bytes), domain.limits.memory))
      refused = call.out_of_memory(domain);
    if (refused != ErrorCode::kNone) {
      call.mutated = call.mutated || !transaction->failed;
      transaction->failed = true;
      return refused;
    }
  }
  std::int64_t before = transaction->memory();
  call.mutated = transaction->note(path, flags) || call.mutated;
  call.state.domains.add_memory(*call.session.domain, transaction->memory() - before);
  return ErrorCode::kNone;
}

}  // namespace bulkhead::xenstore::core
