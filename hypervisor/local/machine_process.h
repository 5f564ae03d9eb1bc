// A bulkhead-local-hypervisor for the time of a test or benchmark.
#pragma once

#include <memory>
#include <string>

#include "runtime/pidfd.h"

namespace bulkhead::hypervisor::local {

class MachineProcess {
 public:
  // Runs `program` in a directory of its own and returns when it listens. The process dies with this object,
  // and with the calling thread.
  static Result<std::unique_ptr<MachineProcess>> start(const std::string& program);
  ~MachineProcess();
  MachineProcess(const MachineProcess&) = delete;
  MachineProcess& operator=(const MachineProcess&) = delete;

  const std::string& socket() const { return socket_; }
  // For hypervisor::open().
  std::string spec() const { return "local:" + socket_; }
  const PidFd& process() const { return process_; }

 private:
  MachineProcess(std::string directory, PidFd process);

  std::string directory_;
  std::string socket_;
  PidFd process_;
};

}  // namespace bulkhead::hypervisor::local
