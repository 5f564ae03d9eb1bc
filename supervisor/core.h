// The core: owns everything, re-adopts what a former core left, runs the event loop until it is told to end.
#pragma once

#include <memory>
#include <optional>
#include <set>
#include <string>

#include "supervisor/adoption.h"
#include "supervisor/api_link.h"
#include "supervisor/cgroup.h"
#include "supervisor/registry.h"
#include "supervisor/service.h"
#include "supervisor/service_manager.h"
#include "supervisor/services.h"

namespace bulkhead::supervisor {

// Exit status after SIGUSR2: the core has left, its components have not; start it again (EX_TEMPFAIL).
inline constexpr int kLeftRunning = 75;

class Core {
 public:
  // `config` is moved to a place where it stays. Nothing is started yet.
  static Result<std::unique_ptr<Core>> create(Config config, FdStore store);
  Core(const Core&) = delete;
  Core& operator=(const Core&) = delete;
  ~Core();

  // Adopts or starts everything and serves until SIGTERM, SIGINT (all components end in order; 0) or SIGUSR2
  // (kLeftRunning).
  Result<int> run();

 private:
  Core(Config config, FdStore store, EventLoop loop, Inheritance inheritance, ManifestMemory memory);

  // At start.
  Services services();
  void build_components();
  void build_edge();
  void add_component(const ComponentConfig& config, InstanceLauncher launcher, std::optional<gid_t> group,
                     InstanceExtra extra);
  InstanceLauncher launcher_for(const ComponentConfig& config) const;
  InstanceExtra edge_extra();
  Status prepare_edge(Instance& instance, InstanceLauncher::Addition& addition);
  Status adopt();
  Status adopt_items(Component& component);
  void adopt_instance(Component& component, const manifest::v1::Instance& record);
  void drop_component(const manifest::v1::Component& record);
  void drop_rest();
  void tell_restart();
  Status watch_signals();

  // While running.
  void on_signal(int signal_number);
  void persist();
  void changed(const std::string& component);
  void end_turn();
  void update_status();
  void stop_in_order();
  void leave_running();

  Config config_;
  FdStore store_;
  EventLoop loop_;
  Inheritance inheritance_;
  ManifestMemory memory_;
  bool restarted_ = false;  // a former core left something
  bool manifest_found_ = false;
  std::string custody_id_;
  CoreFacts facts_;
  CgroupTree cgroups_;
  EventLog events_;
  IncidentLog incidents_;
  Registry registry_;
  FaultBoard faults_;
  CustodyTotal custody_;
  Services services_;
  std::optional<Service> service_;
  std::unique_ptr<ApiLink> api_;
  std::unique_ptr<ServiceManager> manager_;
  UniqueFd edge_far_end_;  // of the edge that is just being launched
  UniqueFd signals_;
  std::uint64_t last_instance_ = 0;
  std::size_t adopted_ = 0;
  std::set<std::string> changed_;
  bool turn_ending_ = false;
  bool stopping_ = false;
  bool leaving_ = false;
};

}  // namespace bulkhead::supervisor
