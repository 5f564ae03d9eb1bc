#include "tests/support/history_recorder.h"

#include <poll.h>

#include <algorithm>

#include "tests/support/checker.h"

namespace bulkhead::xs {
namespace {

constexpr int64_t kPatienceNs = int64_t{20} * 1'000'000'000;
constexpr std::string_view kPerms("n0\0", 3);

}  // namespace

void HistoryRecorder::Quiet::on_reply(const Reply& reply) {
  if (reply.error) refused = reply.payload;
}

void HistoryRecorder::Quiet::on_event(XsClient& /*from*/, std::string_view path, std::string_view /*token*/) {
  watcher.events.push_back({monotonic_ns(), std::string(path)});
}

Result<std::unique_ptr<XsClient>> HistoryRecorder::connect(const std::string& name) {
  Result<UniqueFd> socket = XsClient::connect(settings_.socket_path);
  if (!socket) return forward(std::move(socket), name);
  return std::make_unique<XsClient>(std::move(*socket), name, log_);
}

Status HistoryRecorder::watch(const std::string& path) {
  auto client = connect("watcher of " + path);
  if (!client) return forward(std::move(client));
  watchers_.push_back(std::make_unique<Quiet>());
  Quiet& watcher = *watchers_.back();
  watcher.client = std::move(*client);
  watcher.watcher.path = path;
  auto done = watcher.client->call(XS_WATCH, 0, path_payload(path) + path_payload("token"), &watcher);
  return done ? Status() : forward(std::move(done), "cannot watch " + path);
}

Status HistoryRecorder::open() {
  auto control = connect("control");
  if (!control) return forward(std::move(control));
  control_.client = std::move(*control);
  // Two see everything, in one order; one sees a node that comes and goes with what is above it.
  for (const std::string& path : {settings_.base, settings_.base, settings_.base + "/a/x"}) {
    if (Status watched = watch(path); !watched) return watched;
  }
  for (size_t i = 0; i < settings_.clients; ++i) {
    auto client = connect("client " + std::to_string(i));
    if (!client) return forward(std::move(client));
    clients_.push_back(std::make_unique<RecordingClient>(
        std::move(*client),
        RecordingClient::Settings{i, settings_.base, settings_.depth, settings_.snapshot_isolation,
                                  settings_.lasting_nodes, settings_.seed * 1000 + i}));
  }
  return {};
}

Nodes HistoryRecorder::first_state() const {
  const std::string perms(kPerms);
  const std::string& base = settings_.base;
  return {{base, {"", perms}},
          {base + "/a", {"first a", perms}},
          {base + "/a/x", {"first x", perms}},
          {base + "/b", {"first b", perms}}};
}

Status HistoryRecorder::prepare(const std::function<void()>& step) {
  XsClient& client = *control_.client;
  client.send(XS_RM, 0, path_payload(settings_.base));
  client.send(XS_MKDIR, 0, path_payload(settings_.base));
  client.send(XS_SET_PERMS, 0, path_payload(settings_.base).append(kPerms));
  for (const auto& [path, node] : first_state()) client.send(XS_WRITE, 0, write_payload(path, node.value));
  if (Status driven = drive(step, [&] { return client.in_flight() == 0; }); !driven) return driven;
  if (!control_.refused.empty()) return failure(ErrorKind::kRefused, "the first state: " + control_.refused);
  if (Status settled = settle(step); !settled) return settled;
  for (const auto& watcher : watchers_) watcher->watcher.events.clear();
  return {};
}

// A connection's replies and events come in one order: when a later request is answered, all events are here.
Status HistoryRecorder::settle(const std::function<void()>& step) {
  for (const auto& watcher : watchers_) {
    watcher->client->send(XS_GET_DOMAIN_PATH, 0, std::string_view("0\0", 2));
  }
  return drive(step, [&] {
    return std::ranges::all_of(watchers_, [](const auto& w) { return w->client->in_flight() == 0; });
  });
}

void HistoryRecorder::turn() {
  std::vector<pollfd> fds;
  std::vector<std::pair<XsClient*, Listener*>> links{{control_.client.get(), &control_}};
  for (const auto& watcher : watchers_) links.emplace_back(watcher->client.get(), watcher.get());
  for (const auto& client : clients_) {
    client->pump();
    links.emplace_back(&client->client(), client.get());
  }
  for (const auto& [client, listener] : links) {
    client->flush();
    const int socket = client->connected() ? client->socket().get() : -1;
    fds.push_back({socket, static_cast<short>(client->output_pending() ? POLLIN | POLLOUT : POLLIN), 0});
  }
  if (::poll(fds.data(), fds.size(), 1) <= 0) return;
  for (size_t i = 0; i < links.size(); ++i) {
    if (fds[i].revents != 0) links[i].first->receive(*links[i].second);
  }
}

Status HistoryRecorder::drive(const std::function<void()>& step, const std::function<bool()>& done) {
  const int64_t deadline = monotonic_ns() + kPatienceNs;
  while (!done()) {
    if (monotonic_ns() > deadline) return failure(ErrorKind::kTimeout, "not everything was answered");
    if (log_.total() > 0) return failure(ErrorKind::kFailed, log_.described().front());
    turn();
    step();
  }
  return {};
}

Status HistoryRecorder::record(size_t requests, const std::function<void()>& step, History& history) {
  history = {};
  if (Status prepared = prepare(step); !prepared) return prepared;
  history.initial = first_state();
  busy_.first = monotonic_ns();
  for (const auto& client : clients_) client->begin(requests);
  Status ended = drive(
      step, [&] { return std::ranges::all_of(clients_, [](const auto& client) { return client->done(); }); });
  busy_.second = monotonic_ns();
  if (ended) ended = settle(step);
  for (const auto& client : clients_)
    std::ranges::move(client->take(), std::back_inserter(history.operations));
  for (const auto& watcher : watchers_) history.watchers.push_back(watcher->watcher);
  return ended;
}

size_t HistoryRecorder::conflicts() const {
  size_t sum = 0;
  for (const auto& client : clients_) sum += client->conflicts();
  return sum;
}

size_t HistoryRecorder::commits() const {
  size_t sum = 0;
  for (const auto& client : clients_) sum += client->commits();
  return sum;
}

}  // namespace bulkhead::xs
