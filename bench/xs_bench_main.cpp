// xs-bench: throughput and latency of one xenstore service under a pipelined load from one thread.
#include <sys/epoll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <memory>
#include <random>

#include "tests/support/checker.h"

namespace bulkhead::xs {
namespace {

struct Options {
  std::string socket;
  std::string operation = "read";
  size_t clients = 16;
  size_t depth = 8;
  size_t nodes = 1000;
  double seconds = 1;
};

constexpr int64_t kWarmUpNs = 200000000;
constexpr std::string_view kBase = "/bulkhead-bench";

// All connections share one tree of `nodes` nodes; each client writes only its own share of it.
class Bench final : public Listener {
 public:
  explicit Bench(const Options& options) : options_(options), value_(encode_value(1000000000)) {}

  Status open();
  Status run();
  void report(double seconds);

  void on_reply(const Reply& reply) override;
  void on_event(XsClient& /*client*/, std::string_view /*path*/, std::string_view /*token*/) override {}

 private:
  struct Client {
    std::unique_ptr<XsClient> connection;
    size_t index = 0;
    bool polls_output = false;
  };

  Status populate();
  void next(XsClient& client, uint64_t slot);
  void continue_transaction(const Reply& reply);
  const std::string& own_path(uint64_t slot);
  void settle(Client& client);
  void turn();

  Options options_;
  std::string value_;
  AnomalyLog log_;
  UniqueFd epoll_;
  std::vector<Client> clients_;
  std::vector<std::string> paths_;   // with their NUL
  std::vector<std::string> writes_;  // whole WRITE payloads
  std::minstd_rand random_{1};
  bool measuring_ = false;
  std::vector<int64_t> started_ns_;  // of each slot's transaction
  std::vector<int64_t> latencies_;
  uint64_t errors_ = 0;
  uint64_t conflicts_ = 0;
};

Status Bench::populate() {
  for (size_t i = 0; i < options_.nodes; ++i) {
    const std::string path = std::string(kBase) + "/" + std::to_string(i % 100) + "/" + std::to_string(i);
    paths_.push_back(path_payload(path));
    writes_.push_back(write_payload(path, value_));
    Result<std::string> done = clients_[0].connection->call(XS_WRITE, 0, writes_.back());
    if (!done) return forward(std::move(done), "cannot write " + path);
  }
  return {};
}

Status Bench::open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  clients_.resize(options_.clients);
  started_ns_.resize(options_.clients * options_.depth);
  for (size_t i = 0; i < clients_.size(); ++i) {
    Result<UniqueFd> socket = XsClient::connect(options_.socket);
    if (!socket) return forward(std::move(socket));
    epoll_event interest{EPOLLIN, {.u64 = i}};
    if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, socket->get(), &interest) != 0)
      return os_failure("epoll_ctl");
    clients_[i].connection =
        std::make_unique<XsClient>(std::move(*socket), "client " + std::to_string(i), log_);
    clients_[i].index = i;
  }
  return populate();
}

// Slots are requests in flight, numbered over all clients; a slot writes the nodes with its number modulo the
// slots.
const std::string& Bench::own_path(uint64_t slot) {
  const size_t slots = options_.clients * options_.depth;
  const size_t share = std::max<size_t>(1, options_.nodes / slots);
  return paths_[(slot + slots * (random_() % share)) % options_.nodes];
}

void Bench::next(XsClient& client, uint64_t slot) {
  if (options_.operation == "transaction")
    return client.send(XS_TRANSACTION_START, 0, std::string_view("\0", 1), slot);
  const bool write = options_.operation == "write" || (options_.operation == "mixed" && random_() % 5 == 0);
  const size_t node = random_() % options_.nodes;
  client.send(write ? XS_WRITE : XS_READ, 0, write ? writes_[node] : paths_[node], slot);
}

// Start; then read, write and end in one go. The end's reply completes the operation.
void Bench::continue_transaction(const Reply& reply) {
  const auto transaction = static_cast<uint32_t>(std::stoul(std::string(reply.payload)));
  const std::string& path = own_path(reply.cookie);
  started_ns_[reply.cookie] = reply.sent_ns;
  reply.client->send(XS_READ, transaction, path, reply.cookie);
  reply.client->send(XS_WRITE, transaction, path + value_, reply.cookie);
  reply.client->send(XS_TRANSACTION_END, transaction, std::string_view("T\0", 2), reply.cookie);
}

