// bulkheadd: reads the configuration and runs the core.
#include <spdlog/spdlog.h>
#include <sys/resource.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdlib>
#include <iostream>
#include <string>
#include <vector>

#include "runtime/crash_point.h"
#include "supervisor/core.h"
#include "supervisor/log.h"

namespace {

using bulkhead::supervisor::Config;
using bulkhead::supervisor::Core;
using bulkhead::supervisor::FdStore;

constexpr int kUsage = 2;
constexpr int kFailed = 1;

// One line for whoever reads the terminal or the journal.
int complain(int status, const std::string& what) {
  std::cerr << "bulkheadd: " << what << '\n';
  return status;
}

// Custody holds many descriptors; components get limits of their own.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// For tests: BULKHEAD_CRASH_AT=NAME or NAME:COUNT.
bulkhead::Status arm_crash_point() {
  const char* text = std::getenv("BULKHEAD_CRASH_AT");
  if (text == nullptr) return {};
  const std::string_view whole(text);
  const std::size_t colon = whole.find(':');
  std::uint32_t count = 1;
  if (colon != std::string_view::npos) {
    std::from_chars(whole.data() + colon + 1, whole.data() + whole.size(), count);
  }
  const bool armed = bulkhead::CrashPoint::arm(whole.substr(0, colon), count);
  ::unsetenv("BULKHEAD_CRASH_AT");
  if (armed) return {};
  return bulkhead::failure(bulkhead::ErrorKind::kInvalid,
                           "BULKHEAD_CRASH_AT: no crash point '" + std::string(whole) + "'");
}

int run(Config config, FdStore store) {
  bulkhead::supervisor::start_log(config.supervisor.log_level);
  spdlog::info("configuration: {}", config.source);
  raise_descriptor_limit();
  auto core = Core::create(std::move(config), std::move(store));
  if (!core) return complain(kFailed, core.error().message());
  auto status = (*core)->run();
  if (!status) return complain(kFailed, status.error().message());
  return *status;
}

}  // namespace

// An exception that nobody expected (no memory) ends the core at once; the next one takes over.
// NOLINTNEXTLINE(bugprone-exception-escape)
int main(int argc, char** argv) {
  FdStore store = FdStore::from_environment();  // before anything opens a descriptor
  CLI::App app{"Keeps a virtualisation host's services alive."};
  std::string file;
  std::vector<std::string> overrides;
  bool check = false;
  const CLI::Option* named = app.add_option("--config", file,
                                            "Configuration file; without it " BULKHEAD_CONFIG_FILE
                                            " if it is there, else the built-in defaults");
  app.add_option("--set", overrides, "Override a key: a.b=value; may be repeated")->allow_extra_args(false);
  app.add_flag("--check", check, "Check the configuration and exit");
  app.set_version_flag("--version", std::string("bulkheadd ") + BULKHEAD_VERSION);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& done) {
    return app.exit(done);
  } catch (const CLI::ParseError& error) {
    return complain(kUsage, std::string(error.what()) + " (see --help)");
  }
  auto config = named->count() > 0
                    ? bulkhead::supervisor::load_config(file, overrides)
                    : bulkhead::supervisor::load_default_config(BULKHEAD_CONFIG_FILE, overrides);
  if (!config) return complain(kUsage, config.error().message());
  if (check) {
    std::cout << config->source << ": ok\n";
    return 0;
  }
  if (auto armed = arm_crash_point(); !armed) return complain(kUsage, armed.error().message());
  return run(std::move(*config), std::move(store));
}
