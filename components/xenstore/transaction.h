// A transaction: the tree it started from, its own tree, and which nodes it relied on or changed.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "components/xenstore/domains.h"
#include "components/xenstore/tree.h"

namespace bulkhead::xenstore::core {

// What a transaction did with one path.
enum AccessFlags : std::uint8_t {
  kReliedOnData = 1,      // on its value, permissions or absence
  kReliedOnChildren = 2,  // on its list of children
  kChanged = 4,           // created it or changed its value or permissions
  kRemovedSubtree = 8,    // removed it with everything below; may have been made anew since
  kFiresEvent = 16,       // watches on it or above fire at the commit
};

struct Access {
  std::string path;
  std::uint8_t flags = 0;
  std::uint32_t charged = 0;  // bytes of the node this transaction holds
};

// Changes of the domains' accounts that take effect at the commit.
class PendingCharges final : public Accounts {
 public:
  explicit PendingCharges(const DomainTable& domains) : domains_(domains) {}
  void charge(std::uint32_t domid, std::int64_t nodes, std::int64_t bytes) override;
  bool existed_at(std::uint32_t domid, std::uint64_t generation) const override {
    return domains_.existed_at(domid, generation);
  }
  std::int64_t nodes(std::uint32_t domid) const;
  std::int64_t bytes(std::uint32_t domid) const;
  void add(const PendingCharges& other);
  // Calls with domid, nodes and bytes of each change, by rising domid.
  template <typename Function>
  void for_each(Function function) const {
    for (const Change& change : changes_) function(change.domid, change.nodes, change.bytes);
  }
  void apply_to(DomainTable& domains) const;
  void clear() { changes_.clear(); }

 private:
  struct Change {
    std::uint32_t domid;
    std::int64_t nodes;
    std::int64_t bytes;
  };
  const Change* find(std::uint32_t domid) const;

  const DomainTable& domains_;
  std::vector<Change> changes_;  // by domid: the owners of what one transaction touches
};

// Isolation is by snapshot. A conflict is a path it relied on or changed that is not, in the current tree,
// what it was in the base: then nothing is applied. Children of one directory made by two transactions are no
// conflict.
class Transaction {
 public:
  Transaction(std::uint32_t id, const Tree& current, const DomainTable& domains)
      : base(current), tree(current), charges(domains), id_(id) {}
  Transaction(const Transaction&) = delete;
  Transaction& operator=(const Transaction&) = delete;

  std::uint32_t id() const { return id_; }

  // Adds flags to a path's entry, made if need be. True if anything is new.
  bool note(std::string_view path, std::uint8_t flags);
  // The bytes of `path`, which has an entry, that this transaction holds from now on.
  void charge(std::string_view path, std::uint32_t bytes);
  bool knows(std::string_view path) const { return index_.contains(path); }
  const Access* find(std::string_view path) const;

  // Lets go of its trees, and of all that it saw and did: nothing may look at them any more.
  void let_go();

  // In the order of first access.
  const std::vector<Access*>& accesses() const { return order_; }
  // Bytes held: its entries and the nodes it changed.
  std::int64_t memory() const { return memory_; }

  bool conflicts_with(const Tree& current) const;
  // Brings its changes into `current`, which must not conflict. `generation` is the engine's counter.
  void merge_into(Tree& current, std::uint64_t& generation, Accounts& accounts) const;

  Tree base;
  Tree tree;
  PendingCharges charges;
  bool failed = false;    // a limit was hit; it can only end with an error
  bool outlived = false;  // it was given up (State::bound_versions): it can only end as in a conflict

 private:
  struct Hash {
    using is_transparent = void;
    std::size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
  };
  std::vector<std::string_view> sorted(std::uint8_t flags) const;

  std::uint32_t id_;
  std::int64_t memory_ = 0;
  std::unordered_map<std::string_view, std::unique_ptr<Access>, Hash, std::equal_to<>> index_;
  std::vector<Access*> order_;
};

}  // namespace bulkhead::xenstore::core
