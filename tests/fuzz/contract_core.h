// A core in miniature for the contract target: one native component, re-adopted with two instances whose
// processes are idle children of ours, and the edge's link; wired as Core wires them. No program is ever
// started.
#pragma once

#include <set>
#include <string>

#include "runtime/pidfd.h"
#include "supervisor/api_link.h"
#include "supervisor/registry.h"
#include "supervisor/service.h"
#include "supervisor/services.h"
#include "tests/fuzz/fuzz.h"

namespace bulkhead::fuzz {

// Does nothing until it is killed, and dies with us.
class IdleProcess {
 public:
  IdleProcess() = default;
  IdleProcess(const IdleProcess&) = delete;
  IdleProcess& operator=(const IdleProcess&) = delete;
  ~IdleProcess() { end(); }

  // Makes a new one if the former was ended, stopped, or is about to be.
  void ensure();
  pid_t pid() const { return process_.pid(); }
  BorrowedFd fd() const { return process_.fd(); }

 private:
  bool idle() const;
  void end();

  PidFd process_;
};

// What is the same for each input.
struct CoreFixture {
  CoreFixture();

  supervisor::Config config;
  supervisor::FdStore store = supervisor::FdStore::from_environment();
  supervisor::ManifestMemory memory;
  supervisor::IncidentLog incidents;
  IdleProcess processes[2];
};

class MiniatureCore {
 public:
  static constexpr std::size_t kInstances = 2;  // the active one, the standby

  // `fixture` outlives this.
  MiniatureCore(CoreFixture& fixture, bool active_ready, bool standby_ready);
  ~MiniatureCore();
  MiniatureCore(const MiniatureCore&) = delete;
  MiniatureCore& operator=(const MiniatureCore&) = delete;

  // The far ends: where instances and the edge write.
  BorrowedFd instance_end(std::size_t which) const { return far_[which].borrow(); }
  void close_instance_end(std::size_t which) { far_[which].reset(); }
  BorrowedFd edge_end() const { return edge_far_.borrow(); }

  // Handles what has arrived; then everything that must be bounded is.
  void turn();

 private:
  supervisor::Services services();
  void adopt(std::size_t which, bool ready);
  void persist();
  void check() const;

  CoreFixture& fixture_;
  EventLoop loop_;
  supervisor::EventLog events_;
  supervisor::Registry registry_;
  supervisor::FaultBoard faults_;
  supervisor::CustodyTotal total_;
  supervisor::Services services_;
  supervisor::CoreFacts facts_;
  supervisor::Service service_;
  UniqueFd edge_near_, edge_far_;
  UniqueFd far_[kInstances];
  UniqueFd output_far_[kInstances][2];
  supervisor::ApiLink api_;
  std::uint64_t last_instance_ = kInstances;
  std::set<std::string> changed_;
};

}  // namespace bulkhead::fuzz
