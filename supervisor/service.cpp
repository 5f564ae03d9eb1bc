#include "supervisor/service.h"

#include <unistd.h>

#include <algorithm>
#include <fstream>

#include "runtime/clock.h"
#include "supervisor/log.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::size_t kMaxListBytes = std::size_t{160} * 1024;  // of a response; packets end at 192 KiB

std::string identity(const bulkhead::contract::v1::Caller& caller) {
  if (caller.has_unix()) {
    return "uid " + std::to_string(caller.unix().uid()) + ", process " + std::to_string(caller.unix().pid());
  }
  return "certificate " + caller.certificate();
}

std::string hypervisor() {
  std::ifstream file("/sys/hypervisor/type");
  std::string type;
  return file >> type ? type : "none";
}

// Ends the subscription with the call.
template <typename T>
void stream(Publisher<T>& publisher, const std::shared_ptr<Call>& call,
            std::function<void(Call&, const T&)> each) {
  const std::weak_ptr<Call> weak = call;
  const auto id = publisher.subscribe([weak, each = std::move(each)](const T& value) {
    if (const auto strong = weak.lock()) each(*strong, value);
  });
  call->on_end([&publisher, id] { publisher.unsubscribe(id); });
}

// Gathers the answers of several components before the call is answered.
struct QuotaGathering {
  std::shared_ptr<Call> call;
  v1::ListQuotasResponse response;
  std::string trouble;
  bool single = false;
  ~QuotaGathering() {
    if (single && !trouble.empty()) {
      call->fail(Code::kUnavailable, trouble);
    } else {
      call->reply(response);
    }
  }
};

}  // namespace

bool Authorisation::may_change(const bulkhead::contract::v1::Caller& caller) const {
  if (caller.has_unix()) {
    const auto& peer = caller.unix();
    if (peer.uid() == 0 || peer.uid() == ::geteuid()) return true;
    if (!group) return false;
    return peer.gid() == *group || std::ranges::find(peer.groups(), *group) != peer.groups().end();
  }
  if (caller.certificate().empty()) return false;
  return std::ranges::find(certificates, caller.certificate()) != certificates.end();
}

struct Service::Method {
  std::string_view name;
  bool changes;  // needs authorisation
  void (Service::*handle)(const CallPtr& call);
};

template <typename Request, void (Service::*handler)(const std::shared_ptr<Call>&, const Request&)>
void Service::parsed(const CallPtr& call) {
  Request request;
  if (!request.ParseFromString(call->body())) {
    return call->fail(Code::kInvalidArgument, "the request cannot be parsed");
  }
  (this->*handler)(call, request);
}

const std::vector<Service::Method>& Service::methods() {
  using S = Service;
  static const std::vector<Method> kMethods{
      {"ListComponents", false, &S::parsed<v1::ListComponentsRequest, &S::list_components>},
      {"WatchComponents", false, &S::parsed<v1::WatchComponentsRequest, &S::watch_components>},
      {"WatchEvents", false, &S::parsed<v1::WatchEventsRequest, &S::watch_events>},
      {"ListIncidents", false, &S::parsed<v1::ListIncidentsRequest, &S::list_incidents>},
      {"WatchIncidents", false, &S::parsed<v1::WatchIncidentsRequest, &S::watch_incidents>},
      {"InjectFault", true, &S::parsed<v1::InjectFaultRequest, &S::inject_fault>},
      {"ListFaults", false, &S::parsed<v1::ListFaultsRequest, &S::list_faults>},
      {"ClearFaults", true, &S::parsed<v1::ClearFaultsRequest, &S::clear_faults>},
      {"HandOver", true, &S::parsed<v1::HandOverRequest, &S::hand_over>},
      {"Restart", true, &S::parsed<v1::RestartRequest, &S::restart>},
      {"Upgrade", true, &S::parsed<v1::UpgradeRequest, &S::upgrade>},
      {"Drain", true, &S::parsed<v1::DrainRequest, &S::drain>},
      {"Enable", true, &S::parsed<v1::EnableRequest, &S::enable>},
      {"Disable", true, &S::parsed<v1::DisableRequest, &S::disable>},
      {"ListCustody", false, &S::parsed<v1::ListCustodyRequest, &S::list_custody>},
      {"ImportCustody", true, &S::parsed<v1::ImportCustodyRequest, &S::import_custody>},
      {"ReleaseCustody", true, &S::parsed<v1::ReleaseCustodyRequest, &S::release_custody>},
      {"ListQuotas", false, &S::parsed<v1::ListQuotasRequest, &S::list_quotas>},
      {"SetQuota", true, &S::parsed<v1::SetQuotaRequest, &S::set_quota>},
      {"SetLogLevel", true, &S::parsed<v1::SetLogLevelRequest, &S::set_log_level>},
      {"GetVersion", false, &S::parsed<v1::GetVersionRequest, &S::get_version>},
  };
  return kMethods;
}

