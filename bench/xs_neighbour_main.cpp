// xs-neighbour: latency of a quiet client of a xenstore service next to a hostile one.
#include <sched.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <csignal>
#include <cstdio>
#include <ctime>
#include <new>

#include "bench/neighbours.h"
#include "bench/wire.h"

namespace bulkhead::bench {
namespace {

struct Options {
  std::string socket;
  std::string neighbour = "none";
  std::uint64_t size = 0;
  double seconds = 5;
  std::int64_t period_us = 1000;
  bool clean = false;
};

constexpr std::int64_t kMillion = 1000000;
constexpr std::int64_t kWarmUpNs = 300 * kMillion;
constexpr int kNeighbourNice = 10;

// Between the two processes.
struct Shared {
  std::atomic<std::uint64_t> operations{0};
  std::atomic<int> ready{0};
};

std::int64_t now_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_MONOTONIC, &now);
  return std::int64_t{now.tv_sec} * 1000 * kMillion + now.tv_nsec;
}

void sleep_until(std::int64_t ns) {
  const timespec until{ns / (1000 * kMillion), ns % (1000 * kMillion)};
  while (::clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, nullptr) == EINTR) continue;
}

const NeighbourKind& kind_named(std::string_view name) {
  const auto& kinds = neighbour_kinds();
  return *std::find_if(kinds.begin(), kinds.end(),
                       [&](const NeighbourKind& kind) { return kind.name == name; });
}

// One client, one request at a time: a write and a read by turns, at a fixed period. A request that could not
// be sent in time because its predecessor had no answer counts from when it should have been sent.
class Quiet {
 public:
  Quiet(const Options& options, Wire wire) : options_(options), wire_(std::move(wire)) {}

  Status run();
  void report(const Shared& shared, bool first_class);

 private:
  Status ask(std::uint64_t number);

  const Options& options_;
  Wire wire_;
  std::vector<std::int64_t> latencies_;
  std::uint64_t late_ = 0;
};

Status Quiet::ask(std::uint64_t number) {
  const std::string path = "/bulkhead-quiet/node-" + std::to_string(number / 2 % 10);
  const bool write = number % 2 == 0;
  auto answer = wire_.call(write ? XS_WRITE : XS_READ, 0,
                           write ? write_payload(path, std::to_string(number)) : path_payload(path));
  if (!answer) return forward(std::move(answer), "the quiet client");
  if (!write && *answer != std::to_string(number - 1))
    return failure(ErrorKind::kFailed, "the quiet client read \"" + *answer + "\"");
  return {};
}

Status Quiet::run() {
  const std::int64_t period = options_.period_us * 1000;
  std::int64_t due = now_ns() + period;
  const std::int64_t measure_from = due + kWarmUpNs;
  const std::int64_t end = measure_from + static_cast<std::int64_t>(options_.seconds * 1e9);
  for (std::uint64_t number = 0; due < end; ++number) {
    sleep_until(due);
    const std::int64_t sent = now_ns();
    if (auto asked = ask(number); !asked) return asked;
    const std::int64_t answered = now_ns();
    if (due >= measure_from) latencies_.push_back(answered - sent);
    for (due += period; due < answered; due += period) {
      if (due < measure_from || due < sent) continue;
      latencies_.push_back(answered - due);
      ++late_;
    }
  }
  return {};
}

void Quiet::report(const Shared& shared, bool first_class) {
  std::sort(latencies_.begin(), latencies_.end());
  const auto quantile_us = [this](double q) {
    return static_cast<double>(
               latencies_[static_cast<std::size_t>(q * static_cast<double>(latencies_.size() - 1))]) /
           1e3;
  };
  std::printf(
      "{\"neighbour\": \"%s\", \"requests\": %zu, \"late\": %lu, \"p50_us\": %.1f, \"p90_us\": %.1f, "
      "\"p99_us\": %.1f, \"p999_us\": %.1f, \"max_us\": %.1f, \"neighbour_operations\": %lu, "
      "\"first_class\": %s}\n",
      options_.neighbour.c_str(), latencies_.size(), late_, quantile_us(0.5), quantile_us(0.9),
      quantile_us(0.99), quantile_us(0.999), quantile_us(1), shared.operations.load(),
      first_class ? "true" : "false");
}

