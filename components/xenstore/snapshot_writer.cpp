#include <algorithm>
#include <deque>
#include <map>

#include "components/xenstore/snapshot.h"
#include "components/xenstore/snapshot_format.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore {
namespace core {
namespace {

void write_permissions(RecordWriter& record, const PermissionSet& permissions) {
  record.number(permissions.size);
  for (const Permission& entry : permissions.view()) {
    record.number(entry.domid).number(entry.rights).number(entry.ignored);
  }
}

void write_counters(RecordWriter& record, const State& state) {
  record.begin(RecordType::kCounters);
  record.number(state.generation).number(state.watch_sequence).number(state.introductions);
  for (const Quota& quota : all_quotas()) record.number(state.limits.*quota.limit);
  record.end();
}

void write_special(RecordWriter& record, std::string_view name, const PermissionSet& permissions) {
  record.begin(RecordType::kSpecialPermissions);
  record.text(name);
  write_permissions(record, permissions);
  record.end();
}

void write_domain(RecordWriter& record, const Domain& domain) {
  record.begin(RecordType::kDomain);
  auto flags = static_cast<std::uint32_t>((domain.introduced ? 1 : 0) | (domain.shut_down ? 2 : 0) |
                                          (domain.ended ? 4 : 0) | (domain.target ? 8 : 0) |
                                          (domain.soft_warned ? 16 : 0) | (domain.hard_warned ? 32 : 0));
  record.number(domain.domid).number(flags).number(domain.target.value_or(0)).number(domain.port);
  record.number(domain.mfn).number(domain.generation).number(domain.introduction);
  record.number(domain.features).number(domain.own_limits);
  for (std::size_t i = 0; i < all_quotas().size(); ++i) {
    if ((domain.own_limits >> i & 1U) != 0) record.number(domain.limits.*all_quotas()[i].limit);
  }
  record.end();
}

void write_sessions(RecordWriter& record, const State& state) {
  std::vector<const Watch*> watches;
  for (const auto& session : state.sessions) {
    if (!session) continue;
    record.begin(RecordType::kConnection);
    record.number(session->id).number(session->domid).number(session->next_transaction_id);
    record.end();
    for (const auto& [sequence, watch] : session->watches) watches.push_back(&watch);
  }
  std::sort(watches.begin(), watches.end(), [](auto* a, auto* b) { return a->sequence < b->sequence; });
  for (const Watch* watch : watches) {
    record.begin(RecordType::kWatch);
    record.number(watch->connection).number(watch->sequence).number(watch->prefix);
    record.number(static_cast<std::uint32_t>(watch->depth)).text(watch->path).text(watch->token);
    record.end();
  }
}

void write_transaction(RecordWriter& record, const Session& session, const Transaction& transaction,
                       std::uint32_t base, std::uint32_t own) {
  record.begin(RecordType::kTransaction);
  record.number(session.id).number(transaction.id()).number(base).number(own);
  record.number((transaction.failed ? 1U : 0U) | (transaction.outlived ? 2U : 0U));
  record.end();
  for (const Access* access : transaction.accesses()) {
    record.begin(RecordType::kAccess);
    record.number(std::uint32_t{access->flags}).number(access->charged).text(access->path);
    record.end();
  }
}

// Writes one tree in slices: all nodes, or, given a reference tree, what differs from it. Whether a node
// differs is told by its generation alone, so that the bytes do not depend on what happens to be shared in
// memory.
class TreeWriter {
 public:
  TreeWriter(Tree tree, std::uint32_t index, const Tree* reference, std::uint32_t reference_index)
      : tree_(std::move(tree)),
        reference_(reference != nullptr ? *reference : tree_),
        full_(reference == nullptr),
        index_(index),
        reference_index_(reference_index) {}

  // Appends a little; true when the tree is complete.
  bool step(std::vector<std::byte>& out);
  const std::string& damage() const { return damage_; }