void Service::handle(const CallPtr& call) {
  const auto method = std::ranges::find(methods(), call->method(), &Method::name);
  if (method == methods().end()) {
    return call->fail(Code::kUnimplemented, "unknown method '" + call->method() + "'");
  }
  if (method->changes && !authorisation_.may_change(call->caller())) {
    return call->fail(
        Code::kPermissionDenied,
        call->method() + " is for root and the supervisor's group, not for " + identity(call->caller()));
  }
  (this->*method->handle)(call);
}

Component* Service::named(const CallPtr& call, const std::string& name) const {
  Component* component = registry_.find(name);
  if (component == nullptr) {
    call->fail(Code::kNotFound, "unknown component '" + name + "'; known are " + registry_.names());
  }
  return component;
}

bool Service::known(const CallPtr& call, const std::string& name) const {
  return name.empty() || named(call, name) != nullptr;
}

// ---- components ----

void Service::list_components(const CallPtr& call, const v1::ListComponentsRequest& request) {
  if (!known(call, request.name())) return;
  v1::ListComponentsResponse response;
  for (const auto& component : registry_.all()) {
    if (request.name().empty() || component->name() == request.name()) {
      *response.add_components() = component->describe();
    }
  }
  call->reply(response);
}

void Service::watch_components(const CallPtr& call, const v1::WatchComponentsRequest& request) {
  if (!known(call, request.name())) return;
  const auto tell = [name = request.name()](Call& to, const v1::Component& component) {
    if (!name.empty() && component.name() != name) return;
    v1::ComponentChange change;
    *change.mutable_component() = component;
    to.element(change);
  };
  for (const auto& component : registry_.all()) tell(*call, component->describe());
  if (!call->ended()) stream<v1::Component>(registry_.changes(), call, tell);
}

void Service::watch_events(const CallPtr& call, const v1::WatchEventsRequest& request) {
  if (!known(call, request.component())) return;
  stream<v1::Event>(events_.published(), call,
                    [name = request.component()](Call& to, const v1::Event& event) {
                      if (name.empty() || event.component() == name) to.element(event);
                    });
}

// ---- incidents ----

void Service::list_incidents(const CallPtr& call, const v1::ListIncidentsRequest& request) {
  // A component that is not configured any more may still have incidents, so any name may be asked for.
  auto response = incidents_.store().list({request.component(), request.before_id(), request.limit()});
  while (response.ByteSizeLong() > kMaxListBytes && response.incidents_size() > 1) {
    response.mutable_incidents()->RemoveLast();
    response.set_next_before_id(response.incidents(response.incidents_size() - 1).id());
  }
  call->reply(response);
}

void Service::watch_incidents(const CallPtr& call, const v1::WatchIncidentsRequest& request) {
  stream<v1::Incident>(incidents_.published(), call,
                       [name = request.component()](Call& to, const v1::Incident& incident) {
                         if (name.empty() || incident.component() == name) to.element(incident);
                       });
}

// ---- faults ----

