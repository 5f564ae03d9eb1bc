#include <map>
#include <set>
#include <string_view>

#include "components/xenstore/migration_internal.h"

namespace bulkhead::xenstore::migration {
namespace {

using core::Domain;
using core::PermissionSet;
using core::Session;
using core::State;
using core::TreeWalk;

constexpr std::size_t kMaxInput = 0xFFFF;  // what the stream's field for its size can say

class Exporter {
 public:
  Exporter(const Engine& engine, const Destination& destination)
      : state_(core::MigrationAccess::state_of(engine)), destination_(destination) {}
  Result<Export> run(const std::vector<Attachment>& attachments);

 private:
  Status sort_attachments(const std::vector<Attachment>& attachments);
  void add_quotas();
  void add_rings();
  void add_rings_up_to(const Domain& domain);
  void add_ring(const Domain& domain);
  void add_connection(const std::variant<Ring, Socket>& end, const Attachment* attachment);
  void add_watches(const Session& session, Connection& connection);
  void add_transactions(const Session& session, Connection& connection);
  void add_domain_data(const Domain& domain);
  void add_special(std::string_view name, const PermissionSet& permissions);
  Status add_nodes();
  std::vector<Permission> permissions_of(std::string_view path, const PermissionSet& permissions);
  bool exists(std::uint32_t domid) const {
    if (domid >= kFirstReservedDomain) return false;
    return domid == 0 || !destination_.exists || destination_.exists(domid);
  }
  bool is_introduced(std::uint32_t domid) const {
    const Domain* domain = state_.domains.find(domid);
    return domain != nullptr && domain->introduced;
  }

