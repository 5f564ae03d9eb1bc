// TRANSACTION_START, TRANSACTION_END.
#include <algorithm>

#include "components/xenstore/events.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

// What is copied into the current tree gets new hashes there, which must not hide damage.
bool sound_changes(State& state, const Transaction& transaction) {
  if (state.tree.version() == transaction.base.version()) return true;
  return std::ranges::all_of(transaction.accesses(), [&](const Access* access) {
    const Node* node = (access->flags & kChanged) != 0 ? transaction.tree.find(access->path) : nullptr;
    return node == nullptr || state.sound(access->path, *node);
  });
}

// Each owner can hold what the transaction adds to its nodes: others may have added to them meanwhile.
ErrorCode check_owners(Call& call, const Transaction& transaction) {
  const Domain& caller = *call.session.domain;
  std::int64_t made = transaction.charges.nodes(caller.domid);
  if (made > 0 && exceeds(static_cast<std::uint64_t>(caller.nodes + made), caller.limits.nodes)) {
    return ErrorCode::kNoSpace;
  }
  Domain* full = nullptr;
  transaction.charges.for_each([&](std::uint32_t domid, std::int64_t, std::int64_t bytes) {
    Domain* domain = call.state.domains.find(domid);
    if (domain == nullptr || domid == 0 || (full != nullptr && full->domid < domid)) return;
    std::int64_t freed = domid == caller.domid ? transaction.memory() : 0;
    auto memory = static_cast<std::uint64_t>(domain->memory - freed + bytes);
    if (bytes > freed && exceeds(memory, domain->limits.memory)) full = domain;
  });
  return full != nullptr ? call.out_of_memory(*full) : ErrorCode::kNone;
}

ErrorCode check_commit(Call& call, const Transaction& transaction) {
  if (transaction.failed) return ErrorCode::kNoMemory;
  if (transaction.outlived) return ErrorCode::kAgain;
  ErrorCode error = call.session.privileged() ? ErrorCode::kNone : check_owners(call, transaction);
  if (error != ErrorCode::kNone) return error;
  if (transaction.conflicts_with(call.state.tree)) return ErrorCode::kAgain;
  return sound_changes(call.state, transaction) ? ErrorCode::kNone : ErrorCode::kIo;
}

void apply(State& state, const Transaction& transaction) {
  if (transaction.tree.version() == transaction.base.version()) return;
  if (state.tree.version() != transaction.base.version()) {
    transaction.merge_into(state.tree, state.generation, state.domains);
    return;
  }
  // Nothing else happened since it started: its tree is the new tree.
  state.tree = transaction.tree;
  transaction.charges.apply_to(state.domains);
}

void fire_deferred(State& state, const Transaction& transaction, Output& out) {
  for (const Access* access : transaction.accesses()) {
    if ((access->flags & kFiresEvent) == 0) continue;
    const bool subtree = (access->flags & kRemovedSubtree) != 0;
    if (!subtree && !state.watches.concerned(access->path)) continue;
    const Node* before = transaction.base.find(access->path);
    const Node* now = state.tree.find(access->path);
    if (before == nullptr && now == nullptr) continue;
    if (before != nullptr && subtree) {
      fire_below(state, access->path, *before, access->path, &transaction, out);
    }
    Change change{.path = access->path, .now = now};
    if (before != nullptr) {
      change.before = before->permissions.get();
      change.before_generation = before->generation;
    }
    fire(state, change, out);
  }
}

}  // namespace

ErrorCode handle_transaction_start(Call& call) {
  if (call.transaction != nullptr) return ErrorCode::kBusy;
  Session& session = call.session;
  if (!session.privileged() && exceeds(static_cast<std::uint64_t>(session.domain->transactions) + 1,
                                       session.domain->limits.transactions)) {
    return ErrorCode::kNoSpace;
  }
  // Ids count up for each connection; 0 means no transaction, and an id may still be open after a wrap.
  std::uint32_t id;
  do {
    id = session.next_transaction_id++;
  } while (id == 0 || session.transactions.contains(id));
  call.state.add_transaction(session, id);
  call.mutated = true;
  std::string text = std::to_string(id);
  call.reply(std::string_view(text.c_str(), text.size() + 1));
  return ErrorCode::kNone;
}

ErrorCode handle_transaction_end(Call& call) {
  auto verdict = only_argument(call.payload);
  if (verdict != "T" && verdict != "F") return ErrorCode::kInvalid;
  if (call.transaction == nullptr) return ErrorCode::kNoEntry;
  Transaction& transaction = *call.transaction;
  call.transaction = nullptr;
  call.mutated = true;
  ErrorCode error = ErrorCode::kNone;
  if (verdict == "T") {
    error = check_commit(call, transaction);
    if (error == ErrorCode::kNone) {
      apply(call.state, transaction);
      fire_deferred(call.state, transaction, call.out);
    }
  }
  call.state.drop_transaction(call.session, transaction);
  if (error == ErrorCode::kNone) call.acknowledge();
  return error;
}

}  // namespace bulkhead::xenstore::core
