#include <algorithm>
#include <utility>

#include "components/xenstore/snapshot.h"
#include "components/xenstore/snapshot_format.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore {
namespace core {
namespace {

std::unexpected<Error> damaged(std::string message) {
  return failure(ErrorKind::kInvalid, std::move(message));
}

// Builds a state from records. Every field is checked before it is used: bytes that pass their CRC may still
// be forged.
class SnapshotReader {
 public:
  SnapshotReader() : state_(std::make_unique<State>(Limits{})) { state_->domains.get(0); }

  Result<std::unique_ptr<State>> read(std::span<const std::byte> bytes, const std::function<void()>& pause);

 private:
  Status read_record(RecordType type, FieldReader& fields);
  Status read_counters(FieldReader& fields);
  Status read_domain(FieldReader& fields);
  static Status read_own_limits(FieldReader& fields, Domain& domain);
  Status read_special(FieldReader& fields);
  Status read_connection(FieldReader& fields);
  Status read_watch(FieldReader& fields);
  Status read_tree(FieldReader& fields);
  Status read_node(FieldReader& fields);
  Status read_removal(FieldReader& fields);
  Status read_tree_end(FieldReader& fields);
  Status read_transaction(FieldReader& fields);
  Status read_access(FieldReader& fields);
  Result<Ref<PermissionSet>> read_permissions(FieldReader& fields);
  Accounts& tree_accounts() {
    if (trees_.size() == 1) return state_->domains;
    return *charges_.back();
  }