 private:
  struct Level {
    ChildCursor now;
    ChildCursor before;
    std::size_t parent_length;
  };
  void begin(RecordWriter& record);
  void visit(RecordWriter& record, const Node& now, const Node* before);
  void extend_path(const Level& level, std::string_view name);

  Tree tree_;
  Tree reference_;
  bool full_;
  std::uint32_t index_;
  std::uint32_t reference_index_;
  bool begun_ = false;
  std::string path_ = "/";
  std::vector<Level> levels_;
  std::uint64_t count_ = 0;
  std::uint64_t digest_ = 0;
  std::string damage_;
};

void TreeWriter::begin(RecordWriter& record) {
  begun_ = true;
  record.begin(RecordType::kTree);
  record.number(index_).number(full_ ? kNoTree : reference_index_).number(tree_.version());
  record.end();
  visit(record, tree_.root(), full_ ? nullptr : &reference_.root());
}

void TreeWriter::visit(RecordWriter& record, const Node& now, const Node* before) {
  if (before == nullptr || before->generation != now.generation) {
    if (node_hash(path_, now) != now.hash) damage_ = "damaged value or permissions of " + path_;
    ++count_;
    digest_ += now.hash;
    record.begin(RecordType::kNode);
    record.number(now.generation).number(now.data_generation).text(path_);
    write_permissions(record, *now.permissions);
    record.bytes(now.value());
    record.end();
  }
  if (before != nullptr && before->children.same_as(now.children)) return;
  levels_.push_back({ChildCursor(now.children),
                     before != nullptr ? ChildCursor(before->children) : ChildCursor(), path_.size()});
}

void TreeWriter::extend_path(const Level& level, std::string_view name) {
  path_.resize(level.parent_length);
  if (path_.size() > 1) path_ += '/';
  path_ += name;
}

bool TreeWriter::step(std::vector<std::byte>& out) {
  RecordWriter record(out);
  if (!begun_) {
    begin(record);
    return false;
  }
  if (levels_.empty()) {
    record.begin(RecordType::kTreeEnd);
    record.number(tree_.node_count()).number(tree_.digest());
    record.end();
    const bool as_counted = count_ == tree_.node_count() && digest_ == tree_.digest();
    if (full_ && !as_counted && damage_.empty()) damage_ = "the tree's nodes are not those counted";
    return true;
  }
  Level& level = levels_.back();
  if (level.now.done() && level.before.done()) {
    levels_.pop_back();
    return false;
  }
  const Node* now = level.now.done() ? nullptr : &level.now.node();
  const Node* before = level.before.done() ? nullptr : &level.before.node();
  if (now != nullptr && before != nullptr && now->name() != before->name()) {
    (now->name() < before->name() ? before : now) = nullptr;
  }
  if (now != nullptr) level.now.next();
  if (before != nullptr) level.before.next();
  if (now == before) return false;
  extend_path(level, now != nullptr ? now->name() : before->name());
  if (now != nullptr) {
    visit(record, *now, before);
  } else {
    record.begin(RecordType::kRemoval);
    record.text(path_);
    record.end();
  }
  return false;
}

}  // namespace
}  // namespace core

struct SnapshotWriter::State {
  explicit State(const core::State& state);
  void add_trees(const core::State& state);
  bool step(std::vector<std::byte>& out);
  void finish(std::vector<std::byte>& out);

  std::vector<std::byte> front;  // all that precedes the trees, then, once they are written, all that follows
  std::vector<std::byte> back;
  std::size_t sent = 0;
  std::deque<core::TreeWriter> trees;
  bool in_back = false;
  std::string damage;
};

