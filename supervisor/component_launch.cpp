// How an instance comes to be: started, or re-adopted from a former core. The order of the steps, and what a
// successor sees if the core dies between two of them, is in docs/crash-windows.md.
#include <spdlog/spdlog.h>

#include <array>
#include <csignal>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "runtime/instance.h"
#include "supervisor/component.h"
#include "supervisor/listener.h"
#include "supervisor/log.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint launch_intent{"core-launch-intent"};
CrashPoint launch_linked{"core-launch-linked"};
CrashPoint launch_started{"core-launch-started"};
CrashPoint launch_half_parked{"core-launch-half-parked"};
CrashPoint launch_parked{"core-launch-parked"};
CrashPoint launch_recorded{"core-launch-recorded"};
CrashPoint introduce_half{"core-introduce-half"};
CrashPoint introduced{"core-introduced"};

constexpr std::size_t kMaxLastWords = 256;
constexpr std::array kParkedParts{"process", "output", "error", "edge"};

}  // namespace

// ---- what the core itself puts into custody ----

Status Component::prepare() {
  drop_unfinished();
  // The count was lost with the manifest, but what is in custody remembers it: it must not come again.
  if (ring_generation_ == 0 && !custody_.items().empty()) {
    ring_generation_ = static_cast<std::uint64_t>(wall_us());
  }
  if (config_.kind == ComponentKind::kNative) {
    if (custody_.find(kLeaseItem) == nullptr) {
      auto segment = Lease::create();
      if (!segment) return forward(std::move(segment));
      auto held = custody_.deposit(kLeaseItem, "segment", std::move(*segment), 0, wall_us());
      if (!held) return forward(std::move(held), name() + ": cannot keep the lease");
    }
    auto lease = Lease::open(custody_.find(kLeaseItem)->fd.borrow());
    if (!lease) return forward(std::move(lease), name());
    lease_.emplace(std::move(*lease));
  }
  // Of one that is not wanted it is made when it is started: until then another program may listen there.
  return wanted_ || custody_.find(kListenerItem) != nullptr ? prepare_listener() : Status();
}

Status Component::prepare_listener() {
  const HeldItem* held = custody_.find(kListenerItem);
  const bool wanted = !config_.socket.empty();
  if (held != nullptr && wanted && listens_at(held->fd.borrow(), config_.socket)) return {};
  if (held != nullptr) {
    spdlog::warn("{}: the listening socket is not at {} any more; it is replaced", name(), config_.socket);
    (void)custody_.withdraw(kListenerItem);  // it is there
  }
  if (!wanted) return {};
  auto socket = listen_unix(config_.socket, config_.socket_mode, socket_group_);
  if (!socket) return forward(std::move(socket), name());
  auto kept = custody_.deposit(kListenerItem, "socket", std::move(*socket), 0, wall_us());
  if (!kept) return forward(std::move(kept), name() + ": cannot keep the listening socket");
  return {};
}

Status Component::make_ring() {
  if (config_.ring_entries == 0 || ring_.fd.valid()) return {};
  auto ring = create_ring(config_.ring_entries);
  if (!ring) return forward(std::move(ring));
  ring_ = std::move(*ring);
  ++ring_generation_;
  return {};
}

// ---- starting ----

Result<Instance*> Component::start_instance(Role role) {
  if (auto prepared = prepare_program(); !prepared) return forward(std::move(prepared));
  if (custody_.find(kListenerItem) == nullptr) {
    if (auto prepared = prepare_listener(); !prepared) return forward(std::move(prepared));
  }
  const std::uint64_t id = services_.new_instance();
  Instance& instance = *instances_.emplace(id, std::make_unique<Instance>()).first->second;
  instance.id = id;
  instance.role = role;
  instance.program = program_for(role);
  instance.started_ns = services_.loop.now();
  services_.persist();
  launch_intent.pass();
  auto started = start_process(instance);
  if (!started) {
    if (instance.process.valid()) services_.loop.unwatch(instance.process.fd());
    forget(instance);
    instances_.erase(id);
    services_.changed(name());
    return forward(std::move(started));
  }
  introduce(instance);
  surveillance_->add(instance);
  services_.changed(name());
  return &instance;
}

