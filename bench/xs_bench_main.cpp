// xs-bench: throughput and latency of one xenstore service under a pipelined load from one thread.
#include <sys/epoll.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <array>
#include <cstdio>
#include <fstream>
#include <memory>
#include <random>

#include "bench/population.h"
#include "tests/support/checker.h"

namespace bulkhead::xs {
namespace {

struct Options {
  std::string socket;
  std::string operation = "read";
  size_t clients = 16;
  size_t depth = 8;
  size_t nodes = 1000;
  size_t idle = 0;
  std::string tree = "leaves";
  bool populate_only = false;
  bool populated = false;
  int server = 0;
  double seconds = 1;
};

constexpr int64_t kWarmUpNs = 200000000;
constexpr std::string_view kBase = "/bulkhead-bench";

// CPU time a process and its threads have used; 0 if there is none. Fields 14 and 15 of /proc/PID/stat.
double cpu_seconds(int pid) {
  std::ifstream stat("/proc/" + std::to_string(pid) + "/stat");
  std::string text((std::istreambuf_iterator<char>(stat)), {});
  std::istringstream fields(text.substr(std::min(text.size(), text.rfind(')') + 1)));
  std::string skipped;
  for (int i = 0; i < 11; ++i) fields >> skipped;
  double user = 0;
  double system = 0;
  fields >> user >> system;
  return (user + system) / static_cast<double>(::sysconf(_SC_CLK_TCK));
}

// Reads a directory whole, as libxenstore does: at once, and in parts if it is too big for that.
struct DirectoryReading {
  std::string generation;
  size_t length = 0;  // of the list so far
};

// All connections share one tree of `nodes` nodes; each client writes only its own share of it.
class Bench final : public Listener {
 public:
  explicit Bench(const Options& options) : options_(options), value_(encode_value(1000000000)) {}

  Status open();
  Status populate();
  Status run();
  void report(double seconds, double cpu);

  void on_reply(const Reply& reply) override;
  void on_event(XsClient& /*client*/, std::string_view /*path*/, std::string_view /*token*/) override {}

 private:
  struct Client {
    std::unique_ptr<XsClient> connection;
    size_t index = 0;
    bool polls_output = false;
  };

  Status connect_idle();
  void next(XsClient& client, uint64_t slot);
  void continue_transaction(const Reply& reply);
  bool continue_directory(const Reply& reply);
  const std::string& own_path(uint64_t slot);
  void settle(Client& client);
  void turn();

