#include "tests/support/model_checker.h"

#include <algorithm>

namespace bulkhead::xs {
namespace {

constexpr std::string_view kOk("OK\0", 3);
constexpr std::string_view kRootPerms("n0\0", 3);
constexpr size_t kLevels = 3;
constexpr size_t kNamesPerLevel = 4;

std::set<std::string> split(std::string_view names) {
  std::set<std::string> result;
  while (!names.empty()) {
    const size_t end = std::min(names.find('\0'), names.size());
    result.emplace(names.substr(0, end));
    names.remove_prefix(std::min(end + 1, names.size()));
  }
  return result;
}

std::string printable(std::string_view text) {
  std::string result(text.substr(0, 80));
  std::replace(result.begin(), result.end(), '\0', '|');
  return result;
}

bool is_below(std::string_view path, std::string_view parent) {
  return path.size() > parent.size() && path.starts_with(parent) && path[parent.size()] == '/';
}

}  // namespace

const TreeModel::Node* TreeModel::find(const std::string& path) const {
  const auto found = nodes_.find(path);
  return found == nodes_.end() ? nullptr : &found->second;
}

TreeModel::Node& TreeModel::create(const std::string& path) {
  const auto found = nodes_.find(path);
  if (found != nodes_.end()) return found->second;
  size_t slash = path.find('/', root_.size());
  std::string perms = nodes_.at(root_).perms;
  while (slash != std::string::npos) {
    slash = path.find('/', slash + 1);
    perms = nodes_.try_emplace(path.substr(0, slash), Node{"", perms}).first->second.perms;
  }
  return nodes_.at(path);
}

std::set<std::string> TreeModel::children(const std::string& path) const {
  std::set<std::string> names;
  for (auto at = nodes_.upper_bound(path); at != nodes_.end(); ++at) {
    if (is_below(at->first, path) && parent(at->first) == path)
      names.insert(at->first.substr(path.size() + 1));
  }
  return names;
}

std::set<std::string> TreeModel::remove(const std::string& path) {
  std::set<std::string> removed;
  for (auto at = nodes_.lower_bound(path); at != nodes_.end();) {
    if (at->first == path || is_below(at->first, path)) {
      removed.insert(at->first);
      at = nodes_.erase(at);
    } else {
      ++at;
    }
  }
  return removed;
}

ModelChecker::ModelChecker(size_t index, CheckerSettings settings, AnomalyLog& log)
    : Checker("model " + std::to_string(index), std::move(settings), log),
      root_(path("model/" + std::to_string(index))),
      model_(root_, std::string(kRootPerms)),
      random_(index + 1) {}

Status ModelChecker::setup() {
  Result<XsClient*> client = connect();
  if (!client) return forward(std::move(client));
  client_ = *client;
  for (const auto& [type, payload] : {std::pair{XS_MKDIR, path_payload(root_)},
                                      {XS_SET_PERMS, path_payload(root_) + std::string(kRootPerms)}}) {
    Result<std::string> done = client_->call(type, 0, payload);
    if (!done) return forward(std::move(done), "cannot prepare " + root_);
  }
  return {};
}

void ModelChecker::pump() {
  while (!stopping() && client_->connected() && client_->in_flight() < settings().depth) send_random();
}

std::string ModelChecker::random_node() {
  std::string node = root_;
  const size_t levels = 1 + random_() % kLevels;
  for (size_t level = 0; level < levels; ++level) {
    node.append("/").append(1, static_cast<char>('a' + random_() % kNamesPerLevel));
  }
  return node;
}

void ModelChecker::send_random() {
  using Request = void (ModelChecker::*)(const std::string&);
  static constexpr std::array<Request, 12> kRequests{
      &ModelChecker::write,     &ModelChecker::write,        &ModelChecker::write,
      &ModelChecker::mkdir,     &ModelChecker::remove,       &ModelChecker::read,
      &ModelChecker::read,      &ModelChecker::directory,    &ModelChecker::get_perms,
      &ModelChecker::set_perms, &ModelChecker::toggle_watch, &ModelChecker::malformed};
  const std::string node = random_node();
  if (may_merge(node)) return read(node);
  (this->*kRequests[random_() % kRequests.size()])(node);
}

// A server may merge an event with an equal one that still waits for its reader (C xenstored does), so a
// change that could cause an equal one is not made while one is outstanding.
bool ModelChecker::may_merge(const std::string& node) const {
  return std::any_of(events_.begin(), events_.end(),
                     [&](const Event& event) { return event.path == node || is_below(event.path, node); });
}

void ModelChecker::ask(xsd_sockmsg_type type, const std::string& payload, Due due) {
  client_->send(type, 0, payload, sent_++);
  due_.push_back(std::move(due));
}

// A watch fires for its node and all below.
void ModelChecker::changed(const std::string& node) {
  if (watch_ && (node == watch_->path || is_below(node, watch_->path)))
    events_.push_back({node, watch_->token});
}

void ModelChecker::write(const std::string& node) {
  std::string value = encode_value(sent_);
  ask(XS_WRITE, write_payload(node, value), {"write " + node, false, std::string(kOk), {}});
  model_.create(node).value = std::move(value);
  changed(node);
}

void ModelChecker::mkdir(const std::string& node) {
  ask(XS_MKDIR, path_payload(node), {"mkdir " + node, false, std::string(kOk), {}});
  if (model_.find(node) != nullptr) return;
  model_.create(node);
  changed(node);
}

void ModelChecker::remove(const std::string& node) {
  // Does this fire a watch on something below that does not exist? C xenstored says no, oxenstored says yes.
  if (watch_ && is_below(watch_->path, node) && model_.find(watch_->path) == nullptr) return read(node);
  Due due{"rm " + node, false, std::string(kOk), {}};
  // Removing what is not there succeeds, provided its parent is.
  if (model_.find(TreeModel::parent(node)) == nullptr) due = {"rm " + node, true, "ENOENT", {}};
  ask(XS_RM, path_payload(node), std::move(due));
  const std::set<std::string> removed = model_.remove(node);
  if (removed.empty()) return;
  changed(node);
  if (watch_ && watch_->path != node && removed.contains(watch_->path)) events_.push_back(*watch_);
}

void ModelChecker::read(const std::string& node) {
  const TreeModel::Node* found = model_.find(node);
  ask(XS_READ, path_payload(node),
      {"read " + node, found == nullptr, found == nullptr ? "ENOENT" : found->value, {}});
}

void ModelChecker::directory(const std::string& node) {
  Due due{"directory " + node, true, "ENOENT", {}};
  if (model_.find(node) != nullptr) due = {"directory " + node, false, "", model_.children(node)};
  ask(XS_DIRECTORY, path_payload(node), std::move(due));
}

void ModelChecker::get_perms(const std::string& node) {
  const TreeModel::Node* found = model_.find(node);
  ask(XS_GET_PERMS, path_payload(node),
      {"get_perms " + node, found == nullptr, found == nullptr ? "ENOENT" : found->perms, {}});
}

void ModelChecker::set_perms(const std::string& node) {
  const std::string perms = std::string("n0") + '\0' + "r" + std::to_string(1 + sent_ % 9) + '\0';
  const bool exists = model_.find(node) != nullptr;
  ask(XS_SET_PERMS, path_payload(node) + perms,
      {"set_perms " + node, !exists, exists ? std::string(kOk) : "ENOENT", {}});
  if (!exists) return;
  model_.create(node).perms = perms;
  changed(node);
}

// One watch at a time: in which order two of them fire for one removal is not specified.
void ModelChecker::toggle_watch(const std::string& node) {
  if (!watch_) {
    watch_ = Event{node, "w" + std::to_string(sent_)};
    ask(XS_WATCH, path_payload(node) + path_payload(watch_->token),
        {"watch " + node, false, std::string(kOk), {}});
    events_.push_back(*watch_);
  } else if (random_() % 2 == 0) {
    ask(XS_UNWATCH, path_payload(node) + path_payload("nobody"), {"unwatch of nothing", true, "ENOENT", {}});
  } else {
    const std::string payload = path_payload(watch_->path) + path_payload(watch_->token);
    ask(XS_UNWATCH, payload, {"unwatch " + watch_->path, false, std::string(kOk), {}});
    watch_.reset();
  }
}

void ModelChecker::malformed(const std::string& node) {
  switch (random_() % 3) {
    case 0:
      return ask(XS_READ, path_payload(node + "//x"), {"read of a bad path", true, "EINVAL", {}});
    case 1:
      return ask(XS_READ, path_payload(node + "/"), {"read of a path ending in /", true, "EINVAL", {}});
    default:
      return ask(XS_WRITE, node, {"write without a value", true, "EINVAL", {}});
  }
}

void ModelChecker::on_reply(const Reply& reply) {
  // The client passes replies out of order on: the cookie says which it is.
  const uint64_t position = reply.cookie - first_due_;
  if (position >= due_.size()) return;
  const Due& due = due_[position];
  const bool same = due.error == reply.error &&
                    (due.names ? split(reply.payload) == *due.names : reply.payload == due.payload);
  if (same) {
    count();
  } else {
    anomaly(reply.error ? Anomaly::kError : Anomaly::kWrong,
            due.what + " answered " + printable(reply.payload) + ", due " +
                (due.names ? std::to_string(due.names->size()) + " names" : printable(due.payload)));
  }
  due_.erase(due_.begin(), due_.begin() + static_cast<std::ptrdiff_t>(position) + 1);
  first_due_ = reply.cookie + 1;
}

void ModelChecker::on_event(XsClient& client, std::string_view path, std::string_view token) {
  const auto same = [&](const Event& event) { return event.path == path && event.token == token; };
  const auto found = std::find_if(events_.begin(), events_.end(), same);
  if (found == events_.end()) return Checker::on_event(client, path, token);
  for (auto skipped = events_.begin(); skipped != found; ++skipped) {
    anomaly(Anomaly::kLost, "event " + skipped->path + ", token " + skipped->token);
  }
  events_.erase(events_.begin(), found + 1);
}

bool ModelChecker::idle() const {
  return Checker::idle() && (events_.empty() || !client_->connected());
}

void ModelChecker::compare(const std::string& node, xsd_sockmsg_type type, const std::string& due) {
  const Result<std::string> found = client_->call(type, 0, path_payload(node));
  if (found && *found == due) return;
  anomaly(Anomaly::kWrong, node + " ended as " + (found ? printable(*found) : found.error().message()) +
                               ", due " + printable(due));
}

void ModelChecker::finish() {
  if (!events_.empty()) anomaly(Anomaly::kLost, std::to_string(events_.size()) + " events never came");
  for (const auto& [path, node] : model_.nodes()) {
    if (!client_->responsive()) return;
    compare(path, XS_READ, node.value);
    compare(path, XS_GET_PERMS, node.perms);
    const Result<std::string> names = client_->call(XS_DIRECTORY, 0, path_payload(path));
    if (!names || split(*names) != model_.children(path))
      anomaly(Anomaly::kWrong, path + " has other children");
  }
}

}  // namespace bulkhead::xs
