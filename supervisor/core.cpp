#include "supervisor/core.h"

#include <spdlog/spdlog.h>
#include <sys/signalfd.h>
#include <systemd/sd-id128.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <csignal>
#include <filesystem>
#include <ranges>

#include "runtime/clock.h"
#include "runtime/crash_point.h"
#include "runtime/seqpacket.h"
#include "supervisor/log.h"
#include "supervisor/programs.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint edge_before_launch{"core-edge-before-launch"};
CrashPoint stop_before_cleanup{"core-stop-before-cleanup"};

constexpr int kEdgeNumber = 3;
constexpr int kListenNumber = 4;
constexpr const char* kEdgePart = "/edge";

Result<ManifestMemory> manifest_memory(Inheritance& inheritance, const FdStore& store) {
  // By name the store removes all of them, so the one that counts is parked after that.
  if (inheritance.unreadable_manifest) {
    spdlog::warn("dropping a manifest from the descriptor store: it cannot be read");
    store.remove(kManifestName);
  }
  auto memory =
      inheritance.memory ? Result<ManifestMemory>(std::move(*inheritance.memory)) : ManifestMemory::create();
  if (!memory) return memory;
  if (inheritance.memory && !inheritance.unreadable_manifest) return memory;
  if (auto parked = store.park(kManifestName, memory->fd()); !parked) return forward(std::move(parked));
  return memory;
}

std::optional<gid_t> group_of(const std::string& name) {
  if (name.empty()) return std::nullopt;
  auto group = resolve_group(name);
  if (group) return *group;
  spdlog::warn("api.group: {}; only root may change things", group.error().message());
  return std::nullopt;
}

std::vector<std::string> edge_arguments(const TcpConfig& tcp) {
  if (tcp.address.empty()) return {};
  return {"--tcp=" + tcp.address, "--tls-cert=" + tcp.cert, "--tls-key=" + tcp.key,
          "--tls-client-ca=" + tcp.client_ca};
}

bool group_may_connect(std::uint32_t mode) {
  constexpr std::uint32_t kGroup = 0060;
  constexpr std::uint32_t kOthers = 0006;
  return (mode & kGroup) == kGroup || (mode & kOthers) == kOthers;
}

std::string random_id() {
  sd_id128_t id{};
  std::array<char, SD_ID128_STRING_MAX> text{};
  (void)sd_id128_randomize(&id);  // fails only on a kernel without getrandom(2)
  return sd_id128_to_string(id, text.data());
}

Status make_directory(const std::string& path) {
  std::error_code error;
  std::filesystem::create_directories(path, error);
  if (!error) return {};
  return failure(ErrorKind::kFailed, "cannot make directory " + path + ": " + error.message());
}

}  // namespace

// ---- at start ----

Result<std::unique_ptr<Core>> Core::create(Config config, FdStore store) {
  for (const std::string& directory : {config.supervisor.runtime_dir, config.supervisor.state_dir}) {
    if (auto made = make_directory(directory); !made) return forward(std::move(made));
  }
  auto loop = EventLoop::create();
  if (!loop) return forward(std::move(loop));
  Inheritance inheritance = sort_inheritance(store.take_inherited());
  const bool restarted = inheritance.memory.has_value() || !inheritance.empty();
  const bool found = inheritance.memory.has_value();
  auto memory = manifest_memory(inheritance, store);
  if (!memory) return forward(std::move(memory));
  std::unique_ptr<Core> core(new Core(std::move(config), std::move(store), std::move(*loop),
                                      std::move(inheritance), std::move(*memory)));
  core->restarted_ = restarted;
  core->manifest_found_ = found;
  if (auto watched = core->watch_signals(); !watched) return forward(std::move(watched));
  core->build_components();
  if (auto adopted = core->adopt(); !adopted) return forward(std::move(adopted));
  return core;
}

