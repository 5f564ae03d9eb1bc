// Probes that run a program: a configured command, and the gRPC health check by a helper program.
#include <sys/epoll.h>

#include <utility>

#include "monitors/exit.h"
#include "monitors/probe.h"
#include "runtime/clock.h"

namespace bulkhead::monitors {

namespace {

class CommandProbe : public Probe {
 public:
  CommandProbe(std::vector<std::string> command, ProcessStarter& starter)
      : command_(std::move(command)), starter_(starter) {}
  CommandProbe(const CommandProbe&) = delete;
  CommandProbe& operator=(const CommandProbe&) = delete;
  ~CommandProbe() override {
    if (process_.valid()) starter_.abandon(std::move(process_));
  }

  ProbeStep step() override {
    if (!process_.valid()) {
      auto started = starter_.start(command_);
      if (!started) return ProbeStep::failed(started.error().message());
      process_ = std::move(*started);
    }
    const auto exit = process_.reap();
    if (!exit) return ProbeStep::pending(process_.fd().get(), EPOLLIN);
    process_ = PidFd();
    if (ended_well(*exit)) return ProbeStep::passed();
    return ProbeStep::failed(command_.front() + ": " + describe_exit(*exit));
  }

 private:
  std::vector<std::string> command_;
  ProcessStarter& starter_;
  PidFd process_;
};

}  // namespace

Result<std::unique_ptr<Probe>> make_command_probe(std::vector<std::string> command, ProcessStarter& starter) {
  if (command.empty() || command.front().empty())
    return failure(ErrorKind::kInvalid, "is empty; a program and its arguments are needed");
  return std::make_unique<CommandProbe>(std::move(command), starter);
}

Result<std::unique_ptr<Probe>> make_grpc_probe(const std::string& helper, const std::string& address,
                                               const std::string& service, std::int64_t deadline_ns,
                                               ProcessStarter& starter) {
  return make_command_probe({helper, address, service, std::to_string(deadline_ns / kMillisecond)}, starter);
}

}  // namespace bulkhead::monitors