void Service::inject_fault(const CallPtr& call, const v1::InjectFaultRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  auto instance = component->target(request.target());
  if (!instance) return call->fail(instance.error());
  auto fault = faults_.inject(request, **instance, identity(call->caller()));
  if (!fault) return call->fail(fault.error());
  if (std::ranges::find((*instance)->hello.client_faults(), request.kind()) !=
      (*instance)->hello.client_faults().end()) {
    const std::int64_t lease_ms = request.for_ms() == 0 ? FaultBoard::kDefaultLeaseMs : request.for_ms();
    component->excuse_probe(lease_ms * kMillisecond);
  }
  v1::InjectFaultResponse response;
  *response.mutable_fault() = std::move(*fault);
  call->reply(response);
}

void Service::list_faults(const CallPtr& call, const v1::ListFaultsRequest& request) {
  if (!known(call, request.component())) return;
  v1::ListFaultsResponse response;
  for (v1::Fault& fault : faults_.list(request.component())) *response.add_faults() = std::move(fault);
  for (const auto& component : registry_.all()) {
    if (!request.component().empty() && component->name() != request.component()) continue;
    auto instance = component->target("active");
    if (!instance) continue;
    for (v1::FaultKind& kind : FaultBoard::kinds(component->name(), **instance)) {
      *response.add_kinds() = std::move(kind);
    }
  }
  call->reply(response);
}

void Service::clear_faults(const CallPtr& call, const v1::ClearFaultsRequest& request) {
  if (!known(call, request.component())) return;
  auto cleared = faults_.clear(request.id(), request.component());
  if (!cleared) return call->fail(cleared.error());
  v1::ClearFaultsResponse response;
  for (v1::Fault& fault : *cleared) *response.add_cleared() = std::move(fault);
  call->reply(response);
}

// ---- operations ----

template <typename Response>
void Service::when_reached(const CallPtr& call, Component& component, Component::Goal goal, Status asked) {
  if (!asked) return call->fail(asked.error());
  component.await(goal, [call, &component](Status reached) {
    if (!reached) return call->fail(reached.error());
    Response response;
    *response.mutable_component() = component.describe();
    if constexpr (requires { response.set_blackout_us(0); }) {
      response.set_blackout_us(component.last_blackout_us());
    }
    call->reply(response);
  });
}

void Service::hand_over(const CallPtr& call, const v1::HandOverRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  const auto before = component->serving_instance();
  Status asked = component->hand_over();
  when_reached<v1::HandOverResponse>(call, *component, Component::Goal::serving_but(before),
                                     std::move(asked));
}

void Service::restart(const CallPtr& call, const v1::RestartRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  const auto before = component->serving_instance();
  Status asked = component->restart();
  when_reached<v1::RestartResponse>(call, *component, Component::Goal::serving_but(before), std::move(asked));
}

void Service::upgrade(const CallPtr& call, const v1::UpgradeRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  if (request.rollback() && !request.program().empty()) {
    return call->fail(Code::kInvalidArgument, "a return is to the program that is kept: do not name one");
  }
  const auto done = [call, component](Status upgraded) {
    if (!upgraded) return call->fail(upgraded.error());
    v1::UpgradeResponse response;
    *response.mutable_component() = component->describe();
    response.set_blackout_us(component->last_blackout_us());
    call->reply(response);
  };
  if (request.rollback()) return component->roll_back(done);
  component->upgrade(request.program(), done);
}

void Service::drain(const CallPtr& call, const v1::DrainRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  Status asked = component->operate(Event::kDrain);
  when_reached<v1::DrainResponse>(call, *component, Component::Goal::stopped(), std::move(asked));
}

void Service::disable(const CallPtr& call, const v1::DisableRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  Status asked = component->operate(Event::kDisable);
  when_reached<v1::DisableResponse>(call, *component, Component::Goal::stopped(), std::move(asked));
}

void Service::enable(const CallPtr& call, const v1::EnableRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  if (auto asked = component->operate(Event::kEnable); !asked) return call->fail(asked.error());
  v1::EnableResponse response;
  *response.mutable_component() = component->describe();
  call->reply(response);
}

// ---- custody, quotas ----