  std::unique_ptr<State> state_;
  std::vector<Tree> trees_;
  std::vector<std::unique_ptr<PendingCharges>> charges_;  // of each tree against its reference
  bool counters_read_ = false;
  bool tree_open_ = false;
  bool ended_ = false;
  Ref<PermissionSet> last_permissions_;
  Session* session_ = nullptr;          // of transaction_
  Transaction* transaction_ = nullptr;  // the one whose accesses are being read
};

Result<Ref<PermissionSet>> SnapshotReader::read_permissions(FieldReader& fields) {
  constexpr std::size_t kEntrySize = 6;
  auto count = fields.number<std::uint32_t>();
  if (count == 0 || count > fields.left() / kEntrySize) return damaged("impossible number of permissions");
  std::vector<Permission> entries(count);
  for (Permission& entry : entries) {
    entry.domid = fields.number<std::uint32_t>();
    entry.rights = fields.number<std::uint8_t>();
    entry.ignored = fields.number<std::uint8_t>();
    if (entry.rights > (kMayRead | kMayWrite) || entry.ignored > 1) return damaged("impossible permission");
  }
  // Only a transaction's trees may hold nodes of a domain that has been released since.
  std::uint32_t owner = entries.front().domid;
  bool known = trees_.size() > 1 ? owner < kFirstReservedDomain : state_->domains.find(owner) != nullptr;
  if (!known) return damaged("owner is an unknown domain");
  // Most nodes have their parent's permissions: keep one copy.
  bool same = last_permissions_ && std::ranges::equal(last_permissions_->view(), entries);
  if (!same) last_permissions_ = PermissionSet::make(entries);
  return last_permissions_;
}

Status SnapshotReader::read_counters(FieldReader& fields) {
  if (counters_read_) return damaged("a second time");
  counters_read_ = true;
  state_->generation = fields.number<std::uint64_t>();
  state_->watch_sequence = fields.number<std::uint64_t>();
  state_->introductions = fields.number<std::uint32_t>();
  // No store lives long enough to count so far; one that began there would wrap, and take an old node for a
  // new one.
  constexpr std::uint64_t kCeiling = std::uint64_t{1} << 62;
  if (state_->generation > kCeiling || state_->watch_sequence > kCeiling)
    return damaged("impossible counter");
  for (const Quota& quota : all_quotas()) {
    state_->limits.*quota.limit = fields.number<std::uint32_t>();
    if (state_->limits.*quota.limit > INT32_MAX) return damaged("impossible limit");
  }
  state_->domains.reset(state_->domains.get(0));
  return {};
}

Status SnapshotReader::read_domain(FieldReader& fields) {
  auto domid = fields.number<std::uint32_t>();
  auto flags = fields.number<std::uint32_t>();
  auto target = fields.number<std::uint32_t>();
  if (domid >= kFirstReservedDomain || target >= kFirstReservedDomain || flags > 63) {
    return damaged("impossible domain");
  }
  Domain& domain = state_->domains.get(domid);
  domain.introduced = (flags & 1) != 0;
  domain.shut_down = (flags & 2) != 0;
  domain.ended = (flags & 4) != 0;
  if ((flags & 8) != 0) domain.target = target;
  domain.soft_warned = (flags & 16) != 0;
  domain.hard_warned = (flags & 32) != 0;
  domain.port = fields.number<std::uint32_t>();
  domain.mfn = fields.number<std::uint64_t>();
  domain.generation = fields.number<std::uint64_t>();
  domain.introduction = fields.number<std::uint32_t>();
  if (domain.generation > state_->generation || domain.introduction > state_->introductions) {
    return damaged("impossible generation");
  }
  return read_own_limits(fields, domain);
}

Status SnapshotReader::read_own_limits(FieldReader& fields, Domain& domain) {
  domain.features = fields.number<std::uint32_t>();
  domain.own_limits = fields.number<std::uint32_t>();
  if ((domain.features & ~kServerFeatures) != 0 || domain.own_limits >> all_quotas().size() != 0) {
    return damaged("unknown features or limits");
  }
  for (std::size_t i = 0; i < all_quotas().size(); ++i) {
    if ((domain.own_limits >> i & 1U) == 0) continue;
    std::uint32_t& limit = domain.limits.*all_quotas()[i].limit;
    limit = fields.number<std::uint32_t>();
    if (limit > INT32_MAX) return damaged("impossible limit");
  }
  return {};
}

Status SnapshotReader::read_special(FieldReader& fields) {
  Ref<PermissionSet>* special = state_->special_permissions(fields.text());
  if (special == nullptr) return damaged("unknown name");
  auto permissions = read_permissions(fields);
  if (!permissions) return forward(std::move(permissions));
  *special = std::move(*permissions);
  return {};
}

Status SnapshotReader::read_connection(FieldReader& fields) {
  auto id = fields.number<std::uint32_t>();
  auto domid = fields.number<std::uint32_t>();
  auto next_transaction_id = fields.number<std::uint32_t>();
  if (id >= kMaxConnections || state_->session(id) != nullptr) return damaged("impossible or repeated id");
  if (state_->domains.find(domid) == nullptr) return damaged("unknown domain");
  state_->open_session(id, domid).next_transaction_id = next_transaction_id;
  return {};
}

Status SnapshotReader::read_watch(FieldReader& fields) {
  Watch watch;
  watch.connection = fields.number<std::uint32_t>();
  watch.sequence = fields.number<std::uint64_t>();
  watch.prefix = fields.number<std::uint32_t>();
  watch.depth = static_cast<std::int32_t>(fields.number<std::uint32_t>());
  watch.path = fields.text();
  watch.token = fields.text();
  Session* session = state_->session(watch.connection);
  if (session == nullptr) return damaged("unknown connection");
  bool valid_path = is_special(watch.path)
                        ? watch.path.size() <= kMaxRelativePath && !watch.path.contains('\0')
                        : is_path(watch.path);
  std::string home = domain_path(session->domid) + '/';
  bool valid_prefix = watch.prefix == 0 || (watch.prefix == home.size() && watch.path.starts_with(home));
  if (!valid_path || !valid_prefix || watch.token.contains('\0') || watch.depth < -1)
    return damaged("impossible");
  bool in_order = watch.sequence <= state_->watch_sequence &&
                  (session->watches.empty() || watch.sequence > session->watches.rbegin()->first);
  if (!in_order) return damaged("out of order");
  if (state_->watches.find(watch.connection, watch.path, watch.token) != nullptr) return damaged("repeated");
  state_->add_watch(*session, std::move(watch));
  return {};
}

Status SnapshotReader::read_tree(FieldReader& fields) {
  auto index = fields.number<std::uint32_t>();
  auto reference = fields.number<std::uint32_t>();
  auto version = fields.number<std::uint64_t>();
  if (tree_open_ || index != trees_.size() || version > state_->generation) return damaged("impossible");
  if (index == 0 ? reference != kNoTree : reference >= trees_.size())
    return damaged("unknown reference tree");
  if (index == 0) {
    trees_.emplace_back();
    state_->charge_root();
  } else {
    trees_.push_back(trees_[reference]);
  }
  trees_.back().set_version(version);
  charges_.push_back(std::make_unique<PendingCharges>(state_->domains));
  tree_open_ = true;
  return {};
}

Status SnapshotReader::read_node(FieldReader& fields) {
  if (!tree_open_) return damaged("outside of a tree");
  NodeContent content{};
  content.generation = fields.number<std::uint64_t>();
  content.data_generation = fields.number<std::uint64_t>();
  std::string_view path = fields.text();
  auto permissions = read_permissions(fields);
  if (!permissions) return forward(std::move(permissions));
  content.permissions = std::move(*permissions);
  content.value = fields.bytes();
  if (!is_path(path) || content.value.size() > kMaxPayload || !fields.complete())
    return damaged("impossible");
  if (content.generation > state_->generation || content.data_generation > content.generation) {
    return damaged("impossible generation of " + std::string(path));
  }
  if (trees_.back().find(parent_path(path)) == nullptr) return damaged("no parent of " + std::string(path));
  trees_.back().restore(path, content, tree_accounts());
  return {};
}

Status SnapshotReader::read_removal(FieldReader& fields) {
  std::string_view path = fields.text();
  if (!tree_open_ || trees_.size() == 1) return damaged("outside of a tree that can have one");
  if (!is_path(path) || path == "/") return damaged("impossible path");
  if (trees_.back().find(path) == nullptr) return damaged("nothing at " + std::string(path));
  trees_.back().cut(path, tree_accounts());
  return {};
}

Status SnapshotReader::read_tree_end(FieldReader& fields) {
  auto count = fields.number<std::uint64_t>();
  auto digest = fields.number<std::uint64_t>();
  if (!tree_open_) return damaged("outside of a tree");
  if (count != trees_.back().node_count() || digest != trees_.back().digest()) {
    return damaged("the nodes read are not those counted");
  }
  tree_open_ = false;
  return {};
}

Status SnapshotReader::read_transaction(FieldReader& fields) {
  auto connection = fields.number<std::uint32_t>();
  auto id = fields.number<std::uint32_t>();
  auto base = fields.number<std::uint32_t>();
  auto own = fields.number<std::uint32_t>();
  auto fate = fields.number<std::uint32_t>();
  session_ = state_->session(connection);
  if (session_ == nullptr) return damaged("unknown connection");
  if (base >= trees_.size() || own >= trees_.size()) return damaged("unknown tree");
  if (id == 0 || fate > 3 || session_->transactions.contains(id)) return damaged("impossible or repeated");
  transaction_ = &state_->add_transaction(*session_, id);
  transaction_->base = trees_[base];
  transaction_->tree = trees_[own];
  transaction_->failed = (fate & 1) != 0;
  if (own != base) transaction_->charges.add(*charges_[own]);
  if ((fate & 2) != 0) transaction_->let_go();
  return {};
}

Status SnapshotReader::read_access(FieldReader& fields) {
  auto flags = fields.number<std::uint32_t>();
  auto charged = fields.number<std::uint32_t>();
  std::string_view path = fields.text();
  if (transaction_ == nullptr) return damaged("outside of a transaction");
  bool removes_root = path == "/" && (flags & kRemovedSubtree) != 0;
  if (!is_path(path) || removes_root || flags >= 2 * kFiresEvent || charged > kMaxRecord)
    return damaged("impossible");
  if (transaction_->knows(path)) return damaged("repeated: " + std::string(path));
  std::int64_t before = transaction_->memory();
  transaction_->note(path, static_cast<std::uint8_t>(flags));
  transaction_->charge(path, charged);
  state_->domains.add_memory(*session_->domain, transaction_->memory() - before);
  return {};
}

Status SnapshotReader::read_record(RecordType type, FieldReader& fields) {
  if (type != RecordType::kCounters && !counters_read_) return damaged("before the counters");
  switch (type) {
    case RecordType::kCounters:
      return read_counters(fields);
    case RecordType::kDomain:
      return read_domain(fields);
    case RecordType::kSpecialPermissions:
      return read_special(fields);
    case RecordType::kConnection:
      return read_connection(fields);
    case RecordType::kWatch:
      return read_watch(fields);
    case RecordType::kTree:
      return read_tree(fields);
    case RecordType::kNode:
      return read_node(fields);
    case RecordType::kRemoval:
      return read_removal(fields);
    case RecordType::kTreeEnd:
      return read_tree_end(fields);
    case RecordType::kTransaction:
      return read_transaction(fields);
    case RecordType::kAccess:
      return read_access(fields);
    case RecordType::kEnd:
      ended_ = true;
      return {};
  }
  return damaged("unknown type");
}

Result<std::unique_ptr<State>> SnapshotReader::read(std::span<const std::byte> bytes,
                                                    const std::function<void()>& pause) {
  constexpr std::uint64_t kBetweenPauses = 4096;
  std::size_t size = bytes.size();
  if (Status ok = check_file_header(bytes); !ok) return forward(std::move(ok));
  for (std::uint64_t records = 1; !ended_; ++records) {
    if (pause && records % kBetweenPauses == 0) pause();
    std::string where = "record at byte " + std::to_string(size - bytes.size());
    auto record = next_record(bytes);
    if (!record) return forward(std::move(record), where);
    auto [type, payload] = *record;
    if ((type & kOptionalRecord) != 0) continue;
    FieldReader fields(payload);
    Status ok = read_record(static_cast<RecordType>(type), fields);
    if (ok && !fields.complete()) ok = damaged("its fields do not fill it");
    if (!ok) return forward(std::move(ok), where + ", type " + std::to_string(type));
  }
  if (!bytes.empty()) return damaged("bytes after the end record");
  if (trees_.empty() || tree_open_) return damaged("the tree is missing or incomplete");
  state_->tree = trees_.front();
  return std::move(state_);
}

}  // namespace

Status check_file_header(std::span<const std::byte>& bytes) {
  constexpr std::size_t kSize = kSnapshotMagic.size() + 8;
  if (bytes.size() < kSize || as_text(bytes.first(kSnapshotMagic.size())) != kSnapshotMagic) {
    return damaged("this is no xenstore snapshot");
  }
  FieldReader fields(bytes.subspan(kSnapshotMagic.size(), 8));
  auto version = fields.number<std::uint32_t>();
  if (fields.number<std::uint32_t>() != crc32c(bytes.first(kSize - 4)))
    return damaged("wrong CRC of the file header");
  if (version != kSnapshotVersion) {
    return damaged("version " + std::to_string(version) + " is not supported, this program knows " +
                   std::to_string(kSnapshotVersion));
  }
  bytes = bytes.subspan(kSize);
  return {};
}

// Cuts the next record off `bytes`: its type and payload.
Result<std::pair<std::uint32_t, std::span<const std::byte>>> next_record(std::span<const std::byte>& bytes) {
  FieldReader head(bytes.first(std::min(bytes.size(), kRecordHead)));
  auto type = head.number<std::uint32_t>();
  auto length = head.number<std::uint32_t>();
  if (!head.complete() || length > kMaxRecord || length + kRecordTail > bytes.size() - kRecordHead) {
    return damaged("truncated, or an impossible length");
  }
  FieldReader tail(bytes.subspan(kRecordHead + length, kRecordTail));
  if (tail.number<std::uint32_t>() != crc32c(bytes.first(kRecordHead + length))) return damaged("wrong CRC");
  std::span<const std::byte> payload = bytes.subspan(kRecordHead, length);
  bytes = bytes.subspan(kRecordHead + length + kRecordTail);
  return std::pair{type, payload};
}

}  // namespace core

Result<Engine> read_snapshot(std::span<const std::byte> bytes, const std::function<void()>& pause) {
  core::SnapshotReader reader;
  auto state = reader.read(bytes, pause);
  if (!state) return forward(std::move(state), "cannot read the snapshot");
  return Engine(std::move(*state));
}

}  // namespace bulkhead::xenstore
