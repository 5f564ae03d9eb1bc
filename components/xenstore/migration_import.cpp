#include <algorithm>
#include <map>
#include <string_view>

#include "components/xenstore/migration_internal.h"

namespace bulkhead::xenstore::migration {
namespace {

using core::Domain;
using core::PermissionSet;
using core::Session;
using core::State;

// Ids a client may still use for a transaction that was lost with its xenstored must not be given to another
// one: new ones begin where no xenstored has ever come to.
constexpr std::uint32_t kFirstTransactionId = 1U << 30U;

// Warnings that are due at once are notes.
class Warnings final : public NoOutput {
 public:
  explicit Warnings(NoteList& notes) : notes_(notes) {}
  void quota_warning(const QuotaWarning& warning) override {
    notes_.add("domain " + std::to_string(warning.domid) + " is beyond its soft limit of memory");
  }

 private:
  NoteList& notes_;
};

std::uint8_t rights_of(char letter) {
  switch (letter) {
    case 'r':
      return core::kMayRead;
    case 'w':
      return core::kMayWrite;
    case 'b':
      return core::kMayRead | core::kMayWrite;
    default:
      return core::kNoRights;
  }
}

class Importer {
 public:
  using PortOf = std::function<std::uint32_t(const Ring&)>;

  Importer(const Stream& stream, const Limits& limits, const PortOf& port_of)
      : stream_(stream), limits_(limits), port_of_(port_of) {}
  Result<Import> run();

 private:
  void take_global_limits();
  void take_limit(Limits& limits, std::size_t quota, std::uint32_t value);
  void make_domains_known();
  void take_targets();
  void take_own_limits(const DomainData& data);
  Status connect(const Connection& connection);
  bool accepts(const Connection& connection);
  void take_watch(Session& session, const Watch& watch);
  void take_transactions(Session& session, const Connection& connection);
  void take_node(const Node& node);
  void take_special(const Node& node);
  core::Ref<PermissionSet> permissions_of(const Node& node);
  Domain& domain(std::uint32_t domid) { return state_->domains.get(domid); }

