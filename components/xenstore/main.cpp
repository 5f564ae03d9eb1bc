// bulkhead-xenstored: the xenstore service, one instance of it. Started by bulkheadd; waits for the lease as
// standby, then serves. This file only wires.
#include <malloc.h>
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <string_view>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/follower.h"
#include "components/xenstore/rehearsal.h"
#include "components/xenstore/server.h"
#include "runtime/lease.h"

namespace bulkhead::xenstore {
namespace {

constexpr const char* kVersion = BULKHEAD_VERSION;

contract::Hello hello() {
  contract::Hello message;
  message.set_program_version(kVersion);
  message.set_reconciles(true);
  for (const auto point : CrashPoint::names()) message.add_crash_points(std::string(point));
  for (const auto& kind : InstanceFaults::kinds()) message.add_fault_kinds(kind);
  for (const char* kind : kOwnFaultKinds) message.add_fault_kinds(kind);
  message.add_client_faults("as-guest");
  return message;
}

Status serve() {
  // One heap for both threads, of which one sleeps at any time: only the program's own can have huge pages
  // (glibc.malloc.hugetlb), and a heap of small ones takes the kernel milliseconds to take apart when we are
  // killed.
  ::mallopt(M_ARENA_MAX, 1);
  auto instance = Instance::attach(hello());
  if (!instance) return forward(std::move(instance));
  spdlog::set_level(spdlog::level::from_str(instance->welcome().log_level()));
  const CustodyEntry* lease_item = instance->custody("lease");
  if (lease_item == nullptr) return failure(ErrorKind::kInvalid, "the core handed over no lease");
  auto settings = CustodySettings::from(*instance);
  if (!settings) return forward(std::move(settings));
  auto server_settings = ServerSettings::from(*instance);
  if (!server_settings) return forward(std::move(server_settings));
  if (!instance->ring_fd().valid()) {
    return failure(ErrorKind::kInvalid,
                   "the core handed over no io_uring: set ring_entries of this component");
  }
  auto ring = AdoptedRing::map(instance->ring_fd(), instance->welcome().ring_params());
  if (!ring) return forward(std::move(ring));
  auto lease = Lease::open(lease_item->fd.borrow());
  if (!lease) return forward(std::move(lease));

  const auto& names = instance->welcome().settings();
  const auto hypervisor = names.find("hypervisor");
  auto rings = Rings::open(hypervisor == names.end() ? std::string() : hypervisor->second);
  if (!rings) return forward(std::move(rings));

  Follower follower(*instance, *rings);
  auto predecessor_died = lease->acquire();
  follower.retire();
  if (!predecessor_died) return forward(std::move(predecessor_died));
  const Lease::Owner owner = lease->owner();

  if (!follower.custody()) {
    if (auto made = Custody::create(*instance, *settings); !made) return made;
    auto custody = Custody::open(*instance);
    if (!custody) return forward(std::move(custody));
    follower.custody().emplace(std::move(*custody));
    follower.replica().emplace(*follower.custody());
  }
  Server server(*instance, *server_settings, *follower.custody(), *follower.replica(), *ring, *rings,
                follower.faults());
  if (auto taken =
          server.take_over({owner.incarnation, owner.acquired_ns, *predecessor_died, settings->limits});
      !taken) {
    return forward(std::move(taken), "cannot take over");
  }
  auto ended = server.run();
  // Straight to the end: the successor is waiting, and freeing a large tree takes time.
  if (ended) ::_exit(0);
  return ended;
}

}  // namespace
}  // namespace bulkhead::xenstore

int main(int argc, char** argv) {
  if (argc == 2 && std::string_view(argv[1]) == "--version") {
    std::printf("bulkhead-xenstored %s\n", BULKHEAD_VERSION);
    return 0;
  }
  ::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::stderr_logger_mt("xenstored"));
  spdlog::set_pattern("%l: %v");
  const auto served = bulkhead::xenstore::serve();
  if (!served) {
    spdlog::error("{}", served.error().message());
    return 1;
  }
  return 0;
}
