// bulkheadd under test: a real core with its edge in a scratch directory, spoken to over gRPC; alone, or
// under a stand-in for systemd's descriptor store that starts it again when it dies.
#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "bulkhead/v1/bulkhead.grpc.pb.h"
#include "runtime/pidfd.h"
#include "tests/integration/api_programs.h"

namespace bulkhead::test {

// TOML: a xenstore service whose budgets no test uses up. `more`: further keys of its table.
std::string xenstore_table(const std::string& more = "", bool standby = true);

class CoreHost {
 public:
  // `components`: TOML; "@DIR@" stands for the scratch directory, "@BIN@" for that of the programs. Alone:
  // what the core holds dies with it. Returns when the API answers.
  explicit CoreHost(const std::string& components);
  // The same under a descriptor store. `crash_at`: a crash point at which the first core dies; empty: none.
  CoreHost(const std::string& components, const std::string& crash_at);
  // Ends it by SIGTERM; whatever is left then is killed.
  ~CoreHost();
  CoreHost(const CoreHost&) = delete;
  CoreHost& operator=(const CoreHost&) = delete;

  v1::Supervisor::Stub& api() { return *stub_; }
  static std::unique_ptr<grpc::ClientContext> deadline();

  v1::Component component(const std::string& name);
  // Waits until the published state satisfies `condition`; fails the test and returns the last state
  // otherwise.
  v1::Component wait(const std::string& name, const std::string& what,
                     const std::function<bool(const v1::Component&)>& condition);
  // Names of what is in a component's custody.
  std::set<std::string> custody_of(const std::string& component);
  // Asks the echo component to count.
  std::uint64_t echo_count() const;
  // Serving, with a ready standby.
  v1::Component wait_complete(const std::string& name);
  std::vector<v1::Incident> incidents(const std::string& name);
  v1::Incident wait_incident(const std::string& name, const std::string& what,
                             const std::function<bool(const v1::Incident&)>& condition);
  grpc::Status inject(const std::string& component, const std::string& kind, const std::string& argument = "",
                      const std::string& target = "", std::uint32_t for_ms = 0);

  // One command to an echo component; empty if the connection was cut.
  std::string ask(const std::string& component, const std::string& command) const;
  // Asks until it answers.
  std::string ask_surely(const std::string& component, const std::string& command) const;
  // Processes that were started as instances of the component by any core of this host.
  std::set<pid_t> processes_of(const std::string& component) const;

  // The core itself.
  pid_t core_pid() const;
  int core_runs() const;  // 1: the first
  // Waits until a core with another pid than `former` answers.
  void wait_for_successor(pid_t former);
  // Waits until the core has been started `number` times.
  void wait_for_run(int number) const;
  void signal_core(int number) const;
  Program& program() { return *program_; }
  // At the end it is not asked to end: it does so by itself, with this exit code (or minus the signal).
  void expect_exit(int code) { expected_exit_ = code; }
  std::string path(const std::string& name) const { return directory_ / name; }
  std::string log() const;

 private:
  std::vector<std::string> status() const;
  void write_config(const std::string& components) const;
  std::vector<std::string> core_command() const;
  std::vector<PidFd> all_processes() const;
  void connect();

  ScratchDirectory directory_;
  bool descriptor_store_;
  std::optional<int> expected_exit_;
  std::unique_ptr<Program> program_;
  std::unique_ptr<v1::Supervisor::Stub> stub_;
};

bool running(pid_t pid);

}  // namespace bulkhead::test
