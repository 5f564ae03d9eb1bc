// A reference for the engine's tests: the same rules over plain maps, full copies and linear searches,
// written to be read.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::test {

struct ModelPermission {
  std::uint32_t domid;
  char letter;
  bool ignored;
};
using ModelPermissions = std::vector<ModelPermission>;

struct ModelNode {
  std::string value;
  ModelPermissions permissions;
  std::uint64_t generation = 0;
  std::uint64_t data_generation = 0;
};

// Orders paths as a walk over the tree meets them: component by component.
struct WalkOrder {
  bool operator()(const std::string& a, const std::string& b) const;
};
using ModelTree = std::map<std::string, ModelNode, WalkOrder>;

struct ModelWatch {
  ConnectionId connection;
  std::uint64_t sequence;
  std::string path;
  std::string token;
  std::size_t prefix;
  std::int64_t depth;
};

struct ModelAccess {
  std::string path = {};  // NOLINT(readability-redundant-member-init): lets designated initialisers omit it
  bool data = false;
  bool children = false;
  bool changed = false;
  bool removed = false;
  bool fires = false;
  std::int64_t charged = 0;
};

struct ModelTransaction {
  ModelTree base;
  ModelTree own;
  std::uint64_t base_version = 0;
  std::uint64_t own_version = 0;
  std::vector<ModelAccess> accesses;
  bool failed = false;
};

struct ModelConnection {
  std::uint32_t domid = 0;
  std::map<std::uint32_t, ModelTransaction> transactions;
  std::uint32_t next_transaction_id = 1;
};

struct ModelDomain {
  bool introduced = false;
  bool shut_down = false;
  bool ended = false;
  std::optional<std::uint32_t> target;
  std::uint64_t generation = 0;
  std::map<std::string, std::uint32_t> own_limits;
  unsigned features = 7;
  bool soft_warned = false;
  bool hard_warned = false;
};

class Model {
 public:
  explicit Model(const Limits& limits);

  void connect(ConnectionId id, std::uint32_t domid);
  void disconnect(ConnectionId id, Output& out);
  void domain_shut_down(std::uint32_t domid, Output& out);
  // All but the texts of CONTROL help and of the quota tables, which are answered with EINVAL.
  void execute(ConnectionId id, std::uint32_t type, std::string_view payload, std::uint32_t transaction,
               Output& out);

  std::int64_t nodes_of(std::uint32_t domid) const;
  std::int64_t memory_of(std::uint32_t domid) const;
  std::size_t watches_of(std::uint32_t domid) const;
  std::size_t transactions_of(std::uint32_t domid) const;
  // The value in force; the global one for a domain that is not known.
  std::uint32_t limit(std::uint32_t domid, const std::string& name) const;
  const ModelTree& tree() const { return tree_; }
  bool knows(std::uint32_t domid) const { return domains_.contains(domid); }

 private:
  using Code = ErrorCode;
  struct View;  // one request's tree, transaction and caller

  Code dispatch(View& view, std::uint32_t type, std::uint32_t transaction);
  Code find(View& view, std::optional<std::string_view> name, unsigned needed, bool children,
            std::string& path);
  Code note(View& view, const std::string& path, const ModelAccess& what);
  Code read_like(View& view, std::uint32_t type);
  Code directory_part(View& view);
  Code write(View& view, bool mkdir);
  Code create(View& view, const std::string& path, std::string_view value);
  Code overwrite(View& view, const std::string& path, std::string_view value);
  Code remove(View& view);
  Code set_permissions(View& view);
  Code watch(View& view);
  Code unwatch(View& view);
  Code reset_watches(View& view);
  Code start(View& view);
  Code end(View& view);
  Code introduce(View& view);
  Code release(View& view);
  Code set_target(View& view);
  Code resume(View& view);
  Code is_introduced(View& view);
  Code domain_path(View& view);
  Code control(View& view);
  Code control_quota(View& view, const std::vector<std::string_view>& words);
  Code only_domain(const View& view, std::uint32_t& domid) const;
  Code get_quota(View& view);
  Code set_quota(View& view);
  Code get_feature(View& view);
  Code set_feature(View& view);
  Code domain_named(std::string_view text, std::uint32_t& domid) const;
  Code out_of_memory(View& view, std::uint32_t domid);
  void settle(Output& out);
  bool is_above(std::uint32_t domid, const std::string& name, std::int64_t used) const;
  bool is_allowed_path(std::uint32_t domid, const std::string& path) const;
  bool far_below(std::uint32_t domid, const std::string& name, std::int64_t used) const;
  std::map<std::uint32_t, std::int64_t> memory() const;

  void know(std::uint32_t domid);
  bool introduced(std::uint32_t domid) const;
  void change(View& view, const std::string& path);
  void charge(View& view, const std::string& path);
  unsigned rights(std::uint32_t domid, const ModelPermissions& permissions, std::uint64_t generation) const;
  ModelPermissions aged(const ModelNode& node) const;
  bool conflicts(const ModelTransaction& transaction) const;
  void merge(const ModelTransaction& transaction);
  void fire(const std::string& path, const ModelTree& before, bool use_before, Output& out);
  void fire_below(const std::string& path, const ModelTree& before, const ModelTransaction* skip,
                  Output& out);
  void fire_special(const std::string& name, std::uint32_t domid, Output& out);
  void cut(ModelTree& tree, const std::string& path);
  void remove_owned(const std::string& path, Output& out);
  void forget_connections_state(std::uint32_t domid);
  std::int64_t record_size(const ModelTree& tree, const std::string& path) const;
  std::int64_t transaction_memory(const ModelTransaction& transaction) const;
  std::int64_t pending(const ModelTransaction& transaction, std::uint32_t domid, bool bytes) const;

  std::map<std::string, std::uint32_t> limits_;
  ModelTree tree_;
  std::uint64_t version_ = 0;
  std::uint64_t generation_ = 0;
  std::uint64_t sequence_ = 0;
  std::map<ConnectionId, ModelConnection> connections_;
  std::vector<ModelWatch> watches_;  // all, in the order of registration
  std::map<std::uint32_t, ModelDomain> domains_;
  std::map<std::string, ModelPermissions> special_;
};

}  // namespace bulkhead::xenstore::test