Status Component::start_process(Instance& instance) {
  const std::string prefix = parked_prefix(name(), instance.id);
  if (config_.kind == ComponentKind::kNative) {
    if (auto made = make_ring(); !made) return made;
    auto link = InstanceLink::create(prefix, services_.store, custody_);
    if (!link) return forward(std::move(link));
    instance.link = std::move(*link);
  }
  launch_linked.pass();
  auto launched = launch_process(instance);
  if (!launched) return forward(std::move(launched));
  launch_started.pass();
  instance.process = std::move(launched->process);
  if (auto parked = park_process(instance, *launched); !parked) return abandon(instance, std::move(parked));
  services_.persist();
  launch_recorded.pass();
  auto connected = connect(instance, std::move(launched->output), std::move(launched->error_output));
  return connected ? Status() : abandon(instance, std::move(connected));
}

Status Component::park_process(const Instance& instance, const Launched& launched) const {
  const std::string prefix = parked_prefix(name(), instance.id);
  const FdStore& store = services_.store;
  if (auto parked = store.park(prefix + "/process", instance.process.fd()); !parked) return parked;
  launch_half_parked.pass();
  if (auto parked = store.park(prefix + "/output", launched.output.borrow()); !parked) return parked;
  if (auto parked = store.park(prefix + "/error", launched.error_output.borrow()); !parked) return parked;
  launch_parked.pass();
  return {};
}

// Before introduce() an instance owns nothing, so it can simply be ended.
Status Component::abandon(Instance& instance, Status why) {
  (void)instance.process.signal(SIGKILL);
  return why;
}

Result<Launched> Component::launch_process(Instance& instance) {
  InstanceLauncher::Addition addition;
  if (instance.link) {
    addition.environment.push_back(std::string(kContractFdVariable) + "=" + std::to_string(kContractNumber));
    addition.descriptors.push_back({instance.link->instance_end(), kContractNumber});
  }
  if (ring_.fd.valid()) {
    addition.environment.push_back(std::string(kRingFdVariable) + "=" + std::to_string(kRingNumber));
    addition.descriptors.push_back({ring_.fd.borrow(), kRingNumber});
  }
  for (std::string& variable : surveillance_->notify_environment()) {
    addition.environment.push_back(std::move(variable));
  }
  if (extra_.before_launch) {
    if (auto added = extra_.before_launch(instance, addition); !added) return forward(std::move(added));
  }
  auto launched = launcher_.launch(instance.id, std::move(addition), programs_.find(instance.program));
  if (!launched) return launched;
  for (const std::string& note : launched->notes) spdlog::debug("{}[{}]: {}", name(), instance.id, note);
  if (instance.link) instance.link->close_instance_end();
  if (extra_.launched) extra_.launched(instance);
  return launched;
}

// From here on its end, its output and its messages are noticed.
Status Component::connect(Instance& instance, UniqueFd output, UniqueFd error_output) {
  const std::uint64_t id = instance.id;
  const auto logger = [this, id](bool is_error) {
    return [this, id, is_error](std::string_view line) {
      log_output(name(), id, is_error, line);
      Instance* said = is_error ? find_instance(id) : nullptr;
      if (said != nullptr) said->last_words = line.substr(0, kMaxLastWords);
    };
  };
  instance.output = std::make_unique<OutputReader>(services_.loop, std::move(output), logger(false));
  instance.error_output =
      std::make_unique<OutputReader>(services_.loop, std::move(error_output), logger(true));
  auto watched = services_.loop.watch(instance.process.fd(), EPOLLIN, [this, id](std::uint32_t) {
    if (Instance* ended = find_instance(id); ended != nullptr) on_end(*ended);
  });
  if (!watched || !instance.link) return watched;
  return instance.link->start(
      services_.loop, services_.memory, id,
      {.message =
           [this, id](const contract::FromInstance& message, std::vector<UniqueFd> fds) {
             if (Instance* from = find_instance(id); from != nullptr)
               on_message(*from, message, std::move(fds));
           },
       .lost = [this, id](const std::string& why) { on_lost(id, why); },
       .patience = [this, id] { return patience_with(id); },
       .persist = [this] { services_.persist(); }});
}