  const State& state_;
  const Destination& destination_;
  Stream stream_;
  NoteList notes_;
  std::map<std::uint32_t, const Attachment*> rings_;  // by domain
  std::vector<const Attachment*> sockets_;
  std::set<std::uint32_t> reached_;  // domains whose ring is in the stream, or about to be
  std::set<std::uint32_t> in_stream_;
};

Status Exporter::sort_attachments(const std::vector<Attachment>& attachments) {
  std::set<ConnectionId> seen;
  for (const Attachment& attachment : attachments) {
    const std::string name = "connection " + std::to_string(attachment.id);
    const Session* session = state_.session(attachment.id);
    if (session == nullptr || !seen.insert(attachment.id).second) {
      return failure(ErrorKind::kInvalid, name + " is unknown or there twice");
    }
    if (!is_whole_output(attachment.output, attachment.partial)) {
      return failure(ErrorKind::kInvalid, "the output of " + name + " is not whole messages");
    }
    if (std::holds_alternative<Socket>(attachment.end)) {
      sockets_.push_back(&attachment);
    } else if (!session->domain->introduced || !rings_.emplace(session->domid, &attachment).second) {
      notes_.add(name + " is not handed over: domain " + std::to_string(session->domid) +
                 (session->domain->introduced ? " has another ring" : " is not introduced"));
    }
  }
  return {};
}

// ---- limits ----

// As newer xenstoreds call it.
std::string name_of(const Quota& quota) {
  return quota.limit == &Limits::permissions ? "node-permissions" : std::string(quota.name);
}

void Exporter::add_quotas() {
  GlobalQuotas& quotas = stream_.quotas.emplace();
  for (const Quota& quota : all_quotas()) {
    quotas.of_domains.push_back({.name = name_of(quota), .value = state_.limits.*quota.limit});
  }
}

void Exporter::add_domain_data(const Domain& domain) {
  const bool all_features = domain.features == core::kServerFeatures;
  if (domain.own_limits == 0 && (all_features || stream_.version < kVersion2)) return;
  DomainData& data = stream_.domains.emplace_back();
  data.domid = static_cast<std::uint16_t>(domain.domid);
  data.features = stream_.version < kVersion2 ? 0 : domain.features;
  for (std::size_t i = 0; i < all_quotas().size(); ++i) {
    const Quota& quota = all_quotas()[i];
    if ((domain.own_limits >> i & 1U) == 0) continue;
    data.quotas.push_back({.name = name_of(quota), .value = domain.limits.*quota.limit});
  }
}

// ---- connections ----

// Domain 0 first: the C xenstored makes its store when it meets domain 0's ring.
void Exporter::add_rings() {
  state_.domains.for_each([&](const Domain& domain) {
    if (domain.introduced) add_rings_up_to(domain);
  });
}

// The target's ring stands before that of who acts for it, or it would not be found.
void Exporter::add_rings_up_to(const Domain& domain) {
  std::vector<const Domain*> chain;
  const Domain* next = &domain;
  while (next != nullptr && next->introduced && reached_.insert(next->domid).second) {
    chain.push_back(next);
    next = next->target ? state_.domains.find(*next->target) : nullptr;
  }
  for (; !chain.empty(); chain.pop_back()) add_ring(*chain.back());
}

void Exporter::add_ring(const Domain& domain) {
  const auto found = rings_.find(domain.domid);
  const Attachment* const attachment = found == rings_.end() ? nullptr : found->second;
  Ring ring = attachment != nullptr ? std::get<Ring>(attachment->end) : Ring{};
  ring.domid = static_cast<std::uint16_t>(domain.domid);
  ring.target.reset();
  if (domain.target) ring.target = static_cast<std::uint16_t>(*domain.target);
  if (domain.target && !in_stream_.contains(*domain.target)) {
    notes_.add("domain " + std::to_string(domain.domid) + " acts for domain " +
               std::to_string(*domain.target) + ", which acts for it: this may be lost");
  }
  if (ring.port == 0) notes_.add(describe(ring) + " is not served, and will not be");
  add_connection(ring, attachment);
  add_domain_data(domain);
  in_stream_.insert(domain.domid);
}

void Exporter::add_connection(const std::variant<Ring, Socket>& end, const Attachment* attachment) {
  Connection& connection = stream_.connections.emplace_back();
  connection.id = static_cast<std::uint32_t>(stream_.connections.size());
  connection.end = end;
  if (attachment == nullptr) return;
  connection.unique_id = attachment->unique_id;
  connection.output = attachment->output;
  connection.partial = attachment->partial;
  if (is_possible_input(attachment->input) && attachment->input.size() <= kMaxInput) {
    connection.input = with_requests_reversed(attachment->input);
  } else {
    notes_.add(describe(end) + ": its input cannot be handed over, and is lost");
  }
  const Session& session = *state_.session(attachment->id);
  add_watches(session, connection);
  add_transactions(session, connection);
}

void Exporter::add_watches(const Session& session, Connection& connection) {
  for (const auto& [sequence, watch] : session.watches) {
    Watch& added = connection.watches.emplace_back();
    added.path = watch.path.substr(watch.prefix);
    added.token = watch.token;
    if (watch.depth < 0) continue;
    if (stream_.version >= kVersion2) {
      added.depth = static_cast<std::uint16_t>(watch.depth);
    } else {
      notes_.add("the watch of domain " + std::to_string(session.domid) + " on " + watch.path +
                 " loses its depth");
    }
  }
}

void Exporter::add_transactions(const Session& session, Connection& connection) {
  for (const auto& [id, transaction] : session.transactions) {
    connection.transactions.push_back(id);
    notes_.add(describe(connection.end) + ": transaction " + std::to_string(id) + " is open, and lost");
  }
}

// ---- nodes ----

std::vector<Permission> Exporter::permissions_of(std::string_view path, const PermissionSet& permissions) {
  constexpr std::string_view kLetters = "nrwb";
  std::vector<Permission> entries;
  for (const core::Permission& entry : permissions.view()) {
    const bool owner = entries.empty();
    std::uint32_t domid = entry.domid;
    if (owner && !is_introduced(domid)) {
      notes_.add(std::string(path) + " belongs to domain " + std::to_string(domid) +
                 ", which is not introduced: to domain 0 instead");
      domid = 0;
    }
    if (domid > 0xFFFF) {
      notes_.add(std::string(path) + ": the permission for domain " + std::to_string(domid) + " is left out");
      continue;
    }
    entries.push_back({.access = kLetters[entry.rights & 3U],
                       .stale = !owner && (entry.ignored != 0 || !exists(domid)),
                       .domid = static_cast<std::uint16_t>(domid)});
  }
  return entries;
}

void Exporter::add_special(std::string_view name, const PermissionSet& permissions) {
  Node& node = stream_.nodes.emplace_back();
  node.path = name;
  node.permissions = permissions_of(name, permissions);
}

Status Exporter::add_nodes() {
  add_special(core::kReleaseEvent, *state_.release_permissions);
  add_special(core::kIntroduceEvent, *state_.introduce_permissions);
  for (TreeWalk walk(state_.tree.root(), "/"); !walk.done(); walk.next()) {
    const core::Node& node = walk.node();
    if (core::node_hash(walk.path(), node) != node.hash) {
      return failure(ErrorKind::kFailed, "damaged value or permissions of " + std::string(walk.path()));
    }
    Node& added = stream_.nodes.emplace_back();
    added.path = walk.path();
    added.value.assign(node.value().begin(), node.value().end());
    added.permissions = permissions_of(walk.path(), *current_permissions(node, state_.domains));
  }
  return {};
}

Result<Export> Exporter::run(const std::vector<Attachment>& attachments) {
  stream_.version = destination_.version;
  stream_.descriptors = destination_.descriptors;
  Status ok = sort_attachments(attachments);
  if (ok) {
    add_quotas();
    add_rings();
    for (const Attachment* socket : sockets_) add_connection(socket->end, socket);
    ok = add_nodes();
  }
  if (!ok) return forward(std::move(ok), "cannot hand over");
  return Export{.stream = std::move(stream_), .notes = notes_.take()};
}

}  // namespace

Result<Export> export_engine(const Engine& engine, const std::vector<Attachment>& connections,
                             const Destination& destination) {
  return Exporter(engine, destination).run(connections);
}

}  // namespace bulkhead::xenstore::migration