void Service::list_custody(const CallPtr& call, const v1::ListCustodyRequest& request) {
  if (!known(call, request.component())) return;
  v1::ListCustodyResponse response;
  std::size_t bytes = 0, omitted = 0;
  for (const auto& component : registry_.all()) {
    if (!request.component().empty() && component->name() != request.component()) continue;
    response.set_limit_items(component->custody().limits().items);
    response.set_limit_bytes(component->custody().limits().bytes);
    std::vector<v1::CustodyItem> items = component->custody_list();
    for (v1::CustodyItem& item : items) {
      bytes += item.ByteSizeLong() + 4;
      if (bytes > kMaxListBytes) {
        ++omitted;
      } else {
        *response.add_items() = std::move(item);
      }
    }
  }
  if (omitted > 0) {
    v1::CustodyItem& rest = *response.add_items();
    rest.set_name("(" + std::to_string(omitted) + " more, too many to show)");
    rest.set_kind("omitted");
  }
  call->reply(response);
}

// Who may have the core take any descriptor of any process could do so himself.
void Service::import_custody(const CallPtr& call, const v1::ImportCustodyRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  const auto& caller = call->caller();
  if (!caller.has_unix() || (caller.unix().uid() != 0 && caller.unix().uid() != ::geteuid())) {
    return call->fail(Code::kPermissionDenied,
                      "ImportCustody is for root alone, not for " + identity(caller));
  }
  if (auto taken = component->import_custody(request); !taken) return call->fail(taken.error());
  v1::ImportCustodyResponse response;
  *response.mutable_component() = component->describe();
  call->reply(response);
}

void Service::release_custody(const CallPtr& call, const v1::ReleaseCustodyRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  if (auto released = component->release(); !released) return call->fail(released.error());
  v1::ReleaseCustodyResponse response;
  *response.mutable_component() = component->describe();
  call->reply(response);
}

void Service::list_quotas(const CallPtr& call, const v1::ListQuotasRequest& request) {
  if (!known(call, request.component())) return;
  const auto gathering = std::make_shared<QuotaGathering>();
  gathering->call = call;
  gathering->single = !request.component().empty();
  for (const auto& component : registry_.all()) {
    if (gathering->single && component->name() != request.component()) continue;
    if (component->config().kind != ComponentKind::kNative) continue;
    component->query("quotas", [gathering](Result<std::string> body) {
      v1::ListQuotasResponse part;
      if (!body) {
        gathering->trouble = body.error().message();
      } else if (part.ParseFromString(*body)) {
        gathering->response.MergeFrom(part);
      } else {
        gathering->trouble = "its answer cannot be parsed";
      }
    });
  }
}

void Service::set_quota(const CallPtr& call, const v1::SetQuotaRequest& request) {
  Component* component = named(call, request.component());
  if (component == nullptr) return;
  if (component->config().kind != ComponentKind::kNative) {
    return call->fail(Code::kFailedPrecondition, request.component() + " has no quotas");
  }
  component->query(
      "set-quota",
      [call](Result<std::string> body) {
        if (!body) return call->fail(body.error());
        call->reply(v1::SetQuotaResponse());
      },
      request.SerializeAsString());
}

// ---- the core itself ----

void Service::set_log_level(const CallPtr& call, const v1::SetLogLevelRequest& request) {
  if (!known(call, request.component())) return;
  if (auto valid = check_log_level(request.level()); !valid) return call->fail(valid.error());
  if (request.component().empty()) (void)supervisor::set_log_level(request.level());  // it is valid
  contract::ToInstance message;
  message.mutable_log_level()->set_level(request.level());
  for (const auto& component : registry_.all()) {
    if (request.component().empty() || component->name() == request.component()) component->send_all(message);
  }
  call->reply(v1::SetLogLevelResponse());
}

void Service::get_version(const CallPtr& call, const v1::GetVersionRequest& /*request*/) {
  v1::GetVersionResponse response;
  response.set_version(BULKHEAD_VERSION);
  response.set_core_pid(::getpid());
  response.set_core_started_unix_ms(facts_.started_unix_ms);
  response.set_core_generation(facts_.generation);
  response.set_hypervisor(hypervisor());
  call->reply(response);
}

}  // namespace bulkhead::supervisor
