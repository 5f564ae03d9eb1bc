// The engine's self-check: everything that is kept in step incrementally, computed again from scratch.
#include <map>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

struct Usage {
  std::int64_t nodes = 0;
  std::int64_t watches = 0;
  std::int64_t transactions = 0;
  std::int64_t memory = 0;
  std::uint32_t connections = 0;
};
using UsageByDomain = std::map<std::uint32_t, Usage>;

std::unexpected<Error> damaged(std::string message) {
  return failure(ErrorKind::kFailed, std::move(message));
}

std::string at(std::string_view what, std::string_view path) {
  return std::string(what) + " of " + std::string(path);
}

// One tree against its own digest, count and generations. Adds up usage where wanted.
Status check_tree(const Tree& tree, std::uint64_t generation, UsageByDomain* usage) {
  std::uint64_t digest = 0;
  std::uint64_t count = 0;
  for (TreeWalk walk(tree.root(), "/"); !walk.done(); walk.next()) {
    const Node& node = walk.node();
    if (node.hash != node_hash(walk.path(), node))
      return damaged(at("damaged value or permissions", walk.path()));
    if (node.data_generation > node.generation || node.generation > generation) {
      return damaged(at("impossible generation", walk.path()));
    }
    if (!node.children.consistent()) return damaged(at("inconsistent children", walk.path()));
    digest += node.hash;
    ++count;
    if (usage == nullptr) continue;
    Usage& used = (*usage)[node.owner()];
    used.nodes += 1;
    used.memory += static_cast<std::int64_t>(record_size(node) + walk.path().size());
  }
  if (count != tree.node_count()) return damaged("the tree's node count is wrong");
  if (digest != tree.digest()) return damaged("the tree's digest is wrong");
  if (tree.version() > generation) return damaged("the tree is newer than the generation counter");
  return {};
}

Status check_session(const State& state, const Session& session, Usage& used) {
  used.connections += 1;
  for (const auto& [sequence, watch] : session.watches) {
    if (!state.watches.contains(watch)) return damaged("watch missing in the index: " + watch.path);
    if (watch.sequence != sequence) return damaged("watch filed under a wrong sequence: " + watch.path);
    used.watches += 1;
    used.memory += static_cast<std::int64_t>(watch.path.size() + watch.token.size());
  }
  for (const auto& [id, transaction] : session.transactions) {
    if (id != transaction->id()) return damaged("transaction filed under a wrong id");
    used.transactions += 1;
    used.memory += transaction->memory();
    for (const Tree* tree : {&transaction->base, &transaction->tree}) {
      if (Status ok = check_tree(*tree, state.generation, nullptr); !ok) {
        return forward(std::move(ok), "transaction " + std::to_string(id));
      }
    }
  }
  return {};
}

// A domain without limits of its own has the global ones.
bool limits_agree(const Limits& global, const Domain& domain) {
  for (std::size_t i = 0; i < all_quotas().size(); ++i) {
    const auto limit = all_quotas()[i].limit;
    bool own = (domain.own_limits >> i & 1U) != 0;
    if (!own && domain.limits.*limit != global.*limit) return false;
  }
  return true;
}

Status check_domain(const Domain& domain, const Usage& used) {
  std::string name = "domain " + std::to_string(domain.domid);
  if (domain.nodes != used.nodes) return damaged(name + ": wrong count of nodes");
  if (domain.watches != used.watches) return damaged(name + ": wrong count of watches");
  if (domain.transactions != used.transactions) return damaged(name + ": wrong count of transactions");
  if (domain.memory != used.memory) return damaged(name + ": wrong sum of memory");
  if (domain.soft_due() || domain.soft_over() || domain.hard_over()) {
    return damaged(name + ": a warning is due or stale");
  }
  if (domain.connections != used.connections) return damaged(name + ": wrong count of connections");
  return {};
}

}  // namespace

Status check_state(const State& state) {
  UsageByDomain usage;
  if (Status ok = check_tree(state.tree, state.generation, &usage); !ok) return ok;
  std::size_t watches = 0;
  for (const auto& session : state.sessions) {
    if (!session) continue;
    watches += session->watches.size();
    if (Status ok = check_session(state, *session, usage[session->domid]); !ok) return ok;
  }
  if (watches != state.watches.size()) return damaged("the watch index has entries no connection set");
  Status result;
  state.domains.for_each([&](const Domain& domain) {
    if (result) result = check_domain(domain, usage[domain.domid]);
    if (result && !limits_agree(state.limits, domain)) {
      result = damaged("domain " + std::to_string(domain.domid) + ": limits that are not the global ones");
    }
    usage.erase(domain.domid);
  });
  if (result && !usage.empty()) return damaged("nodes owned by an unknown domain");
  return result;
}

}  // namespace bulkhead::xenstore::core
