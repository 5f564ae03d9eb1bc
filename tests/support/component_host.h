// Runs the instances of a native component without bulkheadd, for tests that must decide on every kill and
// every instruction themselves: keeps custody, speaks the component contract, launches and kills when told
// to. Decides nothing on its own.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/memfd.h"
#include "runtime/pidfd.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "runtime/vitals.h"

namespace bulkhead::testing {

class ComponentHost {
 public:
  struct Options {
    std::string program;
    std::map<std::string, std::string> settings;
    unsigned ring_entries = 1024;
    std::string log_level = "warning";
  };

  class Instance {
   public:
    pid_t pid() const { return process_.pid(); }
    bool ready() const { return ready_; }    // said so since it was launched, or since it became active
    bool active() const { return active_; }  // said that it owns the component
    bool ended() const { return ended_; }
    const ExitStatus& exit_status() const { return exit_; }
    const contract::v1::Active& takeover() const { return takeover_; }
    const contract::v1::Hello& hello() const { return hello_; }
    Vitals& vitals() const { return *vitals_page_.at<Vitals>(0); }
    const std::vector<contract::v1::Finding>& findings() const { return findings_; }

   private:
    friend class ComponentHost;
    PidFd process_;
    UniqueFd contract_;
    UniqueFd wake_;
    Mapping vitals_page_;
    contract::v1::Hello hello_;
    contract::v1::Active takeover_;
    std::vector<contract::v1::Finding> findings_;
    ExitStatus exit_;
    bool ready_ = false;
    bool active_ = false;
    bool ended_ = false;
  };

  // Makes the lease, the ring and a listening socket in a directory of its own (removed at the end).
  static Result<std::unique_ptr<ComponentHost>> create(Options options);
  // Kills every instance.
  ~ComponentHost();
  ComponentHost(const ComponentHost&) = delete;
  ComponentHost& operator=(const ComponentHost&) = delete;

  const std::string& socket_path() const { return socket_path_; }

  // Called in the new process before exec; for ptrace and the like.
  using BeforeExec = std::function<void()>;
  Result<Instance*> launch(const BeforeExec& before_exec = {});
  Status send(Instance& instance, const contract::v1::ToInstance& message);
  // Arms a fault of the instance for `seconds`.
  Status inject(Instance& instance, const std::string& kind, const std::string& argument, int seconds = 60);
  // SIGKILL. The end is seen by pump().
  void kill(Instance& instance);
  void ping(Instance& instance);

  // Handles what instances have said and who has ended; waits up to `wait_ms` for something to handle.
  void pump(int wait_ms);
  // Pumps until `condition` holds; false after `deadline_ms`.
  bool wait_until(const std::function<bool()>& condition, int deadline_ms = 10'000);

  // The instance that said it is active and has not ended; likewise the first ready standby. nullptr: none.
  Instance* active();
  Instance* ready_standby();
  std::size_t living() const;
  // Who holds the lease now; 0: nobody.
  pid_t owner() const;
  // A segment in custody.
  Result<Mapping> map(const std::string& item, std::size_t bytes) const;
  std::size_t custody_items() const { return custody_.size(); }
  bool holds(const std::string& item) const { return custody_.contains(item); }
  // Puts something into custody before anybody is launched.
  void put(const std::string& item, const std::string& kind, UniqueFd fd) {
    custody_[item] = {kind, std::move(fd)};
  }
  // Drops instances that have ended.
  void forget_ended();

 private:
  struct Item {
    std::string kind;
    UniqueFd fd;
  };

  explicit ComponentHost(Options options) : options_(std::move(options)) {}
  Status prepare();
  Status greet(Instance& instance);
  void handle(Instance& instance);
  void deposit(Instance& from, const contract::v1::CustodyItem& item, UniqueFd fd);
  void withdraw(const std::string& item);

  Options options_;
  std::string directory_;
  std::string socket_path_;
  UniqueFd ring_;
  std::string ring_params_;
  std::map<std::string, Item> custody_;
  std::list<Instance> instances_;
  std::uint64_t next_instance_ = 1;
  std::uint64_t next_fault_ = 1;
};

}  // namespace bulkhead::testing