  Options options_;
  std::string value_;
  AnomalyLog log_;
  UniqueFd epoll_;
  std::vector<Client> clients_;
  std::vector<UniqueFd> idle_;
  std::vector<std::string> paths_;   // with their NUL
  std::vector<std::string> writes_;  // whole WRITE payloads
  std::minstd_rand random_{1};
  bool measuring_ = false;
  std::vector<int64_t> started_ns_;  // of each slot's transaction or directory
  std::vector<DirectoryReading> reading_;
  std::vector<int64_t> latencies_;
  uint64_t errors_ = 0;
  uint64_t conflicts_ = 0;
};

Status Bench::populate() {
  Result<bench::Wire> wire = bench::Wire::connect(options_.socket);
  if (!wire) return forward(std::move(wire));
  if (options_.tree == "domains") return bench::populate_domains(*wire, options_.nodes);
  const std::string base(kBase);
  if (options_.operation == "directory") {
    const std::string directory = base + "-directory-" + std::to_string(options_.nodes);
    paths_.push_back(path_payload(directory));
    return options_.populated ? Status{} : bench::populate_directory(*wire, directory, options_.nodes);
  }
  for (size_t i = 0; i < options_.nodes; ++i) {
    const std::string path = bench::leaf_path(base, i);
    paths_.push_back(path_payload(path));
    writes_.push_back(write_payload(path, value_));
  }
  if (options_.populated) return {};
  return bench::populate_leaves(*wire, base, options_.nodes, value_);
}

// Clients that connect and then say nothing.
Status Bench::connect_idle() {
  for (size_t i = 0; i < options_.idle; ++i) {
    Result<UniqueFd> socket = XsClient::connect(options_.socket);
    if (!socket) return forward(std::move(socket), "idle client " + std::to_string(i));
    idle_.push_back(std::move(*socket));
  }
  return {};
}

Status Bench::open() {
  epoll_.reset(::epoll_create1(EPOLL_CLOEXEC));
  clients_.resize(options_.clients);
  started_ns_.resize(options_.clients * options_.depth);
  reading_.resize(options_.clients * options_.depth);
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
  if (auto connected = connect_idle(); !connected) return connected;
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
  if (options_.operation == "directory") {
    reading_[slot] = {};
    return client.send(XS_DIRECTORY, 0, paths_.front(), slot);
  }
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

// False when the reply was the last.
bool Bench::continue_directory(const Reply& reply) {
  DirectoryReading& reading = reading_[reply.cookie];
  if (reply.type == XS_DIRECTORY && !reply.error) return false;
  if (reply.error && reply.payload != "E2BIG") return false;
  if (reply.type == XS_DIRECTORY) {
    started_ns_[reply.cookie] = reply.sent_ns;
  } else {
    const std::string_view generation = reply.payload.substr(0, reply.payload.find('\0'));
    const std::string_view list = reply.payload.substr(generation.size() + 1);
    if (reading.length > 0 && generation != reading.generation) reading.length = 0;
    if (reading.length == 0) reading.generation = generation;
    reading.length += list.size();
    if (list.ends_with(std::string_view("\0\0", 2)) || list == std::string_view("\0", 1)) return false;
  }
  reply.client->send(XS_DIRECTORY_PART, 0, paths_.front() + path_payload(std::to_string(reading.length)),
                     reply.cookie);
  return true;
}

void Bench::on_reply(const Reply& reply) {
  if (options_.operation == "directory" && continue_directory(reply)) return;
  const bool transactional = options_.operation == "transaction";
  if (reply.error) {
    const bool conflict = reply.type == XS_TRANSACTION_END && reply.payload == "EAGAIN";
    ++(conflict ? conflicts_ : errors_);
  } else if (transactional && reply.type == XS_TRANSACTION_START) {
    return continue_transaction(reply);
  }
  if (transactional && reply.type != XS_TRANSACTION_END) return;
  if (measuring_ && !reply.error) {
    const bool first = !transactional && reply.type != XS_DIRECTORY_PART;
    const int64_t begin = first ? reply.sent_ns : started_ns_[reply.cookie];
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
  const double cpu_before = cpu_seconds(options_.server);
  const int64_t begin = monotonic_ns();
  const int64_t end = begin + static_cast<int64_t>(options_.seconds * 1e9);
  while (monotonic_ns() < end && log_.total() == 0) turn();
  const double seconds = static_cast<double>(monotonic_ns() - begin) / 1e9;
  if (log_.total() > 0) return failure(ErrorKind::kFailed, log_.described().front());
  if (errors_ > 0) return failure(ErrorKind::kFailed, std::to_string(errors_) + " requests were refused");
  if (latencies_.empty()) return failure(ErrorKind::kFailed, "nothing was answered");
  report(seconds, cpu_seconds(options_.server) - cpu_before);
  return {};
}

void Bench::report(double seconds, double cpu) {
  std::sort(latencies_.begin(), latencies_.end());
  const auto quantile_us = [this](double q) {
    return static_cast<double>(
               latencies_[static_cast<size_t>(q * static_cast<double>(latencies_.size() - 1))]) /
           1e3;
  };
  std::printf(
      "{\"operation\": \"%s\", \"clients\": %zu, \"depth\": %zu, \"seconds\": %.3f, \"operations\": %zu, "
      "\"per_second\": %.0f, \"server_cpu_ns\": %.0f, \"conflicts\": %lu, \"p50_us\": %.1f, \"p99_us\": "
      "%.1f, "
      "\"max_us\": %.1f}\n",
      options_.operation.c_str(), options_.clients, options_.depth, seconds, latencies_.size(),
      static_cast<double>(latencies_.size()) / seconds, cpu * 1e9 / static_cast<double>(latencies_.size()),
      conflicts_, quantile_us(0.5), quantile_us(0.99), quantile_us(1));
}

int parse_and_run(int argc, char** argv) {
  Options options;
  CLI::App app("Throughput and latency of a xenstore service. Prints one line of JSON.", "xs-bench");
  app.add_option("--socket", options.socket, "the service's Unix socket")->required();
  app.add_option("--operation", options.operation, "what to do")
      ->check(CLI::IsMember({"read", "write", "mixed", "transaction", "directory"}));
  app.add_option("--clients", options.clients, "connections")->check(CLI::Range(1, 1000));
  app.add_option("--depth", options.depth, "requests (transactions) in flight per connection")
      ->check(CLI::Range(1, 1024));
  app.add_option("--nodes", options.nodes, "size of the tree (directory: number of children)")
      ->check(CLI::Range(1, 10000000));
  app.add_option("--idle", options.idle, "more connections that say nothing")->check(CLI::Range(0, 1000));
  app.add_option("--server", options.server, "the server's process id: count its CPU time, too");
  app.add_option("--tree", options.tree, "what to fill the store with")
      ->check(CLI::IsMember({"leaves", "domains"}));
  app.add_flag("--populated", options.populated, "an earlier run has filled the store");
  app.add_flag("--populate-only", options.populate_only, "fill the store, measure nothing");
  app.add_option("--seconds", options.seconds, "how long to measure")->check(CLI::PositiveNumber);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  Bench bench(options);
  Status done = options.populate_only ? bench.populate() : bench.open();
  if (done && !options.populate_only) done = bench.run();
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
