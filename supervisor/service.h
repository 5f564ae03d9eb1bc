// Answers the calls of bulkhead.v1.Supervisor from the core's state; says who may change things.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "supervisor/api_link.h"
#include "supervisor/events.h"
#include "supervisor/faults.h"
#include "supervisor/incident_log.h"
#include "supervisor/registry.h"

namespace bulkhead::supervisor {

struct CoreFacts {
  std::uint64_t generation = 1;
  std::int64_t started_unix_ms = 0;
};

// Who may change things: uid 0, the core's own uid, members of the group, listed certificates. Everybody whom
// the socket lets in may read.
struct Authorisation {
  std::optional<gid_t> group;
  std::vector<std::string> certificates;  // subjects

  bool may_change(const bulkhead::contract::v1::Caller& caller) const;
};

class Service {
 public:
  // All outlive this.
  Service(Registry& registry, EventLog& events, IncidentLog& incidents, FaultBoard& faults,
          const CoreFacts& facts, Authorisation authorisation)
      : registry_(registry),
        events_(events),
        incidents_(incidents),
        faults_(faults),
        facts_(facts),
        authorisation_(std::move(authorisation)) {}

  // Answers now or later, exactly once; streams go on until their call ends.
  void handle(const std::shared_ptr<Call>& call);

 private:
  using CallPtr = std::shared_ptr<Call>;
  struct Method;
  static const std::vector<Method>& methods();

  template <typename Request, void (Service::*handler)(const CallPtr&, const Request&)>
  void parsed(const CallPtr& call);

  void list_components(const CallPtr& call, const v1::ListComponentsRequest& request);
  void watch_components(const CallPtr& call, const v1::WatchComponentsRequest& request);
  void watch_events(const CallPtr& call, const v1::WatchEventsRequest& request);
  void list_incidents(const CallPtr& call, const v1::ListIncidentsRequest& request);
  void watch_incidents(const CallPtr& call, const v1::WatchIncidentsRequest& request);
  void inject_fault(const CallPtr& call, const v1::InjectFaultRequest& request);
  void list_faults(const CallPtr& call, const v1::ListFaultsRequest& request);
  void clear_faults(const CallPtr& call, const v1::ClearFaultsRequest& request);
  void hand_over(const CallPtr& call, const v1::HandOverRequest& request);
  void restart(const CallPtr& call, const v1::RestartRequest& request);
  void upgrade(const CallPtr& call, const v1::UpgradeRequest& request);
  void drain(const CallPtr& call, const v1::DrainRequest& request);
  void enable(const CallPtr& call, const v1::EnableRequest& request);
  void disable(const CallPtr& call, const v1::DisableRequest& request);
  void list_custody(const CallPtr& call, const v1::ListCustodyRequest& request);
  void import_custody(const CallPtr& call, const v1::ImportCustodyRequest& request);
  void release_custody(const CallPtr& call, const v1::ReleaseCustodyRequest& request);
  void list_quotas(const CallPtr& call, const v1::ListQuotasRequest& request);
  void set_quota(const CallPtr& call, const v1::SetQuotaRequest& request);
  void set_log_level(const CallPtr& call, const v1::SetLogLevelRequest& request);
  void get_version(const CallPtr& call, const v1::GetVersionRequest& request);

  // Fails the call and returns nullptr if there is no such component.
  Component* named(const CallPtr& call, const std::string& name) const;
  // The same, for requests whose empty name means all.
  bool known(const CallPtr& call, const std::string& name) const;
  template <typename Response>
  void when_reached(const CallPtr& call, Component& component, Component::Goal goal, Status asked);

  Registry& registry_;
  EventLog& events_;
  IncidentLog& incidents_;
  FaultBoard& faults_;
  const CoreFacts& facts_;
  Authorisation authorisation_;
};

}  // namespace bulkhead::supervisor
