// The engine's whole state, and what the request handlers share. Internal to the engine.
#pragma once

#include <array>
#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/domains.h"
#include "components/xenstore/engine.h"
#include "components/xenstore/transaction.h"
#include "components/xenstore/tree.h"
#include "components/xenstore/watch_index.h"

namespace bulkhead::xenstore::core {

inline constexpr std::string_view kIntroduceEvent = "@introduceDomain";
inline constexpr std::string_view kReleaseEvent = "@releaseDomain";

// What the engine keeps for one connection.
struct Session {
  ConnectionId id;
  std::uint32_t domid;
  Domain* domain;
  std::map<std::uint64_t, Watch> watches;  // by sequence: in the order of their registration
  std::map<std::uint32_t, std::unique_ptr<Transaction>> transactions;
  std::uint32_t next_transaction_id = 1;

  bool privileged() const { return domid == 0; }
};

struct State {
  explicit State(
      const Limits& limits);  // knows no domain and holds no node but "/", which is charged to nobody
  void populate();            // what a fresh store holds
  void charge_root();
  State(const State&) = delete;
  State& operator=(const State&) = delete;

  Session* session(ConnectionId id) const { return id < sessions.size() ? sessions[id].get() : nullptr; }
  Session& open_session(ConnectionId id, std::uint32_t domid);
  void close_session(Session& session);
  void drop_watches(Session& session);
  void drop_watch(Session& session, Watch& watch);
  Watch& add_watch(Session& session, Watch watch);
  Transaction& add_transaction(Session& session, std::uint32_t id);
  void drop_transaction(Session& session, Transaction& transaction);
  void drop_transactions(Session& session);
  void reset_session(Session& session);  // it stays open, with no watch and no transaction
  // Guests' transactions that keep too much of old trees alive are given up. To be called now and then, by
  // the count of changes; O(sessions and their transactions).
  void bound_versions();
  void give_up(Session& session, Transaction& transaction);

  // What a session may do with a node that has these permissions and this generation.
  std::uint8_t rights(const Session& session, const PermissionSet& permissions,
                      std::uint64_t generation) const;
  std::uint8_t rights(const Session& session, const Node& node) const {
    return session.privileged() ? std::uint8_t{kAllRights}
                                : rights(session, *node.permissions, node.generation);
  }
  // Permissions of a special event; null if there is no such event.
  Ref<PermissionSet>* special_permissions(std::string_view name);
  std::uint64_t digest() const;
  std::uint64_t fingerprint() const;
  // The node is what was written to `path`; if not, whoever wants to know is told.
  bool sound(std::string_view path, const Node& node);

  // A domain's own limit, or, for LimitChange::kEveryDomain, the global one and with it that of every domain
  // that has none of its own. kNoEntry: unknown domain; kInvalid: no such limit.
  ErrorCode set_limit(const LimitChange& change);

  Limits limits;                 // the global ones
  std::uint64_t generation = 0;  // last number given out; counts every change of any node
  std::uint64_t watch_sequence = 0;
  std::uint32_t introductions = 0;  // last number given to an INTRODUCE
  DomainTable domains{generation, limits};
  Tree tree;
  WatchIndex watches;
  std::vector<std::unique_ptr<Session>> sessions;  // by connection id
  Ref<PermissionSet> introduce_permissions;
  Ref<PermissionSet> release_permissions;
  // Not state: what became of a request that met a damaged node.
  bool damaged = false;
  Engine::DamageHandler on_damage;
  // Scratch space, no state: of the event code, and where a relative path is completed.
  std::vector<Watch*> matched;
  std::array<char, kMaxPayload + 64> resolved_path;
};

// Connection ids are small: the table of sessions is indexed by them.
inline constexpr ConnectionId kMaxConnections = 1U << 20;

// One request under execution.
struct Call {
  State& state;
  Session& session;
  Transaction* transaction;  // null outside transactions
  std::uint32_t type;
  std::string_view payload;
  Output& out;
  bool mutated = false;

  Tree& tree() const { return transaction != nullptr ? transaction->tree : state.tree; }
  Accounts& accounts() const;
  const Limits& limits() const { return session.domain->limits; }
  // `path` is one, and within the caller's limits. Domain 0 is bound by the protocol alone.
  bool is_allowed_path(std::string_view path) const;
  // Refuses, because `domain` would hold too much, and sees that the operator is told.
  ErrorCode out_of_memory(Domain& domain);
  void reply(std::span<const std::byte> bytes) const { out.reply(type, bytes); }
  void reply(std::string_view text) const { out.reply(type, as_bytes(text)); }
  void acknowledge() const;
};

// Answers the request through `call.out` and returns kNone, or returns the error to answer with.
using Handler = ErrorCode (*)(Call& call);
struct HandlerEntry {
  Handler handler = nullptr;  // null: ENOSYS
  bool privileged = false;    // for domain 0 only
  bool ignores_transaction = false;
};
extern const std::array<HandlerEntry, kTypeCount> kHandlers;

ErrorCode handle_directory(Call& call);
ErrorCode handle_directory_part(Call& call);
ErrorCode handle_read(Call& call);
ErrorCode handle_get_perms(Call& call);
ErrorCode handle_write(Call& call);
ErrorCode handle_mkdir(Call& call);
ErrorCode handle_rm(Call& call);
ErrorCode handle_set_perms(Call& call);
ErrorCode handle_watch(Call& call);
ErrorCode handle_unwatch(Call& call);
ErrorCode handle_reset_watches(Call& call);
ErrorCode handle_transaction_start(Call& call);
ErrorCode handle_transaction_end(Call& call);
ErrorCode handle_introduce(Call& call);
ErrorCode handle_release(Call& call);
ErrorCode handle_resume(Call& call);
ErrorCode handle_set_target(Call& call);
ErrorCode handle_get_domain_path(Call& call);
ErrorCode handle_is_domain_introduced(Call& call);
ErrorCode handle_control(Call& call);
ErrorCode handle_get_feature(Call& call);
ErrorCode handle_set_feature(Call& call);
ErrorCode handle_get_quota(Call& call);
ErrorCode handle_set_quota(Call& call);

// `name`, completed with the caller's /local/domain/<domid>/ if it is relative. Not validated.
std::string_view resolve(Call& call, std::string_view name);
std::string domain_path(std::uint32_t domid);

// Records in the call's transaction, if any, that it relied on or changed `path`. Fails, and dooms the
// transaction, at the caller's limits.
ErrorCode note(Call& call, std::string_view path, std::uint8_t flags);

// An introduced domain that is not domain 0 is gone: with it what it owns, and what was granted to it.
void end_introduced(State& state, Domain& domain, Output& out);

Status check_state(const State& state);

}  // namespace bulkhead::xenstore::core