Core::Core(Config config, FdStore store, EventLoop loop, Inheritance inheritance, ManifestMemory memory)
    : config_(std::move(config)),
      store_(std::move(store)),
      loop_(std::move(loop)),
      inheritance_(std::move(inheritance)),
      memory_(std::move(memory)),
      custody_id_(inheritance_.manifest.custody_id().empty() ? random_id()
                                                             : inheritance_.manifest.custody_id()),
      facts_{inheritance_.manifest.generation() + 1, wall_us() / 1000},
      cgroups_(CgroupTree::detect()),
      events_(std::max<std::uint64_t>(inheritance_.manifest.next_event(), 1)),
      incidents_(IncidentStore(config_.supervisor.state_dir + "/incidents.db",
                               {config_.incidents.max_age_ns / kMicrosecond, config_.incidents.max_count},
                               wall_us())),
      faults_(
          loop_, events_, [this] { persist(); },
          [this](const std::string& component, std::uint64_t instance) -> Instance* {
            Component* found = registry_.find(component);
            return found == nullptr ? nullptr : found->find_instance(instance);
          }),
      custody_{.max_items = config_.custody.max_items_total},
      services_(services()),
      last_instance_(std::max(inheritance_.manifest.last_instance(), inheritance_.newest_instance())) {
  if (!cgroups_.note().empty()) spdlog::info("control groups: {}", cgroups_.note());
  manager_ = std::make_unique<ServiceManager>(loop_, store_);
}

Core::~Core() = default;

Services Core::services() {
  return {loop_,
          store_,
          memory_,
          events_,
          incidents_,
          faults_,
          config_,
          custody_,
          [this] { persist(); },
          [this](const std::string& component) { changed(component); },
          [this] { return ++last_instance_; },
          [this](const std::string& component) {
            const Component* found = registry_.find(component);
            return found != nullptr && found->facts().ready;
          },
          [this](const std::string& component) {
            return std::ranges::none_of(registry_.all(), [&](const auto& other) {
              return other->name() != component && other->busy();
            });
          }};
}

void Core::build_components() {
  for (const ComponentConfig& component : config_.components) {
    add_component(component, launcher_for(component), std::nullopt, {});
  }
  build_edge();
}

void Core::build_edge() {
  const std::optional<gid_t> group = group_of(config_.api.group);
  service_.emplace(registry_, events_, incidents_, faults_, facts_,
                   Authorisation{group, config_.api.tcp.admins});
  api_ =
      std::make_unique<ApiLink>(loop_, [this](const std::shared_ptr<Call>& call) { service_->handle(call); });
  ComponentConfig& edge = config_.api.process;
  edge.enabled = config_.api.enabled;
  edge.socket = config_.api.socket;
  edge.socket_mode = config_.api.socket_mode;
  edge.readiness.type = CheckType::kNotify;
  for (std::string& argument : edge_arguments(config_.api.tcp)) edge.args.push_back(std::move(argument));
  InstanceLauncher launcher = launcher_for(edge);
  if (launcher.account() && !group_may_connect(edge.socket_mode) &&
      edge.liveness.target == "unix:" + edge.socket) {
    spdlog::warn("api.socket_mode: keeps the edge's own health check out; if it hangs, nobody will notice");
    edge.liveness.type = CheckType::kNone;
  }
  launcher.let_checks_join(group.value_or(::getegid()));
  add_component(edge, std::move(launcher), group, edge_extra());
}

InstanceLauncher Core::launcher_for(const ComponentConfig& config) const {
  return {config, config_.supervisor, cgroups_, custody_id_, !store_.durable()};
}

void Core::add_component(const ComponentConfig& config, InstanceLauncher launcher, std::optional<gid_t> group,
                         InstanceExtra extra) {
  for (const std::string& note : launcher.notes()) spdlog::info("{}: {}", config.name, note);
  registry_.add(std::make_unique<Component>(config, services_, std::move(launcher), group, std::move(extra)));
}

// The edge is a component like any other, but for a socket to the core and the listening socket.
InstanceExtra Core::edge_extra() {
  return {.before_launch =
              [this](Instance& instance, InstanceLauncher::Addition& addition) {
                return prepare_edge(instance, addition);
              },
          .launched =
              [this](Instance& instance) {
                edge_far_end_.reset();
                if (auto attached = api_->attach(instance.edge.borrow()); !attached) {
                  spdlog::error("api: {}", attached.error().message());
                }
              },
          .ended =
              [this](const Instance& instance) {
                if (api_->socket().get() == instance.edge.get()) api_->detach();
              }};
}

Status Core::prepare_edge(Instance& instance, InstanceLauncher::Addition& addition) {
  const std::string& name = config_.api.process.name;
  auto pair = seqpacket_pair();
  if (!pair) return forward(std::move(pair));
  instance.edge = std::move(pair->first);
  edge_far_end_ = std::move(pair->second);
  const HeldItem* listener = registry_.find(name)->custody().find("listener");
  if (listener == nullptr) return failure(ErrorKind::kRefused, "its listening socket is missing");
  auto parked = store_.park(parked_prefix(name, instance.id) + kEdgePart, instance.edge.borrow());
  if (!parked) return parked;
  edge_before_launch.pass();
  addition.descriptors.push_back({edge_far_end_.borrow(), kEdgeNumber});
  addition.descriptors.push_back({listener->fd.borrow(), kListenNumber});
  addition.environment.push_back("BULKHEAD_EDGE_FD=" + std::to_string(kEdgeNumber));
  addition.environment.push_back("BULKHEAD_LISTEN_FD=" + std::to_string(kListenNumber));
  return {};
}