  const Stream& stream_;
  Limits limits_;
  const PortOf& port_of_;
  std::unique_ptr<State> state_;
  NoteList notes_;
  std::vector<Attachment> attachments_;
  std::map<std::uint16_t, std::uint32_t> rings_;  // domain to the stream's connection
  core::Ref<PermissionSet> last_permissions_;
};

// ---- limits ----

void Importer::take_limit(Limits& limits, std::size_t quota, std::uint32_t value) {
  limits.*all_quotas()[quota].limit = std::min(value, std::uint32_t{INT32_MAX});
}

void Importer::take_global_limits() {
  if (!stream_.quotas) return;
  for (const auto* list : {&stream_.quotas->of_domains, &stream_.quotas->of_all}) {
    for (const QuotaValue& value : *list) {
      if (const auto quota = find_quota(value.name)) {
        take_limit(limits_, *quota, value.value);
      } else {
        notes_.add("quota " + printable(value.name) + " is not known here");
      }
    }
  }
}

// What equals the global limit follows it.
void Importer::take_own_limits(const DomainData& data) {
  if (data.domid >= kFirstReservedDomain) {
    notes_.add("quotas of the impossible domain " + std::to_string(data.domid) + " are left out");
    return;
  }
  Domain& owner = domain(data.domid);
  if (stream_.version >= kVersion2) owner.features = data.features & core::kServerFeatures;
  for (const QuotaValue& value : data.quotas) {
    const auto quota = find_quota(value.name);
    if (!quota) continue;
    take_limit(owner.limits, *quota, value.value);
    const auto limit = all_quotas()[*quota].limit;
    if (owner.limits.*limit != limits_.*limit) owner.own_limits |= 1U << *quota;
  }
}

// ---- domains ----

// A permission that is not stale names a domain that existed. So all of these are older than any node, and
// what they were granted goes on to hold.
void Importer::make_domains_known() {
  domain(0).introduced = true;
  for (const auto& [domid, connection] : rings_) {
    Domain& introduced = domain(domid);
    introduced.introduced = true;
    if (domid != 0) introduced.introduction = ++state_->introductions;
  }
  for (const Node& node : stream_.nodes) {
    if (node.connection != 0) continue;
    for (const Permission& entry : node.permissions) {
      if (!entry.stale && entry.domid < kFirstReservedDomain) domain(entry.domid);
    }
  }
}

// A target lends its rights: one that is gone must lend none to whoever gets its id.
void Importer::take_targets() {
  for (const Connection& connection : stream_.connections) {
    const auto* ring = std::get_if<Ring>(&connection.end);
    if (ring == nullptr || !ring->target || !rings_.contains(ring->domid)) continue;
    const Domain* target = state_->domains.find(*ring->target);
    if (target != nullptr && target->introduced) {
      domain(ring->domid).target = target->domid;
    } else {
      notes_.add("domain " + std::to_string(ring->domid) + " acts for domain " +
                 std::to_string(*ring->target) + ", which is gone: not any more");
    }
  }
}

// ---- connections ----

bool Importer::accepts(const Connection& connection) {
  const std::string name = describe(connection.end);
  const auto* ring = std::get_if<Ring>(&connection.end);
  const auto* socket = std::get_if<Socket>(&connection.end);
  std::string_view why;
  if (ring != nullptr && ring->domid >= kFirstReservedDomain) why = "no domain has this id";
  if (ring != nullptr && why.empty() && !rings_.emplace(ring->domid, connection.id).second) {
    why = "it is there twice";
  }
  if (socket != nullptr && socket->descriptor < 0) why = "it has no descriptor";
  if (!is_whole_output(connection.output, connection.partial)) why = "its output is not whole messages";
  if (!is_possible_input(connection.input)) why = "its input has a message that is too long";
  if (why.empty()) return true;
  notes_.add(name + " is left out: " + std::string(why));
  return false;
}

Status Importer::connect(const Connection& connection) {
  if (attachments_.size() >= core::kMaxConnections) {
    return failure(ErrorKind::kExhausted,
                   "more than " + std::to_string(core::kMaxConnections) + " connections");
  }
  const auto* ring = std::get_if<Ring>(&connection.end);
  const auto id = static_cast<ConnectionId>(attachments_.size());
  Session& session = state_->open_session(id, ring != nullptr ? ring->domid : 0);
  if (ring != nullptr && ring->domid != 0 && port_of_) session.domain->port = port_of_(*ring);
  session.next_transaction_id = kFirstTransactionId;
  for (const Watch& watch : connection.watches) take_watch(session, watch);
  take_transactions(session, connection);
  attachments_.push_back({.id = id,
                          .end = connection.end,
                          .input = with_requests_reversed(connection.input),
                          .output = connection.output,
                          .partial = connection.partial,
                          .unique_id = connection.unique_id});
  return {};
}

void Importer::take_watch(Session& session, const Watch& watch) {
  const std::string home = core::domain_path(session.domid) + '/';
  const bool relative = !watch.path.starts_with('/') && !core::is_special(watch.path);
  core::Watch taken{.connection = session.id,
                    .sequence = state_->watch_sequence + 1,
                    .path = relative ? home + watch.path : watch.path,
                    .token = watch.token,
                    .prefix = static_cast<std::uint32_t>(relative ? home.size() : 0),
                    .depth = watch.depth ? std::int32_t{*watch.depth} : -1};
  const bool valid =
      core::is_special(taken.path) ? taken.path.size() <= kMaxRelativePath : is_path(taken.path);
  if (!valid || state_->watches.find(session.id, taken.path, taken.token) != nullptr) {
    notes_.add("a watch of domain " + std::to_string(session.domid) + " is left out, its path is " +
               (valid ? "watched already: " : "impossible: ") + printable(watch.path));
    return;
  }
  ++state_->watch_sequence;
  state_->add_watch(session, std::move(taken));
}

// Whether others have changed what it looked at is not in the stream: it can only be tried again.
void Importer::take_transactions(Session& session, const Connection& connection) {
  for (std::uint32_t id : connection.transactions) {
    state_->give_up(session, state_->add_transaction(session, id));
    session.next_transaction_id = std::max(session.next_transaction_id, id + 1);
    notes_.add(describe(connection.end) + ": transaction " + std::to_string(id) +
               " can only end with EAGAIN");
  }
}

// ---- nodes ----

core::Ref<PermissionSet> Importer::permissions_of(const Node& node) {
  std::vector<core::Permission> entries;
  entries.reserve(node.permissions.size());
  for (const Permission& entry : node.permissions) {
    const bool ignored = entry.stale || entry.domid >= kFirstReservedDomain;
    entries.push_back({.domid = entry.domid, .rights = rights_of(entry.access), .ignored = ignored});
  }
  core::Permission& owner = entries.front();
  if (owner.domid >= kFirstReservedDomain) {
    notes_.add(printable(node.path) + " belongs to domain " + std::to_string(owner.domid) +
               ", which is impossible: now to domain 0");
    owner.domid = 0;
  }
  owner.ignored = 0;
  // Most nodes have their parent's permissions: keep one copy.
  const bool same = last_permissions_ && std::ranges::equal(last_permissions_->view(), entries);
  if (!same) last_permissions_ = PermissionSet::make(entries);
  return last_permissions_;
}

void Importer::take_special(const Node& node) {
  core::Ref<PermissionSet>* special = state_->special_permissions(node.path);
  if (special == nullptr) {
    notes_.add("special event " + printable(node.path) + " is not known here");
    return;
  }
  *special = permissions_of(node);
}

void Importer::take_node(const Node& node) {
  if (node.connection != 0) return;  // as a transaction sees it
  if (core::is_special(node.path)) return take_special(node);
  std::string_view why;
  if (!is_path(node.path)) {
    why = "its path is impossible";
  } else if (node.value.size() > kMaxPayload) {
    why = "its value is longer than a message";
  } else if (state_->tree.find(parent_path(node.path)) == nullptr) {
    why = "it has no parent";
  }
  if (!why.empty()) {
    notes_.add("node " + printable(node.path) + " is left out: " + std::string(why));
    return;
  }
  if (state_->tree.find(node.path) != nullptr) {
    if (node.path != "/") notes_.add("node " + printable(node.path) + " is there twice: the latter counts");
    state_->tree.set_content(node.path, node.value, permissions_of(node), ++state_->generation,
                             state_->domains);
    return;
  }
  state_->tree.create(node.path, node.value, permissions_of(node), ++state_->generation, state_->domains);
}

Result<Import> Importer::run() {
  take_global_limits();
  state_ = std::make_unique<State>(limits_);
  std::vector<const Connection*> accepted;
  for (const Connection& connection : stream_.connections) {
    if (accepts(connection)) accepted.push_back(&connection);
  }
  make_domains_known();
  take_targets();
  for (const DomainData& data : stream_.domains) take_own_limits(data);
  state_->charge_root();
  for (const Connection* connection : accepted) {
    if (Status ok = connect(*connection); !ok) return forward(std::move(ok), "cannot import the stream");
  }
  for (const Node& node : stream_.nodes) take_node(node);
  Warnings warnings(notes_);
  state_->domains.settle(warnings);
  return Import{.engine = core::MigrationAccess::engine_of(std::move(state_)),
                .descriptors = stream_.descriptors,
                .connections = std::move(attachments_),
                .notes = notes_.take()};
}

}  // namespace

Result<Import> import_stream(const Stream& stream, const Limits& limits,
                             const std::function<std::uint32_t(const Ring&)>& port_of) {
  return Importer(stream, limits, port_of).run();
}

}  // namespace bulkhead::xenstore::migration
