// bulkhead-api: the gRPC edge. Unprivileged and replaceable at any time: it keeps no state, and everything it
// needs to go on (the socket to the core, the listening socket) is the core's.

#include <poll.h>
#include <signal.h>  // NOLINT(modernize-deprecated-headers): sigset_t functions are POSIX
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <systemd/sd-daemon.h>

#include <array>
#include <exception>

#include "supervisor/api/options.h"

namespace bulkhead::edge {
namespace {

constexpr std::chrono::milliseconds kGrace(1000);

// Blocked before any thread exists, so that only the descriptor hears of them.
UniqueFd termination_signals() {
  sigset_t signals;
  ::sigemptyset(&signals);
  ::sigaddset(&signals, SIGTERM);
  ::sigaddset(&signals, SIGINT);
  ::sigprocmask(SIG_BLOCK, &signals, nullptr);
  ::signal(SIGPIPE, SIG_IGN);
  return UniqueFd(::signalfd(-1, &signals, SFD_CLOEXEC | SFD_NONBLOCK));
}

// Connections get descriptor numbers that are not soon used again: the more numbers, the better.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

void wait_for_either(BorrowedFd signals, BorrowedFd core_closed) {
  std::array<pollfd, 2> watched{pollfd{signals.get(), POLLIN, 0}, pollfd{core_closed.get(), POLLIN, 0}};
  while (::poll(watched.data(), watched.size(), -1) < 0 && errno == EINTR) {
  }
  if (watched[1].revents != 0) {
    spdlog::info("the core has closed the connection: ending");
  } else {
    spdlog::info("asked to end");
  }
}

int fail(int code, const std::string& message) {
  spdlog::error(message);
  return code;
}

int run(int argc, char** argv) {
  spdlog::set_default_logger(spdlog::stderr_logger_mt("bulkhead-api"));
  Result<std::optional<Options>> options = parse_options(argc, argv);
  if (!options) return fail(2, options.error().message());
  if (!options->has_value()) return 0;
  spdlog::set_level(spdlog::level::from_str((*options)->log_level));
  Result<Inherited> inherited = inherited_descriptors();
  if (!inherited) return fail(2, inherited.error().message());
  raise_descriptor_limit();
  const UniqueFd signals = termination_signals();
  const UniqueFd core_closed(::eventfd(0, EFD_CLOEXEC));
  if (!signals.valid() || !core_closed.valid()) return fail(1, "cannot create descriptors");

  Result<std::unique_ptr<CoreLink>> link =
      CoreLink::start(std::move(inherited->core), [&] { ::eventfd_write(core_closed.get(), 1); });
  if (!link) return fail(1, link.error().message());
  Result<std::unique_ptr<Server>> server =
      Server::start(**link, std::move(inherited->listening), (*options)->tcp);
  if (!server) return fail(1, server.error().message());

  const std::string tcp = (*options)->tcp ? fmt::format(" and TCP port {}", (*server)->tcp_port()) : "";
  spdlog::info("serving on the Unix socket{}", tcp);
  ::sd_notifyf(0, "READY=1\nSTATUS=serving on the Unix socket%s", tcp.c_str());
  wait_for_either(signals.borrow(), core_closed.borrow());
  ::sd_notify(0, "STOPPING=1");
  (*server)->stop(kGrace);
  return 0;
}

}  // namespace
}  // namespace bulkhead::edge

int main(int argc, char** argv) {
  try {
    return bulkhead::edge::run(argc, argv);
  } catch (const std::exception& error) {
    return bulkhead::edge::fail(1, error.what());
  }
}
