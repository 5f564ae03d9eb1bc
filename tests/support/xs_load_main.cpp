// xs-load: checking load on a xenstore socket; exit code 1 if anything was lost, repeated, out of order, torn
// or wrong.
#include <fcntl.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

#include <CLI/CLI.hpp>
#include <csignal>
#include <cstdio>
#include <fstream>
#include <map>
#include <sstream>

#include "tests/support/load_clients.h"
#include "tests/support/load_loop.h"
#include "tests/support/load_report.h"

namespace bulkhead::xs {
namespace {

struct Options {
  std::string socket = "/run/xenstored/socket";
  std::string base;
  std::string clients = "readers=2,writers=4,watchers=2,movers=4,models=1";
  size_t depth = 8;
  double seconds = 0;
  std::string until_file;
  std::string control;
  std::string started_file;
  std::string json;
  double deadline_seconds = 10;
};

Result<std::map<std::string, size_t>> parse_clients(const std::string& text) {
  std::map<std::string, size_t> counts{
      {"readers", 0}, {"writers", 0}, {"watchers", 0}, {"movers", 0}, {"models", 0}};
  std::istringstream items(text);
  for (std::string item; std::getline(items, item, ',');) {
    const size_t equals = item.find('=');
    const auto known = counts.find(item.substr(0, equals));
    char* end = nullptr;
    const unsigned long count = equals == std::string::npos ? 0 : std::strtoul(&item[equals + 1], &end, 10);
    if (known == counts.end() || end == nullptr || *end != '\0' || count > 1000) {
      return failure(ErrorKind::kInvalid,
                     "--clients: '" + item + "' is not readers|writers|watchers|movers|models=0..1000");
    }
    known->second = count;
  }
  return counts;
}

// SIGINT and SIGTERM end the run as its time would, SIGUSR1 marks an outage: as a file descriptor, read once
// a turn.
UniqueFd take_signals() {
  sigset_t set;
  sigemptyset(&set);
  for (const int number : {SIGINT, SIGTERM, SIGUSR1}) sigaddset(&set, number);
  sigprocmask(SIG_BLOCK, &set, nullptr);
  return UniqueFd(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
}

bool ended_by_signal(BorrowedFd signals, LoadLoop& loop) {
  signalfd_siginfo info{};
  while (::read(signals.get(), &info, sizeof info) == sizeof info) {
    if (info.ssi_signo != SIGUSR1) return true;
    loop.mark(monotonic_ns());
  }
  return false;
}

void drive(LoadLoop& loop, const Options& options) {
  const UniqueFd signals = take_signals();
  const int64_t end =
      options.seconds > 0 ? monotonic_ns() + static_cast<int64_t>(options.seconds * 1e9) : INT64_MAX;
  if (!options.started_file.empty()) std::ofstream(options.started_file) << "started\n";
  int64_t next_look = 0;
  loop.run([&] {
    const int64_t now = monotonic_ns();
    if (now < next_look) return false;
    next_look = now + 1000000;
    struct stat info{};
    return now >= end || ended_by_signal(signals.borrow(), loop) ||
           (!options.until_file.empty() && ::stat(options.until_file.c_str(), &info) == 0);
  });
}

Status run(const Options& options, int& exit_code) {
  Result<std::map<std::string, size_t>> counts = parse_clients(options.clients);
  if (!counts) return forward(std::move(counts));
  AnomalyLog log;
  const CheckerSettings settings{options.socket, options.base, options.depth};
  LoadLoop loop(settings, log, {.reply_deadline_ns = static_cast<int64_t>(options.deadline_seconds * 1e9)});
  if (!options.control.empty()) {
    // For reading and writing, so that it never reads as ended between two writers.
    UniqueFd fifo(::open(options.control.c_str(), O_RDWR | O_NONBLOCK | O_CLOEXEC));
    if (!fifo.valid()) return os_failure("cannot open " + options.control);
    loop.take_orders_from(std::move(fifo));
  }
  if (Status opened = loop.open(); !opened) return opened;
  if (Status added = add_clients(loop, *counts, settings, log); !added) return added;
  const int64_t begin = monotonic_ns();
  drive(loop, options);
  const LoadReport report = make_report(loop, log, static_cast<double>(monotonic_ns() - begin) / 1e9);
  std::fputs(report_text(report).c_str(), stdout);
  if (!options.json.empty()) {
    std::ofstream file(options.json);
    file << report_json(report) << '\n';
    if (!file.flush()) return failure(ErrorKind::kFailed, "cannot write " + options.json);
  }
  exit_code = log.total() == 0 ? 0 : 1;
  return {};
}

void describe(CLI::App& app, Options& options) {
  app.add_option("--socket", options.socket, "the service's Unix socket")->capture_default_str();
  app.add_option("--base", options.base, "xenstore path to work below; removed at the end")
      ->capture_default_str();
  app.add_option("--clients", options.clients, "how many of each kind")->capture_default_str();
  app.add_option("--depth", options.depth, "requests in flight per connection")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--seconds", options.seconds, "run for this long");
  app.add_option("--until-file", options.until_file, "run until this file exists");
  app.add_option("--control", options.control, "FIFO to read orders from: kill PID, mark [NS], stop");
  app.add_option("--started-file", options.started_file, "file to create when the load begins");
  app.add_option("--deadline", options.deadline_seconds, "seconds without a reply that are an anomaly")
      ->capture_default_str();
  app.add_option("--json", options.json, "file for the counts");
}

int parse_and_run(int argc, char** argv) {
  Options options;
  options.base = "/bulkhead-load/" + std::to_string(::getpid());
  CLI::App app("Checking load on a xenstore socket. Exit code 0: all right, 1: anomalies, 2: could not run.",
               "xs-load");
  describe(app, options);
  try {
    app.parse(argc, argv);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  }
  int exit_code = 2;
  if (Status done = run(options, exit_code); !done) {
    std::fprintf(stderr, "xs-load: %s\n", done.error().message().c_str());
    return 2;
  }
  return exit_code;
}

}  // namespace
}  // namespace bulkhead::xs

int main(int argc, char** argv) {
  try {
    return bulkhead::xs::parse_and_run(argc, argv);
  } catch (const std::exception& error) {
    std::fprintf(stderr, "xs-load: %s\n", error.what());
    return 2;
  }
}
