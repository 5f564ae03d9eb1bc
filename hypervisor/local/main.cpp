// bulkhead-local-hypervisor: plays the hypervisor for tests, benchmarks and machines without Xen. This file
// only wires.
#include <sys/resource.h>
#include <CLI/CLI.hpp>

#include <csignal>
#include <cstdio>
#include <exception>
#include <string>

#include "hypervisor/local/broker.h"

namespace {

// A domain costs four descriptors and more.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  (void)::setrlimit(RLIMIT_NOFILE, &limit);
}

int fail(const std::string& why) {
  (void)std::fprintf(stderr, "bulkhead-local-hypervisor: %s\n", why.c_str());
  return 1;
}

int serve(const std::string& path) {
  (void)std::signal(SIGPIPE, SIG_IGN);
  raise_descriptor_limit();
  auto broker = bulkhead::hypervisor::local::Broker::listen(path);
  if (!broker) return fail(broker.error().message());
  (void)std::puts("ready");
  (void)std::fflush(stdout);
  return fail((*broker)->run().error().message());
}

}  // namespace

int main(int argc, char** argv) {
  try {
    CLI::App app(
        "Plays the hypervisor where there is none: domains are processes, their memory is shared.\n"
        "Prints 'ready' when it listens; ends with a signal, and all domains with it.");
    std::string path;
    app.add_option("--socket", path, "Where backends (local:PATH) and frontends find it")->required();
    CLI11_PARSE(app, argc, argv);
    return serve(path);
  } catch (const std::exception& error) {
    return fail(error.what());
  }
}