Status Core::adopt() {
  memory_.count_death();
  for (const manifest::v1::Component& record : inheritance_.manifest.components()) {
    Component* component = registry_.find(record.name());
    if (component == nullptr) {
      drop_component(record);
    } else {
      component->adopt(record);
      component->adopt_programs(record, inheritance_.programs[record.name()]);
    }
  }
  for (const auto& component : registry_.all()) {
    if (auto ready = adopt_items(*component); !ready) return ready;
  }
  for (const manifest::v1::Component& record : inheritance_.manifest.components()) {
    Component* component = registry_.find(record.name());
    if (component == nullptr) continue;
    for (const manifest::v1::Instance& instance : record.instances()) adopt_instance(*component, instance);
  }
  drop_rest();
  faults_.undo_restored(inheritance_.manifest);
  persist();
  return {};
}

Status Core::adopt_items(Component& component) {
  for (FdStore::Entry& entry : std::exchange(inheritance_.items[component.name()], {})) {
    const std::string name = entry.name;
    if (auto kept = component.adopt_item(std::move(entry)); !kept) {
      spdlog::warn("dropping {} from the descriptor store: {}", name, kept.error().message());
      store_.remove(name);
    }
  }
  return component.prepare();
}

void Core::adopt_instance(Component& component, const manifest::v1::Instance& record) {
  const auto key = std::pair(component.name(), record.id());
  auto& parts = inheritance_.instances[key];
  if (record.pid() != 0) {
    auto adopted = component.adopt_instance(record, parts);
    if (adopted) {
      ++adopted_;
      inheritance_.instances.erase(key);
      return;
    }
    spdlog::warn("{}: cannot re-adopt process {}: {}", component.name(), record.pid(),
                 adopted.error().message());
  }
  // Started, perhaps, by a core that died before it could say so: it owns nothing and nobody knows it.
  for (const PidFd& orphan : find_orphans(custody_id_, component.name(), record.id())) {
    spdlog::warn("{}: ending process {}, whose start was not completed", component.name(), orphan.pid());
    (void)orphan.signal(SIGKILL);  // it may have ended by itself
  }
}

void Core::drop_component(const manifest::v1::Component& record) {
  spdlog::warn("{} is not configured any more: ending its processes, dropping its custody", record.name());
  for (const manifest::v1::Instance& instance : record.instances()) {
    UniqueFd process = std::move(inheritance_.instances[{record.name(), instance.id()}]["process"]);
    if (process.valid()) (void)PidFd(instance.pid(), std::move(process)).signal(SIGKILL);
  }
}

// What is still in the inheritance belongs to nobody.
void Core::drop_rest() {
  const auto drop = [this](const std::string& name) {
    spdlog::warn("dropping {} from the descriptor store: nobody knows it", name);
    store_.remove(name);
  };
  for (const std::string& name : inheritance_.unknown) drop(name);
  for (const auto& [component, entries] : inheritance_.items) {
    for (const FdStore::Entry& entry : entries) drop(entry.name);
  }
  for (const auto& [component, numbers] : inheritance_.programs) {
    for (const auto& [number, file] : numbers) drop(program_name(component, number));
  }
  for (auto& [key, parts] : inheritance_.instances) {
    // A process that nobody can adopt (the manifest was lost) must not go on beside the one that is started
    // now.
    if (const auto process = parts.find("process"); process != parts.end()) {
      (void)PidFd(0, std::move(process->second)).signal(SIGKILL);  // it may have ended by itself
    }
    for (const auto& [part, fd] : parts) drop(parked_prefix(key.first, key.second) + "/" + part);
  }
  inheritance_.items.clear();
  inheritance_.programs.clear();
  inheritance_.instances.clear();
  inheritance_.unknown.clear();
}

