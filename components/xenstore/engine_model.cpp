#include "components/xenstore/engine_model.h"

#include <algorithm>
#include <cctype>
#include <cerrno>
#include <cstdlib>

namespace bulkhead::xenstore::test {
namespace {

using std::string_view_literals::operator""sv;

constexpr unsigned kRead1 = 1;
constexpr unsigned kWrite1 = 2;
constexpr unsigned kOwn1 = 4;

std::vector<std::string> split(const std::string& path) {
  std::vector<std::string> parts;
  for (Components components(path); !components.done();) parts.emplace_back(components.next());
  return parts;
}

bool is_below(const std::string& path, const std::string& top) {
  return top == "/" ? path != "/" : path.starts_with(top + "/");
}
bool at_or_below(const std::string& path, const std::string& top) {
  return path == top || is_below(path, top);
}

std::string parent_of(const std::string& path) {
  return std::string(parent_path(path));
}

std::string home(std::uint32_t domid) {
  return "/local/domain/" + std::to_string(domid);
}

std::vector<std::string> children_of(const ModelTree& tree, const std::string& path) {
  std::vector<std::string> names;
  for (const auto& [other, node] : tree) {
    if (other != "/" && parent_of(other) == path) names.emplace_back(last_component(other));
  }
  std::sort(names.begin(), names.end());
  return names;
}

unsigned rights_of(char letter) {
  return letter == 'r' ? kRead1 : letter == 'w' ? kWrite1 : letter == 'b' ? kRead1 | kWrite1 : 0;
}

// In any base strtol() accepts, but without blanks.
std::optional<std::uint32_t> permission_domid(const std::string& text) {
  if (text.empty() || std::isspace(static_cast<unsigned char>(text[0])) != 0) return std::nullopt;
  errno = 0;
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 0);
  if (errno != 0 || end != text.c_str() + text.size()) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

std::optional<ModelPermissions> parse(std::string_view rest, std::size_t count) {
  ModelPermissions out;
  for (std::size_t i = 0; i < count; ++i) {
    std::string_view text = take_argument(rest).value_or("");
    if (text.size() < 2 || std::string_view("nrwb").find(text[0]) == std::string_view::npos)
      return std::nullopt;
    auto domid = permission_domid(std::string(text.substr(1)));
    if (!domid) return std::nullopt;
    out.push_back({*domid, text[0], *domid >= kFirstReservedDomain});
  }
  return out;
}

// What is no domain's number must not become one when it is cut to 32 bits.
std::uint32_t domid_of(std::string_view text) {
  std::int64_t number = leading_number(text);
  return number < 0 || number > UINT32_MAX ? UINT32_MAX : static_cast<std::uint32_t>(number);
}

bool is_number(std::string_view text) {
  return !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
}

// Newer xenstoreds have another name for one of them.
std::string quota_name(const std::string& name) {
  return name == "node-permissions" ? "permissions" : name;
}

class Silence : public Output {
 public:
  void reply(std::uint32_t, std::span<const std::byte>) override {}
  void event(ConnectionId, std::span<const std::byte>) override {}
};

void ok(Output& out, std::uint32_t type) {
  out.reply(type, as_bytes("OK\0"sv));
}

}  // namespace

bool WalkOrder::operator()(const std::string& a, const std::string& b) const {
  return split(a) < split(b);
}

struct Model::View {
  ConnectionId id;
  ModelConnection& caller;
  ModelTransaction* transaction;
  ModelTree& tree;
  std::string_view payload;
  std::uint32_t type;
  Output& out;
  bool privileged() const { return caller.domid == 0; }
};

Model::Model(const Limits& limits) {
  limits_ = {{"nodes", limits.nodes},
             {"watches", limits.watches},
             {"outstanding", limits.outstanding},
             {"memory", limits.memory},
             {"soft-memory", limits.memory_soft},
             {"transactions", limits.transactions},
             {"transaction-nodes", limits.transaction_nodes},
             {"permissions", limits.permissions},
             {"path-max", limits.path_max},
             {"path-depth", limits.path_depth},
             {"node-size", limits.node_size},
             {"undelivered", limits.undelivered}};
  const ModelPermissions nobody{{0, 'n', false}};
  domains_[0].introduced = true;
  tree_["/"] = {"", nobody, 1, 0};
  tree_["/tool"] = {"", nobody, 2, 1};
  tree_["/tool/xenstored"] = {"", nobody, 2, 2};
  generation_ = version_ = 2;
  special_["@introduceDomain"] = special_["@releaseDomain"] = nobody;
}

void Model::know(std::uint32_t domid) {
  if (!domains_.contains(domid)) domains_[domid].generation = generation_;
}

void Model::connect(ConnectionId id, std::uint32_t domid) {
  if (connections_.contains(id)) return;
  know(domid);
  connections_[id].domid = domid;
}

void Model::disconnect(ConnectionId id, Output& out) {
  if (!connections_.contains(id)) return;
  std::uint32_t domid = connections_[id].domid;
  std::erase_if(watches_, [&](const ModelWatch& watch) { return watch.connection == id; });
  connections_.erase(id);
  bool last = std::none_of(connections_.begin(), connections_.end(),
                           [&](auto& c) { return c.second.domid == domid; });
  if (last && domains_[domid].ended && nodes_of(domid) == 0) domains_.erase(domid);
  settle(out);
}

void Model::execute(ConnectionId id, std::uint32_t type, std::string_view payload, std::uint32_t transaction,
                    Output& out) {
  ModelConnection& caller = connections_.at(id);
  View view{id, caller, nullptr, tree_, payload, type, out};
  Code error = dispatch(view, type, transaction);
  if (error != Code::kNone) out.reply(kError, as_bytes(error_name(error)));
  settle(out);
}

Model::Code Model::dispatch(View& view, std::uint32_t type, std::uint32_t transaction) {
  bool known = type < kTypeCount && type != kWatchEvent && type != kError && type != 20;
  if (!known) return Code::kNotSupported;
  bool special = type == kIntroduce || type == kRelease || type == kIsDomainIntroduced || type == kResume ||
                 type == kSetTarget || type == kControl || type == kGetQuota || type == kSetQuota ||
                 type == kSetFeature;
  if (special && !view.privileged()) return Code::kAccess;
  bool outside = type == kWatch || type == kUnwatch || type >= kGetFeature;
  if (transaction != 0 && !outside) {
    auto found = view.caller.transactions.find(transaction);
    if (found == view.caller.transactions.end()) return Code::kNoEntry;
    View inside{view.id, view.caller, &found->second, found->second.own, view.payload, type, view.out};
    return type == kTransactionStart ? Code::kBusy
           : type == kTransactionEnd ? [&] {
               Code code = end(inside);
               if (code != Code::kInvalid) view.caller.transactions.erase(transaction);
               return code;
             }()
                                     : dispatch(inside, type, 0);
  }
  switch (type) {
    case kDirectory:
    case kRead:
    case kGetPerms:
      return read_like(view, type);
    case kDirectoryPart:
      return directory_part(view);
    case kWrite:
      return write(view, false);
    case kMkdir:
      return write(view, true);
    case kRm:
      return remove(view);
    case kSetPerms:
      return set_permissions(view);
    case kWatch:
      return watch(view);
    case kUnwatch:
      return unwatch(view);
    case kResetWatches:
      return reset_watches(view);
    case kTransactionStart:
      return start(view);
    case kTransactionEnd:
      return end(view);
    case kIntroduce:
      return introduce(view);
    case kRelease:
      return release(view);
    case kSetTarget:
      return set_target(view);
    case kResume:
      return resume(view);
    case kIsDomainIntroduced:
      return is_introduced(view);
    case kGetDomainPath:
      return domain_path(view);
    case kControl:
      return control(view);
    case kGetQuota:
      return get_quota(view);
    case kSetQuota:
      return set_quota(view);
    case kGetFeature:
      return get_feature(view);
    case kSetFeature:
      return set_feature(view);
    default:
      return Code::kNotSupported;
  }
}

unsigned Model::rights(std::uint32_t domid, const ModelPermissions& permissions,
                       std::uint64_t generation) const {
  if (domid == 0) return kRead1 | kWrite1 | kOwn1;
  std::optional<std::uint32_t> target = domains_.at(domid).target;
  if (permissions[0].domid == domid || permissions[0].domid == target) return kRead1 | kWrite1 | kOwn1;
  for (std::size_t i = 1; i < permissions.size(); ++i) {
    const ModelPermission& entry = permissions[i];
    if (entry.ignored || (entry.domid != domid && entry.domid != target)) continue;
    auto domain = domains_.find(entry.domid);
    if (domain != domains_.end() && domain->second.generation <= generation) return rights_of(entry.letter);
  }
  return rights_of(permissions[0].letter);
}

ModelPermissions Model::aged(const ModelNode& node) const {
  ModelPermissions permissions = node.permissions;
  for (std::size_t i = 1; i < permissions.size(); ++i) {
    auto domain = domains_.find(permissions[i].domid);
    if (domain == domains_.end() || domain->second.generation > node.generation)
      permissions[i].ignored = true;
  }
  return permissions;
}

std::int64_t Model::record_size(const ModelTree& tree, const std::string& path) const {
  const ModelNode& node = tree.at(path);
  std::size_t size = 24 + 8 * node.permissions.size() + node.value.size();
  for (const std::string& name : children_of(tree, path)) size += name.size() + 1;
  return static_cast<std::int64_t>(size);
}

std::int64_t Model::nodes_of(std::uint32_t domid) const {
  return std::count_if(tree_.begin(), tree_.end(),
                       [&](const auto& entry) { return entry.second.permissions[0].domid == domid; });
}

std::int64_t Model::transaction_memory(const ModelTransaction& transaction) const {
  std::int64_t bytes = 0;
  for (const ModelAccess& access : transaction.accesses) {
    bytes += static_cast<std::int64_t>(access.path.size()) + 24 + access.charged;
  }
  return bytes;
}

std::int64_t Model::memory_of(std::uint32_t domid) const {
  return memory()[domid];
}

// Of every domain, in one walk, since it is asked for after each request.
std::map<std::uint32_t, std::int64_t> Model::memory() const {
  std::map<std::uint32_t, std::int64_t> bytes;
  struct Above {
    const std::string* path;
    std::uint32_t owner;
  };
  std::vector<Above> way;
  for (const auto& [path, node] : tree_) {
    while (!way.empty() && !(*way.back().path == "/" ||
                             (path.starts_with(*way.back().path) && path[way.back().path->size()] == '/'))) {
      way.pop_back();
    }
    // Its name is in its parent's list of children.
    if (!way.empty()) bytes[way.back().owner] += static_cast<std::int64_t>(last_component(path).size()) + 1;
    std::uint32_t owner = node.permissions[0].domid;
    std::size_t own = 24 + 8 * node.permissions.size() + node.value.size() + path.size();
    bytes[owner] += static_cast<std::int64_t>(own);
    way.push_back({&path, owner});
  }
  for (const ModelWatch& watch : watches_) {
    auto size = static_cast<std::int64_t>(watch.path.size() + watch.token.size());
    bytes[connections_.at(watch.connection).domid] += size;
  }
  for (const auto& [id, connection] : connections_) {
    for (const auto& [number, transaction] : connection.transactions)
      bytes[connection.domid] += transaction_memory(transaction);
  }
  return bytes;
}

std::size_t Model::watches_of(std::uint32_t domid) const {
  return static_cast<std::size_t>(std::count_if(
      watches_.begin(), watches_.end(),
      [&](const ModelWatch& watch) { return connections_.at(watch.connection).domid == domid; }));
}

// What the transaction will add to the domain's nodes or bytes at its commit.
std::int64_t Model::pending(const ModelTransaction& transaction, std::uint32_t domid, bool bytes) const {
  std::int64_t sum = 0;
  for (const auto& [tree, sign] : {std::pair{&transaction.own, 1}, std::pair{&transaction.base, -1}}) {
    for (const auto& [path, node] : *tree) {
      if (node.permissions[0].domid != domid) continue;
      sum += sign * (bytes ? record_size(*tree, path) + static_cast<std::int64_t>(path.size()) : 1);
    }
  }
  return sum;
}

Model::Code Model::note(View& view, const std::string& path, const ModelAccess& what) {
  if (view.transaction == nullptr) return Code::kNone;
  auto& accesses = view.transaction->accesses;
  auto found =
      std::find_if(accesses.begin(), accesses.end(), [&](const ModelAccess& a) { return a.path == path; });
  if (found == accesses.end()) {
    if (!view.privileged()) {
      Code refused = Code::kNone;
      std::uint32_t domid = view.caller.domid;
      auto count = static_cast<std::int64_t>(accesses.size());
      if (is_above(domid, "transaction-nodes", count + 1)) refused = Code::kNoSpace;
      if (is_above(domid, "memory", memory_of(domid) + static_cast<std::int64_t>(path.size()))) {
        refused = out_of_memory(view, domid);
      }
      if (refused != Code::kNone) {
        view.transaction->failed = true;
        return refused;
      }
    }
    accesses.push_back({.path = path});
    found = accesses.end() - 1;
  }
  found->data |= what.data;
  found->children |= what.children;
  found->changed |= what.changed;
  found->removed |= what.removed;
  found->fires |= what.fires;
  return Code::kNone;
}

Model::Code Model::find(View& view, std::optional<std::string_view> name, unsigned needed, bool children,
                        std::string& path) {
  if (!name) return Code::kInvalid;
  path = std::string(*name);
  if (!path.starts_with('/') && !path.starts_with('@')) path = home(view.caller.domid) + "/" + path;
  if (!is_allowed_path(view.caller.domid, path)) return Code::kInvalid;
  if (Code error = note(view, path, {.data = true, .children = children}); error != Code::kNone) return error;
  auto found = view.tree.find(path);
  if (found != view.tree.end()) {
    unsigned have = rights(view.caller.domid, found->second.permissions, found->second.generation);
    return (have & needed) == needed ? Code::kNone : Code::kAccess;
  }
  if (view.privileged()) return Code::kNoEntry;
  std::string missing = path;
  while (!view.tree.contains(parent_of(missing))) missing = parent_of(missing);
  std::string nearest = parent_of(missing);
  for (const std::string& relied : {nearest, missing}) {
    if (Code error = note(view, relied, {.data = true}); error != Code::kNone) return error;
  }
  const ModelNode& node = view.tree.at(nearest);
  bool granted = (rights(view.caller.domid, node.permissions, node.generation) & needed) != 0;
  return granted ? Code::kNoEntry : Code::kAccess;
}

Model::Code Model::read_like(View& view, std::uint32_t type) {
  std::string path;
  Code error = find(view, only_argument(view.payload), kRead1, type == kDirectory, path);
  if (error != Code::kNone) return error;
  const ModelNode& node = view.tree.at(path);
  std::string text;
  if (type == kRead) text = node.value;
  if (type == kDirectory) {
    for (const std::string& name : children_of(view.tree, path)) text += name + '\0';
  }
  if (type == kGetPerms) {
    for (const ModelPermission& p : node.permissions) {
      text += p.letter + std::to_string(static_cast<std::int32_t>(p.domid)) + '\0';
    }
  }
  if (text.size() > kMaxPayload) return Code::kTooBig;
  view.out.reply(type, as_bytes(text));
  return Code::kNone;
}

Model::Code Model::directory_part(View& view) {
  if (count_arguments(view.payload) != 2) return Code::kInvalid;
  std::string_view rest = view.payload;
  auto name = take_argument(rest);
  auto offset = static_cast<std::size_t>(leading_number(*take_argument(rest)));
  std::string path;
  Code error = find(view, name, kRead1, true, path);
  if (error != Code::kNone) return error;
  std::string list;
  for (const std::string& child : children_of(view.tree, path)) list += child + '\0';
  std::string text = std::to_string(view.tree.at(path).generation) + '\0';
  while (offset < list.size()) {
    std::string next = list.substr(offset, list.find('\0', offset) + 1 - offset);
    if (text.size() + next.size() + 1 > kMaxPayload) break;
    text += next;
    offset += next.size();
  }
  if (offset >= list.size()) text += '\0';
  view.out.reply(kDirectoryPart, as_bytes(text));
  return Code::kNone;
}

// Gives the node a new generation, its stale permissions being marked first.
void Model::change(View& view, const std::string& path) {
  ModelNode& node = view.tree.at(path);
  node.permissions = aged(node);
  node.generation = ++generation_;
  (view.transaction != nullptr ? view.transaction->own_version : version_) = generation_;
}

void Model::charge(View& view, const std::string& path) {
  if (view.transaction == nullptr) return;
  const ModelNode& node = view.tree.at(path);
  for (ModelAccess& access : view.transaction->accesses) {
    if (access.path != path) continue;
    access.charged = static_cast<std::int64_t>(24 + 8 * node.permissions.size() + node.value.size());
  }
}

Model::Code Model::write(View& view, bool mkdir) {
  std::string_view rest = view.payload;
  auto name = mkdir ? only_argument(rest) : take_argument(rest);
  if (mkdir) rest = {};
  std::string path;
  Code error = find(view, name, kWrite1, false, path);
  if (error == Code::kNoEntry) {
    error = create(view, path, rest);
  } else if (error == Code::kNone && !mkdir) {
    error = overwrite(view, path, rest);
  }
  if (error == Code::kNone) ok(view.out, view.type);
  return error;
}

Model::Code Model::create(View& view, const std::string& path, std::string_view value) {
  std::vector<std::string> missing;
  for (std::string at = path; !view.tree.contains(at); at = parent_of(at))
    missing.insert(missing.begin(), at);
  std::string parent = parent_of(missing.front());
  ModelPermissions permissions = aged(view.tree.at(parent));
  std::uint32_t domid = view.caller.domid;
  if (domid != 0) {
    permissions[0].domid = domid;
    std::int64_t added = static_cast<std::int64_t>(missing.size());
    std::int64_t growth_pending = 0;
    if (view.transaction != nullptr) {
      added += pending(*view.transaction, domid, false);
      growth_pending = pending(*view.transaction, domid, true);
    }
    if (is_above(domid, "nodes", nodes_of(domid) + added)) return Code::kNoSpace;
    // What it would look like.
    ModelTree trial = view.tree;
    for (const std::string& made : missing)
      trial[made] = {made == path ? std::string(value) : "", permissions, 0, 0};
    std::int64_t growth = 0;
    if (trial.at(parent).permissions[0].domid == domid) {
      growth += static_cast<std::int64_t>(last_component(missing.front()).size()) + 1;
    }
    if (is_above(domid, "node-size", record_size(trial, parent) + 1)) return Code::kNoSpace;
    for (const std::string& made : missing) {
      if (is_above(domid, "node-size", record_size(trial, made) + 1)) return Code::kNoSpace;
      growth += record_size(trial, made) + static_cast<std::int64_t>(made.size());
    }
    if (is_above(domid, "memory", memory_of(domid) + growth_pending + growth))
      return out_of_memory(view, domid);
  }
  if (Code error = note(view, parent, {.data = true}); error != Code::kNone) return error;
  for (const std::string& made : missing) {
    ModelAccess what{.data = true, .changed = true, .fires = made == path};
    if (Code error = note(view, made, what); error != Code::kNone) return error;
  }
  for (const std::string& made : missing) {
    change(view, parent_of(made));
    view.tree[made] = {made == path ? std::string(value) : "", permissions, generation_, generation_};
    charge(view, made);
  }
  if (view.transaction == nullptr) fire(path, {}, false, view.out);
  return Code::kNone;
}

Model::Code Model::overwrite(View& view, const std::string& path, std::string_view value) {
  const ModelNode& node = view.tree.at(path);
  if (!view.privileged()) {
    std::int64_t growth =
        static_cast<std::int64_t>(value.size()) - static_cast<std::int64_t>(node.value.size());
    if (is_above(view.caller.domid, "node-size", record_size(view.tree, path) + growth + 1))
      return Code::kNoSpace;
    std::uint32_t owner = node.permissions[0].domid;
    std::int64_t used = memory_of(owner);
    if (view.transaction != nullptr) used += pending(*view.transaction, owner, true);
    if (owner != 0 && domains_.contains(owner) && growth > 0 && is_above(owner, "memory", used + growth)) {
      return out_of_memory(view, owner);
    }
  }
  if (Code error = note(view, path, {.changed = true, .fires = true}); error != Code::kNone) return error;
  change(view, path);
  ModelNode& changed = view.tree.at(path);
  changed.value = value;
  changed.data_generation = generation_;
  charge(view, path);
  if (view.transaction == nullptr) fire(path, {}, false, view.out);
  return Code::kNone;
}

void Model::cut(ModelTree& tree, const std::string& path) {
  std::erase_if(tree, [&](const auto& entry) { return at_or_below(entry.first, path); });
}

Model::Code Model::remove(View& view) {
  std::string path;
  Code error = find(view, only_argument(view.payload), kWrite1, false, path);
  if (error == Code::kNoEntry) {
    if (Code noted = note(view, parent_of(path), {.data = true}); noted != Code::kNone) return noted;
    if (!view.tree.contains(parent_of(path))) return error;
  } else if (error != Code::kNone) {
    return error;
  } else {
    if (path == "/") return Code::kInvalid;
    error = note(view, path, {.removed = true, .fires = true});
    if (error == Code::kNone) error = note(view, parent_of(path), {.data = true});
    if (error != Code::kNone) return error;
    ModelTree before = view.tree;
    change(view, parent_of(path));
    cut(view.tree, path);
    if (view.transaction == nullptr) {
      fire_below(path, before, nullptr, view.out);
      fire(path, before, true, view.out);
    }
  }
  ok(view.out, kRm);
  return Code::kNone;
}

Model::Code Model::set_permissions(View& view) {
  std::size_t arguments = count_arguments(view.payload);
  if (arguments < 2) return Code::kInvalid;
  if (is_above(view.caller.domid, "permissions", static_cast<std::int64_t>(arguments) - 1))
    return Code::kNoSpace;
  std::string_view rest = view.payload;
  std::string name(*take_argument(rest));
  auto permissions = parse(rest, arguments - 1);
  if (!permissions) return Code::kInvalid;
  if ((*permissions)[0].ignored) return Code::kNoEntry;
  auto know_all = [&] {
    for (ModelPermission& entry : *permissions) {
      if (entry.ignored) continue;
      if (view.privileged()) know(entry.domid);
      if (&entry != permissions->data() && !domains_.contains(entry.domid)) entry.ignored = true;
    }
  };
  if (name.starts_with('@')) {
    if (!special_.contains(name)) return Code::kInvalid;
    unsigned have = rights(view.caller.domid, special_[name], generation_);
    if ((have & (kWrite1 | kOwn1)) != (kWrite1 | kOwn1)) return Code::kAccess;
    bool same_owner = (*permissions)[0].domid == special_[name][0].domid;
    if (!view.privileged() && !same_owner) return Code::kNotPermitted;
    know_all();
    special_[name] = *permissions;
    ok(view.out, kSetPerms);
    return Code::kNone;
  }
  std::string path;
  Code error = find(view, name, kWrite1 | kOwn1, false, path);
  if (error != Code::kNone) return error;
  const ModelNode& node = view.tree.at(path);
  if (!view.privileged()) {
    std::uint32_t owner = node.permissions[0].domid;
    if ((*permissions)[0].domid != owner) return Code::kNotPermitted;
    std::int64_t growth = 8 * (static_cast<std::int64_t>(permissions->size()) -
                               static_cast<std::int64_t>(node.permissions.size()));
    if (is_above(view.caller.domid, "node-size", record_size(view.tree, path) + growth + 1))
      return Code::kNoSpace;
    std::int64_t used = memory_of(owner);
    if (view.transaction != nullptr) used += pending(*view.transaction, owner, true);
    if (owner != 0 && domains_.contains(owner) && growth > 0 && is_above(owner, "memory", used + growth)) {
      return out_of_memory(view, owner);
    }
  }
  if (Code noted = note(view, path, {.changed = true, .fires = true}); noted != Code::kNone) return noted;
  know_all();
  ModelTree before = view.tree;
  change(view, path);
  view.tree.at(path).permissions = *permissions;
  view.tree.at(path).data_generation = generation_;
  charge(view, path);
  if (view.transaction == nullptr) fire(path, before, true, view.out);
  ok(view.out, kSetPerms);
  return Code::kNone;
}

// ---- events ----

void Model::fire(const std::string& path, const ModelTree& before, bool use_before, Output& out) {
  for (const ModelWatch& watch : watches_) {
    if (watch.path.starts_with('@') || !at_or_below(path, watch.path)) continue;
    auto levels = static_cast<std::int64_t>(split(path).size() - split(watch.path).size());
    if (watch.depth >= 0 && levels > watch.depth) continue;
    std::uint32_t domid = connections_.at(watch.connection).domid;
    auto reads = [&](const ModelTree& tree, const std::string& at) {
      auto node = tree.find(at);
      return node != tree.end() &&
             (rights(domid, node->second.permissions, node->second.generation) & kRead1) != 0;
    };
    bool allowed = domid == 0 || (use_before && reads(before, path)) || reads(tree_, path) ||
                   reads(tree_, parent_of(path));
    if (!allowed) continue;
    out.event(watch.connection, as_bytes(path.substr(watch.prefix) + '\0' + watch.token + '\0'));
  }
}

void Model::fire_below(const std::string& path, const ModelTree& before, const ModelTransaction* skip,
                       Output& out) {
  std::vector<ModelWatch> below;
  for (const ModelWatch& watch : watches_) {
    if (is_below(watch.path, path)) below.push_back(watch);
  }
  std::stable_sort(below.begin(), below.end(),
                   [](const ModelWatch& a, const ModelWatch& b) { return split(a.path) < split(b.path); });
  for (const ModelWatch& watch : below) {
    auto node = before.find(watch.path);
    if (node == before.end()) continue;
    bool own =
        skip != nullptr && std::any_of(skip->accesses.begin(), skip->accesses.end(),
                                       [&](const ModelAccess& a) { return a.path == watch.path && a.fires; });
    if (own) continue;
    std::uint32_t domid = connections_.at(watch.connection).domid;
    const ModelNode& parent = before.at(parent_of(watch.path));
    bool allowed = (rights(domid, node->second.permissions, node->second.generation) & kRead1) != 0 ||
                   (rights(domid, parent.permissions, parent.generation) & kRead1) != 0;
    if (!allowed) continue;
    out.event(watch.connection, as_bytes(watch.path.substr(watch.prefix) + '\0' + watch.token + '\0'));
  }
}

void Model::fire_special(const std::string& name, std::uint32_t domid, Output& out) {
  std::string with_domain = name + "/" + std::to_string(domid);
  for (const ModelWatch& watch : watches_) {
    bool plain = watch.path == name && watch.depth < 0;
    bool detailed = (watch.path == name && watch.depth > 0) || watch.path == with_domain;
    if (!plain && !detailed) continue;
    if ((rights(connections_.at(watch.connection).domid, special_[name], generation_) & kRead1) == 0)
      continue;
    out.event(watch.connection, as_bytes((plain ? name : with_domain) + '\0' + watch.token + '\0'));
  }
}

// ---- watches ----

Model::Code Model::watch(View& view) {
  std::size_t count = count_arguments(view.payload);
  if (count != 2 && count != 3) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::string name(*take_argument(rest));
  std::string token(*take_argument(rest));
  std::int64_t depth = count == 3 ? leading_number(*take_argument(rest)) : -1;
  if (count == 3 && (depth < 0 || (domains_.at(view.caller.domid).features & 4) == 0)) return Code::kInvalid;
  std::string path = name;
  if (!name.starts_with('/') && !name.starts_with('@')) path = home(view.caller.domid) + "/" + name;
  bool valid =
      name.starts_with('@') ? name.size() <= kMaxRelativePath : is_allowed_path(view.caller.domid, path);
  if (!valid) return Code::kInvalid;
  for (const ModelWatch& w : watches_) {
    if (w.connection == view.id && w.path == path && w.token == token) return Code::kExists;
  }
  std::uint32_t domid = view.caller.domid;
  if (is_above(domid, "watches", static_cast<std::int64_t>(watches_of(domid)) + 1)) return Code::kTooBig;
  auto bytes = static_cast<std::int64_t>(path.size() + token.size());
  if (is_above(domid, "memory", memory_of(domid) + bytes)) return out_of_memory(view, domid);
  watches_.push_back({view.id, ++sequence_, path, token, path.size() - name.size(), depth});
  ok(view.out, kWatch);
  view.out.event(view.id, as_bytes(name + '\0' + token + '\0'));
  return Code::kNone;
}

Model::Code Model::unwatch(View& view) {
  if (count_arguments(view.payload) != 2) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::string path(*take_argument(rest));
  std::string token(*take_argument(rest));
  if (!path.starts_with('/') && !path.starts_with('@')) path = home(view.caller.domid) + "/" + path;
  std::size_t erased = std::erase_if(watches_, [&](const ModelWatch& w) {
    return w.connection == view.id && w.path == path && w.token == token;
  });
  if (erased == 0) return Code::kNoEntry;
  ok(view.out, kUnwatch);
  return Code::kNone;
}

Model::Code Model::reset_watches(View& view) {
  std::erase_if(watches_, [&](const ModelWatch& w) { return w.connection == view.id; });
  view.caller.transactions.clear();
  ok(view.out, kResetWatches);
  return Code::kNone;
}

// ---- transactions ----

Model::Code Model::start(View& view) {
  auto open = static_cast<std::int64_t>(transactions_of(view.caller.domid));
  if (is_above(view.caller.domid, "transactions", open + 1)) return Code::kNoSpace;
  std::uint32_t id = view.caller.next_transaction_id++;
  view.caller.transactions[id] = {tree_, tree_, version_, version_, {}, false};
  std::string text = std::to_string(id) + '\0';
  view.out.reply(kTransactionStart, as_bytes(text));
  return Code::kNone;
}

bool Model::conflicts(const ModelTransaction& transaction) const {
  auto differs = [](const ModelNode* a, const ModelNode* b, bool children) {
    if (a == nullptr || b == nullptr) return a != b;
    return a->data_generation != b->data_generation || (children && a->generation != b->generation);
  };
  auto get = [](const ModelTree& tree, const std::string& path) {
    auto found = tree.find(path);
    return found == tree.end() ? nullptr : &found->second;
  };
  for (const ModelAccess& access : transaction.accesses) {
    const ModelNode* before = get(transaction.base, access.path);
    if (differs(before, get(tree_, access.path), access.children)) return true;
    if (!access.removed || before == nullptr) continue;
    for (const ModelTree* tree : {&transaction.base, &tree_}) {
      for (const auto& [path, node] : *tree) {
        if (!at_or_below(path, access.path)) continue;
        if (differs(get(transaction.base, path), get(tree_, path), true)) return true;
      }
    }
  }
  return false;
}

void Model::merge(const ModelTransaction& transaction) {
  if (transaction.own_version == transaction.base_version) return;
  if (version_ == transaction.base_version) {
    tree_ = transaction.own;
    version_ = transaction.own_version;
    for (const auto& [path, node] : tree_) know(node.permissions[0].domid);
    return;
  }
  std::vector<ModelAccess> accesses = transaction.accesses;
  std::sort(accesses.begin(), accesses.end(), [](auto& a, auto& b) { return a.path < b.path; });
  ModelConnection nobody;
  Silence nobody_listens;
  View view{0, nobody, nullptr, tree_, {}, 0, nobody_listens};
  for (const ModelAccess& access : accesses) {
    if (!access.removed || !tree_.contains(access.path)) continue;
    change(view, parent_of(access.path));
    cut(tree_, access.path);
  }
  for (const ModelAccess& access : accesses) {
    auto own = transaction.own.find(access.path);
    if (!access.changed || own == transaction.own.end()) continue;
    ModelPermissions permissions = aged(own->second);
    change(view, tree_.contains(access.path) ? access.path : parent_of(access.path));
    tree_[access.path] = {own->second.value, permissions, generation_, generation_};
    know(permissions[0].domid);
  }
}

Model::Code Model::end(View& view) {
  auto verdict = only_argument(view.payload);
  if (verdict != "T" && verdict != "F") return Code::kInvalid;
  if (view.transaction == nullptr) return Code::kNoEntry;
  if (verdict == "T") {
    const ModelTransaction& transaction = *view.transaction;
    if (transaction.failed) return Code::kNoMemory;
    std::uint32_t caller = view.caller.domid;
    std::int64_t made = pending(transaction, caller, false);
    if (made > 0 && is_above(caller, "nodes", nodes_of(caller) + made)) return Code::kNoSpace;
    for (const auto& [domid, domain] : domains_) {
      std::int64_t freed = domid == caller ? transaction_memory(transaction) : 0;
      std::int64_t bytes = pending(transaction, domid, true);
      if (view.privileged() || bytes <= freed) continue;
      if (is_above(domid, "memory", memory_of(domid) - freed + bytes)) return out_of_memory(view, domid);
    }
    if (conflicts(transaction)) return Code::kAgain;
    merge(transaction);
    for (const ModelAccess& access : transaction.accesses) {
      bool before = transaction.base.contains(access.path);
      if (!access.fires || (!before && !tree_.contains(access.path))) continue;
      if (before && access.removed) fire_below(access.path, transaction.base, &transaction, view.out);
      fire(access.path, transaction.base, before, view.out);
    }
  }
  ok(view.out, kTransactionEnd);
  return Code::kNone;
}

// ---- domains ----

void Model::forget_connections_state(std::uint32_t domid) {
  for (auto& [id, connection] : connections_) {
    if (connection.domid != domid) continue;
    std::erase_if(watches_, [&, key = id](const ModelWatch& w) { return w.connection == key; });
    connection.transactions.clear();
  }
}

Model::Code Model::introduce(View& view) {
  if (count_arguments(view.payload) < 3) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::uint32_t id = domid_of(*take_argument(rest));
  std::int64_t mfn = leading_number(*take_argument(rest));
  std::int64_t port = leading_number(*take_argument(rest));
  if (port <= 0 || port > UINT32_MAX || id >= kFirstReservedDomain) return Code::kInvalid;
  know(id);
  bool first = !domains_[id].introduced;
  domains_[id].introduced = true;
  domains_[id].ended = false;
  if (first) domains_[id].shut_down = false;
  if (id != 0) forget_connections_state(id);
  view.out.domain_introduced(id, static_cast<std::uint64_t>(mfn), static_cast<std::uint32_t>(port));
  if (first) fire_special("@introduceDomain", id, view.out);
  ok(view.out, kIntroduce);
  return Code::kNone;
}

void Model::remove_owned(const std::string& path, Output& out) {
  ModelConnection nobody;
  View view{0, nobody, nullptr, tree_, {}, 0, out};
  ModelTree before = tree_;
  change(view, parent_of(path));
  cut(tree_, path);
  fire_below(path, before, nullptr, out);
  fire(path, before, true, out);
}

// The introduced domain that is the only argument; never domain 0.
Model::Code Model::only_domain(const View& view, std::uint32_t& domid) const {
  auto argument = only_argument(view.payload);
  if (!argument || domid_of(*argument) == 0) return Code::kInvalid;
  domid = domid_of(*argument);
  return introduced(domid) ? Code::kNone : Code::kNoEntry;
}

bool Model::introduced(std::uint32_t domid) const {
  auto found = domains_.find(domid);
  return found != domains_.end() && found->second.introduced;
}

Model::Code Model::release(View& view) {
  std::uint32_t domid = 0;
  if (Code error = only_domain(view, domid); error != Code::kNone) return error;
  forget_connections_state(domid);
  auto owned = [&](const ModelNode& node) { return node.permissions[0].domid == domid; };
  if (tree_.contains(home(domid)) && owned(tree_[home(domid)])) remove_owned(home(domid), view.out);
  if (owned(tree_["/"])) {
    ModelPermissions permissions = tree_["/"].permissions;
    permissions[0].domid = 0;
    View outside{view.id, view.caller, nullptr, tree_, {}, 0, view.out};
    change(outside, "/");
    tree_["/"].permissions = permissions;
    tree_["/"].data_generation = generation_;
  }
  for (bool again = true; again;) {
    again = false;
    for (const auto& [path, node] : tree_) {
      if (!owned(node)) continue;
      remove_owned(std::string(path), view.out);
      again = true;
      break;
    }
  }
  for (auto& [name, permissions] : special_) {
    if (permissions[0].domid == domid) permissions[0].domid = 0;
    std::erase_if(permissions, [&](const ModelPermission& p) { return p.domid == domid; });
  }
  for (auto& [id, domain] : domains_) {
    if (domain.target == domid) domain.target.reset();
  }
  bool connected =
      std::any_of(connections_.begin(), connections_.end(), [&](auto& c) { return c.second.domid == domid; });
  ++generation_;
  ModelDomain ended;
  ended.ended = true;
  ended.generation = generation_;
  domains_[domid] = std::move(ended);
  if (!connected) domains_.erase(domid);
  fire_special("@releaseDomain", domid, view.out);
  view.out.domain_released(domid);
  ok(view.out, kRelease);
  return Code::kNone;
}

Model::Code Model::set_target(View& view) {
  if (count_arguments(view.payload) < 2) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::string_view first = *take_argument(rest);
  std::string_view second = *take_argument(rest);
  for (std::string_view text : {first, second}) {
    if (!is_number(text) || leading_number(text) > 65535) return Code::kInvalid;
  }
  std::uint32_t domid = domid_of(first);
  std::uint32_t target = domid_of(second);
  if (!introduced(domid) || !introduced(target)) return Code::kNoEntry;
  domains_[domid].target = target;
  ok(view.out, kSetTarget);
  return Code::kNone;
}

Model::Code Model::resume(View& view) {
  std::uint32_t domid = 0;
  if (Code error = only_domain(view, domid); error != Code::kNone) return error;
  domains_[domid].shut_down = false;
  ok(view.out, kResume);
  return Code::kNone;
}

Model::Code Model::is_introduced(View& view) {
  auto argument = only_argument(view.payload);
  if (!argument) return Code::kInvalid;
  std::uint32_t domid = domid_of(*argument);
  bool yes = domid == kFirstReservedDomain || introduced(domid);  // the former: whoever asks
  view.out.reply(kIsDomainIntroduced, as_bytes(yes ? "T\0"sv : "F\0"sv));
  return Code::kNone;
}

Model::Code Model::domain_path(View& view) {
  auto argument = only_argument(view.payload);
  if (!argument) return Code::kInvalid;
  std::string path = home(domid_of(*argument)) + '\0';
  view.out.reply(kGetDomainPath, as_bytes(path));
  return Code::kNone;
}

void Model::domain_shut_down(std::uint32_t domid, Output& out) {
  if (domid == 0 || !introduced(domid) || domains_[domid].shut_down) return;
  domains_[domid].shut_down = true;
  fire_special("@releaseDomain", domid, out);
}

// ---- CONTROL ----

// What sets limits, logs or checks. The texts of help and of the quota tables are for people; they are not
// modelled.
Model::Code Model::control(View& view) {
  std::string_view rest = view.payload;
  std::vector<std::string_view> words;
  while (auto word = take_argument(rest)) words.push_back(*word);
  if (words.empty()) return Code::kInvalid;
  if (words[0] == "quota" || words[0] == "quota-soft") return control_quota(view, words);
  if (words[0] == "log" && words.size() == 2 && (words[1] == "on" || words[1] == "off")) {
    view.out.log_control("log " + std::string(words[1]));
  } else if (words[0] == "print" && words.size() == 2) {
    view.out.log_control("print " + std::string(words[1]));
  } else if (words[0] != "check" || words.size() != 1) {
    return Code::kInvalid;
  }
  ok(view.out, kControl);
  return Code::kNone;
}

Model::Code Model::control_quota(View& view, const std::vector<std::string_view>& words) {
  if (words.size() != 4 || words[1] != "set") return Code::kInvalid;
  bool soft = words[0] == "quota-soft";
  if (!soft && words[2].starts_with("soft-")) return Code::kInvalid;
  std::string name = quota_name(std::string(soft ? "soft-" : "").append(words[2]));
  std::int64_t value = leading_number(words[3]);
  if (!limits_.contains(name) || value < 1 || value > INT32_MAX) return Code::kInvalid;
  limits_[name] = static_cast<std::uint32_t>(value);
  ok(view.out, kControl);
  return Code::kNone;
}

// ---- limits and features ----

std::size_t Model::transactions_of(std::uint32_t domid) const {
  std::size_t count = 0;
  for (const auto& [id, connection] : connections_) {
    if (connection.domid == domid) count += connection.transactions.size();
  }
  return count;
}

std::uint32_t Model::limit(std::uint32_t domid, const std::string& name) const {
  auto domain = domains_.find(domid);
  bool own = domain != domains_.end() && domain->second.own_limits.contains(name);
  return own ? domain->second.own_limits.at(name) : limits_.at(name);
}

bool Model::is_above(std::uint32_t domid, const std::string& name, std::int64_t used) const {
  std::int64_t most = limit(domid, name);
  return domid != 0 && most != 0 && used > most;
}

bool Model::is_allowed_path(std::uint32_t domid, const std::string& path) const {
  if (domid == 0) return is_path_within(path, kMaxRelativePath);
  std::uint32_t most = limit(domid, "path-max");
  if (!is_path_within(path, most == 0 ? kMaxAbsolutePath : most)) return false;
  return !is_above(domid, "path-depth", static_cast<std::int64_t>(split(path).size()));
}

// Below seven eighths of it.
bool Model::far_below(std::uint32_t domid, const std::string& name, std::int64_t used) const {
  std::int64_t level = limit(domid, name);
  return level == 0 || used < level - level / 8;
}

Model::Code Model::out_of_memory(View& view, std::uint32_t domid) {
  ModelDomain& domain = domains_.at(domid);
  std::int64_t used = memory_of(domid);
  if (!domain.hard_warned && !far_below(domid, "memory", used)) {
    domain.hard_warned = true;
    view.out.quota_warning({domid, "memory", limit(domid, "memory"), static_cast<std::uint64_t>(used), true});
  }
  return Code::kNoMemory;
}

void Model::settle(Output& out) {
  auto memory_now = memory();
  for (auto& [domid, domain] : domains_) {
    if (domid == 0) continue;
    std::int64_t used = memory_now[domid];
    domain.hard_warned = domain.hard_warned && !far_below(domid, "memory", used);
    domain.soft_warned = domain.soft_warned && !far_below(domid, "soft-memory", used);
    std::uint32_t level = limit(domid, "soft-memory");
    if (domain.soft_warned || level == 0 || used < std::int64_t{level}) continue;
    domain.soft_warned = true;
    out.quota_warning({domid, "memory", level, static_cast<std::uint64_t>(used), false});
  }
}

Model::Code Model::domain_named(std::string_view text, std::uint32_t& domid) const {
  if (!is_number(text) || leading_number(text) > 65535) return Code::kInvalid;
  domid = static_cast<std::uint32_t>(leading_number(text));
  return domains_.contains(domid) ? Code::kNone : Code::kNoEntry;
}

Model::Code Model::get_quota(View& view) {
  std::size_t count = count_arguments(view.payload);
  if (count == 0) {
    std::string names;
    for (const char* name : {"nodes", "watches", "transactions", "outstanding", "transaction-nodes", "memory",
                             "node-size", "path-max", "permissions", "path-depth", "undelivered"}) {
      names += std::string(name) + " ";
    }
    names += "soft-memory";
    view.out.reply(kGetQuota, as_bytes(names + '\0'));
    return Code::kNone;
  }
  if (count > 2) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::uint32_t domid = 0xFFFFFFFF;  // nobody's: the global value
  if (count == 2) {
    if (Code error = domain_named(*take_argument(rest), domid); error != Code::kNone) return error;
  }
  std::string name = quota_name(std::string(*take_argument(rest)));
  if (!limits_.contains(name)) return Code::kInvalid;
  view.out.reply(kGetQuota, as_bytes(std::to_string(limit(domid, name)) + '\0'));
  return Code::kNone;
}

Model::Code Model::set_quota(View& view) {
  std::size_t count = count_arguments(view.payload);
  if (count != 2 && count != 3) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::uint32_t domid = 0;
  if (count == 3) {
    if (Code error = domain_named(*take_argument(rest), domid); error != Code::kNone) return error;
  }
  std::string name = quota_name(std::string(*take_argument(rest)));
  std::string value(*take_argument(rest));
  if (!limits_.contains(name) || !is_number(value) || leading_number(value) > INT32_MAX)
    return Code::kInvalid;
  auto& limits = count == 3 ? domains_[domid].own_limits : limits_;
  limits[name] = static_cast<std::uint32_t>(leading_number(value));
  ok(view.out, kSetQuota);
  return Code::kNone;
}

Model::Code Model::get_feature(View& view) {
  std::size_t count = count_arguments(view.payload);
  std::uint32_t domid = view.caller.domid;
  if (count > 0) {
    if (!view.privileged()) return Code::kAccess;
    if (count > 1) return Code::kInvalid;
    std::string_view rest = view.payload;
    if (Code error = domain_named(*take_argument(rest), domid); error != Code::kNone) return error;
  }
  view.out.reply(kGetFeature, as_bytes(std::to_string(domains_.at(domid).features) + '\0'));
  return Code::kNone;
}

Model::Code Model::set_feature(View& view) {
  if (count_arguments(view.payload) != 2) return Code::kInvalid;
  std::string_view rest = view.payload;
  std::uint32_t domid = 0;
  if (Code error = domain_named(*take_argument(rest), domid); error != Code::kNone) return error;
  std::string value(*take_argument(rest));
  if (domains_[domid].introduced) return Code::kBusy;
  if (!is_number(value) || leading_number(value) > 7) return Code::kInvalid;
  domains_[domid].features = static_cast<unsigned>(leading_number(value));
  ok(view.out, kSetFeature);
  return Code::kNone;
}

}  // namespace bulkhead::xenstore::test