SnapshotWriter::State::State(const core::State& state) {
  core::RecordWriter record(front);
  record.raw(as_bytes(core::kSnapshotMagic)).number(core::kSnapshotVersion);
  record.number(crc32c(front));
  core::write_counters(record, state);
  state.domains.for_each([&](const core::Domain& domain) { core::write_domain(record, domain); });
  core::write_special(record, core::kIntroduceEvent, *state.introduce_permissions);
  core::write_special(record, core::kReleaseEvent, *state.release_permissions);
  core::write_sessions(record, state);
  add_trees(state);
  core::RecordWriter last(back);
  last.begin(core::RecordType::kEnd);
  last.end();
}

// The current tree in full; every tree a transaction started from as its difference to that; every
// transaction's own tree as its difference to the one it started from.
void SnapshotWriter::State::add_trees(const core::State& state) {
  std::map<std::uint64_t, std::pair<std::uint32_t, const core::Tree*>> bases;
  trees.emplace_back(state.tree, 0, nullptr, core::kNoTree);
  bases[state.tree.version()] = {0, &state.tree};
  std::map<std::uint64_t, const core::Tree*> older;
  auto for_each_transaction = [&](auto function) {
    for (const auto& session : state.sessions) {
      if (!session) continue;
      for (const auto& [id, transaction] : session->transactions) function(*session, *transaction);
    }
  };
  for_each_transaction([&](const core::Session&, const core::Transaction& transaction) {
    if (!transaction.outlived) older.emplace(transaction.base.version(), &transaction.base);
  });
  std::uint32_t next = 1;
  for (const auto& [version, tree] : older) {
    if (!bases.try_emplace(version, next, tree).second) continue;
    trees.emplace_back(*tree, next++, &state.tree, 0);
  }
  core::RecordWriter record(back);
  for_each_transaction([&](const core::Session& session, const core::Transaction& transaction) {
    std::uint32_t base = transaction.outlived ? 0 : bases.at(transaction.base.version()).first;
    std::uint32_t own = base;
    if (!transaction.outlived && transaction.tree.version() != transaction.base.version()) {
      own = next++;
      trees.emplace_back(transaction.tree, own, &transaction.base, base);
    }
    core::write_transaction(record, session, transaction, base, own);
  });
}

bool SnapshotWriter::State::step(std::vector<std::byte>& out) {
  constexpr std::size_t kSlice = 4096;
  if (sent < front.size()) {
    std::size_t count = std::min(kSlice, front.size() - sent);
    auto from = front.begin() + static_cast<std::ptrdiff_t>(sent);
    out.insert(out.end(), from, from + static_cast<std::ptrdiff_t>(count));
    sent += count;
    return false;
  }
  if (!trees.empty()) {
    const bool complete = trees.front().step(out);
    if (damage.empty()) damage = trees.front().damage();
    if (complete) trees.pop_front();
    return false;
  }
  if (in_back) return true;
  in_back = true;
  front = std::move(back);
  sent = 0;
  return false;
}

SnapshotWriter::SnapshotWriter(const Engine& engine) : state_(std::make_unique<State>(*engine.state_)) {}
SnapshotWriter::~SnapshotWriter() = default;
SnapshotWriter::SnapshotWriter(SnapshotWriter&&) noexcept = default;
SnapshotWriter& SnapshotWriter::operator=(SnapshotWriter&&) noexcept = default;

const std::string& SnapshotWriter::damage() const {
  return state_->damage;
}

bool SnapshotWriter::step(std::size_t budget, std::vector<std::byte>& out) {
  constexpr std::size_t kVisit = 8;  // what comparing two nodes costs when nothing has to be written
  std::size_t spent = 0;
  while (spent < budget) {
    std::size_t before = out.size();
    if (state_->step(out)) return false;
    spent += std::max(out.size() - before, kVisit);
  }
  return true;
}

std::vector<std::byte> write_snapshot(const Engine& engine) {
  std::vector<std::byte> bytes;
  SnapshotWriter writer(engine);
  while (writer.step(1U << 20, bytes)) {
  }
  return bytes;
}

}  // namespace bulkhead::xenstore