contract::Welcome Component::welcome_for(const Instance& instance) const {
  contract::Welcome welcome;
  welcome.set_contract_version(kContractVersion);
  welcome.set_component(name());
  welcome.set_instance(instance.id);
  welcome.set_reason(start_reason(instance));
  auto& settings = *welcome.mutable_settings();
  for (const auto& [key, value] : config_.settings) settings[key] = value;
  settings["ring_generation"] = std::to_string(ring_generation_);
  settings["socket"] = config_.socket;
  settings["runtime_dir"] = services_.config.supervisor.runtime_dir;
  settings["state_dir"] = services_.config.supervisor.state_dir;
  welcome.set_ring_params(ring_.params);
  welcome.set_log_level(services_.config.supervisor.log_level);
  return welcome;
}

contract::StartReason Component::start_reason(const Instance& instance) const {
  if (instance.role == Role::kStandby) return contract::START_REASON_STANDBY;
  if (reconciling_) return contract::START_REASON_RECONCILE;
  for (const auto& [item, held] : custody_.items()) {
    if (held.depositor != 0) return contract::START_REASON_REBUILD;
  }
  return contract::START_REASON_FRESH;
}

void Component::introduce(Instance& instance) {
  if (!instance.link) return;
  instance.link->send_welcome(welcome_for(instance));
  introduce_half.pass();
  for (const auto& [item, held] : custody_.items()) instance.link->send_item(item, held.kind);
  contract::ToInstance complete;
  complete.mutable_custody_complete();
  instance.link->send(std::move(complete));
  instance.custody_sent = true;
  introduced.pass();
}

void Component::forget(const Instance& instance) const {
  const std::string prefix = parked_prefix(name(), instance.id);
  for (const char* part : kParkedParts) services_.store.remove(prefix + "/" + part);
  if (instance.link) instance.link->forget();
  if (extra_.ended) extra_.ended(instance);
}

// ---- re-adopting ----

void Component::adopt(const manifest::v1::Component& record) {
  wanted_ = operator_wanted_ = record.wanted();
  if (record.state() == v1::STATE_ISOLATED) state_ = State::kIsolated;
  cause_ = record.cause();
  since_unix_ms_ = record.since_unix_ms();
  incarnation_ = record.incarnation();
  restarts_ = record.restarts();
  incidents_ = record.incidents();
  ring_.params = record.ring_params();
  ring_generation_ = record.ring_generation();
  started_once_ = record.incarnation() > 0;
  if (record.has_outage()) outage_.restore(record.outage());
  if (record.has_standby_outage()) standby_failures_.restore(record.standby_outage());
  rejuvenation_.restore(record.growth_factor());
  restore_ladder(record.ladder());
  was_stopping_ = record.state() == v1::STATE_STOPPING;
}

Status Component::adopt_instance(const manifest::v1::Instance& record,
                                 std::map<std::string, UniqueFd>& parts) {
  auto instance = std::make_unique<Instance>();
  restore(*instance, record);
  instance->process = PidFd(record.pid(), std::move(parts["process"]));
  instance->edge = std::move(parts["edge"]);
  if (!instance->process.valid()) return failure(ErrorKind::kInvalid, "its process descriptor is missing");
  if (config_.kind == ComponentKind::kNative) {
    auto link = InstanceLink::adopt(
        parked_prefix(name(), record.id()), services_.store, custody_,
        {std::move(parts["contract"]), std::move(parts["vitals"]), std::move(parts["wake"])});
    if (!link) return forward(std::move(link));
    instance->link = std::move(*link);
  }
  if (!ring_.fd.valid() && !ring_.params.empty()) {
    if (auto ring = recover_ring(instance->process, kRingNumber, ring_.params)) ring_ = std::move(*ring);
  }
  instance->ended_unseen = instance->process.has_ended();
  if (!instance->ended_unseen) adopt_program_of(*instance);
  Instance& kept = *instances_.emplace(record.id(), std::move(instance)).first->second;
  if (kept.role == Role::kFormer) fence_later(kept.id);
  if (kept.role == Role::kStandby)
    standby_state_ = kept.ready ? StandbyState::kReady : StandbyState::kStarting;
  surveillance_->add(kept);
  if (kept.ready) {
    prefer(kept);
    surveillance_->watch_progress(kept);
  }
  auto connected = connect(kept, std::move(parts["output"]), std::move(parts["error"]));
  if (!connected) return connected;
  if (!kept.custody_sent) introduce(kept);
  if (extra_.launched) extra_.launched(kept);
  return {};
}

}  // namespace bulkhead::supervisor