// Never returns.
[[noreturn]] void be_neighbour(const Options& options, Shared& shared) {
  ::setpriority(PRIO_PROCESS, 0, kNeighbourNice);
  const NeighbourKind& kind = kind_named(options.neighbour);
  const Hostility how{.socket = options.socket,
                      .size = options.size > 0 ? options.size : kind.size,
                      .operations = &shared.operations,
                      .ready = [&shared] { shared.ready.store(1); }};
  const Status ended = kind.run(how);
  std::fprintf(stderr, "xs-neighbour: %s: %s\n", options.neighbour.c_str(), ended.error().message().c_str());
  shared.ready.store(-1);
  ::_exit(1);
}

Status wait_until_ready(const Shared& shared, pid_t neighbour) {
  while (shared.ready.load() == 0) {
    if (::waitpid(neighbour, nullptr, WNOHANG) != 0) return failure(ErrorKind::kFailed, "no neighbour");
    sleep_until(now_ns() + 10 * kMillion);
  }
  return {};
}

Status measure(const Options& options, Shared& shared, pid_t neighbour) {
  if (auto ready = wait_until_ready(shared, neighbour); !ready) return ready;
  const sched_param priority{.sched_priority = 1};
  const bool first_class = ::sched_setscheduler(0, SCHED_FIFO, &priority) == 0;
  Result<Wire> wire = Wire::connect(options.socket);
  if (!wire) return forward(std::move(wire));
  Quiet quiet(options, std::move(*wire));
  if (auto done = quiet.run(); !done) return done;
  if (shared.ready.load() < 0) return failure(ErrorKind::kFailed, "the neighbour ended early");
  quiet.report(shared, first_class);
  return {};
}

// Removes what earlier runs made.
Status clean(const Options& options) {
  Result<Wire> wire = Wire::connect(options.socket);
  if (!wire) return forward(std::move(wire));
  for (const std::string_view path : {"/bulkhead-neighbour", "/bulkhead-quiet"}) {
    auto removed = wire->call(XS_RM, 0, path_payload(path));
    if (!removed && removed.error().message() != "ENOENT") return forward(std::move(removed));
  }
  return {};
}

Status run(const Options& options) {
  if (options.clean) return clean(options);
  void* memory = ::mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) return os_failure("mmap");
  auto* shared = new (memory) Shared;
  const pid_t neighbour = ::fork();
  if (neighbour < 0) return os_failure("fork");
  if (neighbour == 0) be_neighbour(options, *shared);
  Status done = measure(options, *shared, neighbour);
  ::kill(neighbour, SIGKILL);
  ::waitpid(neighbour, nullptr, 0);
  ::munmap(memory, sizeof(Shared));
  return done;
}

int parse_and_run(int argc, char** argv) {
  Options options;
  CLI::App app("Latency of a quiet xenstore client next to a hostile one. Prints one line of JSON.",
               "xs-neighbour");
  std::vector<std::string> names;
  std::string help = "who is next to it:";
  for (const NeighbourKind& kind : neighbour_kinds()) {
    names.emplace_back(kind.name);
    help += "\n" + std::string(kind.name) + ": " + std::string(kind.help);
  }
  app.add_option("--socket", options.socket, "the service's Unix socket")->required();
  app.add_option("--neighbour", options.neighbour, help)->check(CLI::IsMember(names));
  app.add_flag("--clean", options.clean, "only remove what earlier runs made");
  app.add_option("--size", options.size, "of what the neighbour builds; 0: its default");
  app.add_option("--seconds", options.seconds, "how long to measure")->check(CLI::PositiveNumber);
  app.add_option("--period-us", options.period_us, "time between the quiet client's requests")
      ->check(CLI::Range(1, 1000000));
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  const Status done = run(options);
  if (done) return 0;
  std::fprintf(stderr, "xs-neighbour: %s\n", done.error().message().c_str());
  return 1;
}

}  // namespace
}  // namespace bulkhead::bench

int main(int argc, char** argv) {
  try {
    return bulkhead::bench::parse_and_run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "xs-neighbour: %s\n", error.what());
    return 2;
  }
}
