// A transaction sees the tree it began from, so what others change meanwhile is kept in its old form. What
// guests' transactions keep in this way is bounded here.
#include <algorithm>
#include <map>
#include <tuple>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

// How many old nodes all guests' transactions may keep: this many times those of the tree, and of a small
// tree as if it had so many.
constexpr std::uint64_t kTimesTheTree = 2;
constexpr std::uint64_t kSmallTree = 50'000;

struct Kept {
  std::uint32_t domid;
  std::uint64_t version;  // of the tree it began from
  ConnectionId connection;
  std::uint32_t id;
  std::uint64_t nodes;  // at most: each change since has left one behind, and the tree had no more
  Session* session;
  Transaction* transaction;
};

// By domain, then the oldest first.
std::vector<Kept> kept_by_guests(const State& state) {
  std::vector<Kept> all;
  for (const auto& session : state.sessions) {
    if (!session || session->privileged()) continue;
    for (const auto& [id, transaction] : session->transactions) {
      if (transaction->outlived) continue;
      const Tree& base = transaction->base;
      const std::uint64_t nodes = std::min(state.generation - base.version(), base.node_count());
      all.push_back(
          {session->domid, base.version(), session->id, id, nodes, session.get(), transaction.get()});
    }
  }
  // To the last one in the same order, whatever the engine: which one goes is state.
  std::ranges::sort(all, {}, [](const Kept& kept) {
    return std::tuple(kept.domid, kept.version, kept.connection, kept.id);
  });
  return all;
}

struct Share {
  std::uint64_t nodes = 0;
  std::vector<const Kept*> oldest_last;
};

}  // namespace

// Of the domain that keeps most, its oldest transaction is given up, until it is little enough: nobody who
// keeps less is touched, however much others change.
void State::bound_versions() {
  const std::vector<Kept> all = kept_by_guests(*this);
  std::map<std::uint32_t, Share> shares;
  std::uint64_t total = 0;
  for (auto kept = all.rbegin(); kept != all.rend(); ++kept) {
    Share& share = shares[kept->domid];
    share.nodes += kept->nodes;
    share.oldest_last.push_back(&*kept);
    total += kept->nodes;
  }
  const std::uint64_t allowed = kTimesTheTree * std::max(tree.node_count(), kSmallTree);
  while (total > allowed) {
    Share& most =
        std::ranges::max_element(shares, {}, [](const auto& share) { return share.second.nodes; })->second;
    const Kept& oldest = *most.oldest_last.back();
    most.oldest_last.pop_back();
    most.nodes -= oldest.nodes;
    total -= oldest.nodes;
    give_up(*oldest.session, *oldest.transaction);
  }
}

// What it still reads is the tree as it is, and it can only end as in a conflict.
void State::give_up(Session& session, Transaction& transaction) {
  domains.add_memory(*session.domain, -transaction.memory());
  transaction.let_go();
}

}  // namespace bulkhead::xenstore::core
