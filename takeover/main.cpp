// bulkhead-xenstore-takeover: the program that a stock xenstored executes in its own process when it is
// updated live (xenstore-control live-update FILE). Hands everything it finds there to the supervised
// service, waits until that serves, and ends. As there is no way back once it runs, it makes one: if the
// service cannot go on, the stock daemon is executed again and goes on where it was.
#include <syslog.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <string_view>

#include "cli/client.h"
#include "takeover/handover.h"
#include "takeover/options.h"
#include "takeover/stock_daemon.h"
#include "takeover/supervised.h"

namespace bulkhead::takeover {
namespace {

void tell(int priority, const std::string& line) {
  std::fprintf(stderr, "bulkhead-xenstore-takeover: %s\n", line.c_str());
  ::syslog(priority, "%s", line.c_str());
}

enum class End { kDone, kNothingTaken, kNoWayBack };

// Whoever wrote the file decides how large it is.
Result<Handover> read_surely(const std::string& file) {
  try {
    return read_handover(file);
  } catch (const std::exception& error) {
    return failure(ErrorKind::kExhausted, file + ": " + error.what());
  }
}

End hand_over(const Options& options, const Supervised& service) {
  const auto complain = [](const Status& status) { tell(LOG_ERR, status.error().message()); };
  const auto handover = read_surely(options.state);
  if (!handover) {
    tell(LOG_ERR, handover.error().message());
    return End::kNothingTaken;
  }
  if (const Status ready = service.ready_to_take_over(); !ready) {
    complain(ready);
    return End::kNothingTaken;
  }
  if (const Status taken = service.hand_over(request_for(*handover, options.component)); !taken) {
    complain(taken);
    return End::kNothingTaken;
  }
  const Status serving = service.wait_until_serving();
  if (serving) return End::kDone;
  complain(serving);
  return service.take_back() ? End::kNothingTaken : End::kNoWayBack;
}

int run(const Options& options) {
  const std::set<int> inherited = open_descriptors();
  ::setenv("GRPC_VERBOSITY", "NONE", 0);  // failures are told in our own words
  const cli::Client client(options.api, std::nullopt);
  const Supervised service(client, options.component,
                           [](const std::string& line) { tell(LOG_WARNING, line); });
  if (options.check) {
    const Status ready = service.ready_to_take_over();
    if (!ready) std::fprintf(stderr, "bulkhead-xenstore-takeover: %s\n", ready.error().message().c_str());
    return ready ? 0 : 1;
  }
  switch (hand_over(options, service)) {
    case End::kDone: {
      std::error_code ignored;
      std::filesystem::remove(options.state, ignored);
      tell(LOG_NOTICE, options.component + " serves");
      return 0;
    }
    case End::kNoWayBack:
      tell(LOG_CRIT, options.component + " has taken over and then failed: see `bulkhead status`");
      return 1;
    case End::kNothingTaken:
      break;
  }
  if (options.stock.empty()) {
    tell(LOG_CRIT, "nobody serves, and the stock daemon was not found (--stock=FILE)");
    return 1;
  }
  tell(LOG_NOTICE, "nothing was taken over: " + options.stock + " goes on");
  tell(LOG_CRIT, return_to(options.stock, options.arguments, inherited).message());
  return 1;
}

}  // namespace
}  // namespace bulkhead::takeover

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::printf("bulkhead-xenstore-takeover %s\n", BULKHEAD_VERSION);
    return 0;
  }
  ::openlog("bulkhead-xenstore-takeover", LOG_PID, LOG_DAEMON);
  try {
    return bulkhead::takeover::run(
        bulkhead::takeover::parse_options({argv + std::min(argc, 1), argv + argc}));
  } catch (const std::exception& error) {
    bulkhead::takeover::tell(LOG_CRIT, error.what());
    return 1;
  }
}