void Bench::on_reply(const Reply& reply) {
  const bool transactional = options_.operation == "transaction";
  if (reply.error) {
    const bool conflict = reply.type == XS_TRANSACTION_END && reply.payload == "EAGAIN";
    ++(conflict ? conflicts_ : errors_);
  } else if (transactional && reply.type == XS_TRANSACTION_START) {
    return continue_transaction(reply);
  }
  if (transactional && reply.type != XS_TRANSACTION_END) return;
  if (measuring_ && !reply.error) {
    const int64_t begin = transactional ? started_ns_[reply.cookie] : reply.sent_ns;
    latencies_.push_back(reply.received_ns - begin);
  }
  next(*reply.client, reply.cookie);
}

void Bench::settle(Client& client) {
  client.connection->flush();
  if (client.connection->output_pending() == client.polls_output) return;
  client.polls_output = !client.polls_output;
  epoll_event interest{client.polls_output ? uint32_t{EPOLLIN | EPOLLOUT} : uint32_t{EPOLLIN},
                       {.u64 = client.index}};
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, client.connection->socket().get(), &interest);
}

void Bench::turn() {
  std::array<epoll_event, 64> events{};
  const int n = ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), 100);
  for (int i = 0; i < n; ++i) {
    Client& client = clients_[events[static_cast<size_t>(i)].data.u64];
    client.connection->receive(*this);
    settle(client);
  }
}

Status Bench::run() {
  for (Client& client : clients_) {
    for (size_t i = 0; i < options_.depth; ++i) next(*client.connection, client.index * options_.depth + i);
    settle(client);
  }
  const int64_t warm = monotonic_ns() + kWarmUpNs;
  while (monotonic_ns() < warm && log_.total() == 0) turn();
  measuring_ = true;
  latencies_.reserve(size_t{1} << 22U);
  const int64_t begin = monotonic_ns();
  const int64_t end = begin + static_cast<int64_t>(options_.seconds * 1e9);
  while (monotonic_ns() < end && log_.total() == 0) turn();
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  if (log_.total() > 0) return failure(ErrorKind::kFailed, log_.described().front());
  if (errors_ > 0) return failure(ErrorKind::kFailed, std::to_string(errors_) + " requests were refused");
  if (latencies_.empty()) return failure(ErrorKind::kFailed, "nothing was answered");
  report(seconds);
  return {};
}

void Bench::report(double seconds) {
  std::sort(latencies_.begin(), latencies_.end());
  const auto quantile_us = [this](double q) {
    return static_cast<double>(
               latencies_[static_cast<size_t>(q * static_cast<double>(latencies_.size() - 1))]) /
           1e3;
  };
  std::printf(
      "{\"operation\": \"%s\", \"clients\": %zu, \"depth\": %zu, \"seconds\": %.3f, \"operations\": %zu, "
      "\"per_second\": %.0f, \"conflicts\": %lu, \"p50_us\": %.1f, \"p99_us\": %.1f, \"max_us\": %.1f}\n",
      options_.operation.c_str(), options_.clients, options_.depth, seconds, latencies_.size(),
      static_cast<double>(latencies_.size()) / seconds, conflicts_, quantile_us(0.5), quantile_us(0.99),
      quantile_us(1));
}

int parse_and_run(int argc, char** argv) {
  Options options;
  CLI::App app("Throughput and latency of a xenstore service. Prints one line of JSON.", "xs-bench");
  app.add_option("--socket", options.socket, "the service's Unix socket")->required();
  app.add_option("--operation", options.operation, "what to do")
      ->check(CLI::IsMember({"read", "write", "mixed", "transaction"}));
  app.add_option("--clients", options.clients, "connections")->check(CLI::Range(1, 1000));
  app.add_option("--depth", options.depth, "requests (transactions) in flight per connection")
      ->check(CLI::Range(1, 1024));
  app.add_option("--nodes", options.nodes, "size of the tree")->check(CLI::Range(1, 10000000));
  app.add_option("--seconds", options.seconds, "how long to measure")->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  Bench bench(options);
  Status done = bench.open();
  if (done) done = bench.run();
  if (done) return 0;
  std::fprintf(stderr, "xs-bench: %s\n", done.error().message().c_str());
  return 1;
}

}  // namespace
}  // namespace bulkhead::xs

int main(int argc, char** argv) {
  try {
    return bulkhead::xs::parse_and_run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "xs-bench: %s\n", error.what());
    return 2;
  }
}