void Core::tell_restart() {
  const std::string text = "core restarted: generation " + std::to_string(facts_.generation) + ", " +
                           std::to_string(adopted_) + " processes re-adopted";
  events_.note(v1::Event::KIND_SUPERVISOR, "", 0, text);
  v1::Incident incident;
  incident.set_finding("core");
  incident.set_deliberate(inheritance_.manifest.left_running());
  incident.set_evidence(!manifest_found_
                            ? "the core's manifest could not be read: everything is started again"
                        : incident.deliberate() ? "the core was restarted on request"
                                                : "the core ended unexpectedly");
  incident.add_steps("re-adopt " + std::to_string(adopted_) + " processes");
  incident.set_detection_us(-1);
  incident.set_outcome("recovered");
  incident.set_next_step("re-adopt");
  incidents_.open(std::move(incident));
}

Status Core::watch_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int number : {SIGTERM, SIGINT, SIGUSR2, SIGHUP}) ::sigaddset(&set, number);
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  if (!signals_.valid()) return os_failure("cannot watch signals");
  return loop_.watch(signals_.borrow(), EPOLLIN, [this](std::uint32_t) {
    signalfd_siginfo info{};
    if (::read(signals_.get(), &info, sizeof info) == sizeof info)
      on_signal(static_cast<int>(info.ssi_signo));
  });
}

// ---- running ----

Result<int> Core::run() {
  std::set<std::int64_t> open;
  for (const auto& component : registry_.all()) component->add_open_incidents(open);
  incidents_.close_orphans(open);
  if (restarted_) {
    tell_restart();
  } else {
    events_.note(v1::Event::KIND_SUPERVISOR, "", 0, "core started: " + registry_.names());
  }
  inheritance_.manifest.Clear();
  for (const auto& component : registry_.all()) component->begin();
  persist();
  end_turn();
  if (auto ran = loop_.run(); !ran) return forward(std::move(ran), "the event loop failed");
  return leaving_ ? kLeftRunning : 0;
}

void Core::on_signal(int signal_number) {
  switch (signal_number) {
    case SIGTERM:
    case SIGINT:
      if (std::exchange(stopping_, true)) return;
      spdlog::info("ending: all components first");
      manager_->stopping();
      return stop_in_order();
    case SIGUSR2:
      return leave_running();
    default:
      return;  // SIGHUP: the log level is changed through the API
  }
}

void Core::leave_running() {
  if (!store_.durable()) {
    spdlog::warn("not leaving: there is no descriptor store that would keep the components' descriptors");
    return;
  }
  spdlog::info("leaving; the components stay");
  leaving_ = true;
  persist();
  loop_.stop();
}

void Core::stop_in_order() {
  bool any = false;
  for (const auto& component : registry_.all() | std::views::reverse) {
    const bool running = component->facts().running;
    any = any || running || component->state() == State::kStopping;
    const bool edge = component->name() == config_.api.process.name;
    const bool last = edge && std::ranges::any_of(registry_.all(), [&](const auto& other) {
                        return other.get() != component.get() && other->facts().running;
                      });
    if (component->facts().wanted && registry_.dependants_gone(component->name()) && !last)
      component->shut_down();
  }
  if (any) return;
  stop_before_cleanup.pass();
  for (const auto& component : registry_.all()) component->release_custody();
  store_.remove(kManifestName);
  loop_.stop();
}

void Core::persist() {
  manifest::v1::Manifest manifest;
  manifest.set_generation(facts_.generation);
  for (const auto& component : registry_.all()) *manifest.add_components() = component->record();
  faults_.record(manifest);
  manifest.set_next_event(events_.next_sequence());
  manifest.set_last_instance(last_instance_);
  manifest.set_left_running(leaving_);
  manifest.set_custody_id(custody_id_);
  if (auto written = memory_.write(manifest); !written) spdlog::error("{}", written.error().message());
}

void Core::changed(const std::string& component) {
  changed_.insert(component);
  if (std::exchange(turn_ending_, true)) return;
  loop_.after(0, [this] { end_turn(); });
}

void Core::end_turn() {
  turn_ending_ = false;
  persist();
  for (const std::string& name : std::exchange(changed_, {})) {
    if (const Component* component = registry_.find(name)) registry_.changes().publish(component->describe());
  }
  // Whoever waits for a component that has just become ready.
  for (const auto& component : registry_.all()) component->check_dependencies();
  if (stopping_) stop_in_order();
  update_status();
}

void Core::update_status() {
  std::string text;
  bool settled = true;
  for (const auto& component : registry_.all()) {
    settled = settled && component->settled();
    text += (text.empty() ? "" : ", ") + component->name() + " " + std::string(name_of(component->state()));
  }
  manager_->status(text);
  if (settled) manager_->ready();
}

}  // namespace bulkhead::supervisor
