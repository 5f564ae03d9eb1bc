#include "tests/fuzz/contract_core.h"

#include <fcntl.h>
#include <poll.h>
#include <spdlog/sinks/null_sink.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <fstream>

#include "runtime/clock.h"
#include "runtime/seqpacket.h"

namespace bulkhead::fuzz {
namespace {

using namespace supervisor;  // NOLINT(google-build-using-namespace): what is tested

// The program does not exist, so every start fails in an orderly way.
constexpr const char* kConfig = R"(
[supervisor]
runtime_dir = "/nonexistent/run"
state_dir = "/nonexistent/state"
user = ""
group = ""
[api]
enabled = false
[custody]
max_items = 8
max_items_total = 12
max_bytes = "1MiB"
[components.thing]
program = "/nonexistent/program"
standby = true
)";

template <typename T>
T needed(Result<T> result) {
  require(result.has_value(), result ? "" : result.error().message());
  return std::move(*result);
}

std::pair<UniqueFd, UniqueFd> make_pipe() {
  std::array<int, 2> ends{};
  require(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK) == 0, "a pipe can be made");
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

}  // namespace

// ---- idle processes ----

// Asks the kernel, not the process, which may have to wait long for a CPU.
bool IdleProcess::idle() const {
  pollfd ended{process_.fd().get(), POLLIN, 0};
  if (!process_.valid() || ::poll(&ended, 1, 0) != 0) return false;
  std::ifstream status("/proc/" + std::to_string(pid()) + "/status");
  char state = 'Z';
  std::uint64_t pending = 0;
  for (std::string line; std::getline(status, line);) {
    if (line.starts_with("State:\t")) state = line[7];
    if (line.starts_with("SigPnd:\t") || line.starts_with("ShdPnd:\t"))
      pending |= std::stoull(line.substr(8), nullptr, 16);
  }
  return (state == 'S' || state == 'R') && pending == 0;
}

void IdleProcess::ensure() {
  if (idle()) return;
  end();
  const pid_t pid = ::fork();
  require(pid >= 0, "a process can be made");
  if (pid == 0) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    for (;;) ::pause();
  }
  process_ = needed(PidFd::open(pid));
}

void IdleProcess::end() {
  if (!process_.valid()) return;
  (void)process_.signal(SIGKILL);
  siginfo_t info{};
  // Fails if the core under test has reaped it.
  (void)!::waitid(P_PIDFD, static_cast<id_t>(process_.fd().get()), &info, WEXITED);
}

// ---- the core ----

CoreFixture::CoreFixture()
    : config(needed(parse_config(kConfig, "fuzz", {}))),
      memory(needed(ManifestMemory::create())),
      incidents(IncidentStore(":memory:", {kSecond, 100}, 0)) {
  ::signal(SIGPIPE, SIG_IGN);
  spdlog::set_default_logger(spdlog::null_logger_st("fuzz"));
}

MiniatureCore::MiniatureCore(CoreFixture& fixture, bool active_ready, bool standby_ready)
    : fixture_(fixture),
      loop_(needed(EventLoop::create())),
      faults_(
          loop_, events_, [this] { persist(); },
          [this](const std::string& component, std::uint64_t instance) -> Instance* {
            Component* found = registry_.find(component);
            return found == nullptr ? nullptr : found->find_instance(instance);
          }),
      total_{.max_items = fixture.config.custody.max_items_total},
      services_(services()),
      service_(registry_, events_, fixture.incidents, faults_, facts_, Authorisation{}),
      api_(loop_, [this](const std::shared_ptr<Call>& call) { service_.handle(call); }) {
  const ComponentConfig& config = *fixture.config.find("thing");
  InstanceLauncher launcher(config, fixture.config.supervisor, CgroupTree(), "id", true);
  Component& component = registry_.add(
      std::make_unique<Component>(config, services_, std::move(launcher), std::nullopt, InstanceExtra{}));
  manifest::v1::Component record;
  record.set_wanted(true);
  record.set_incarnation(1);
  component.adopt(record);
  require(component.prepare().has_value(), "the component can be prepared");
  adopt(0, active_ready);
  adopt(1, standby_ready);
  component.begin();
  std::tie(edge_near_, edge_far_) = needed(seqpacket_pair());
  require(api_.attach(edge_near_.borrow()).has_value(), "the edge can be attached");
  turn();
}

MiniatureCore::~MiniatureCore() {
  api_.detach();
}

Services MiniatureCore::services() {
  return {loop_,
          fixture_.store,
          fixture_.memory,
          events_,
          fixture_.incidents,
          faults_,
          fixture_.config,
          total_,
          [this] { persist(); },
          [this](const std::string& component) { changed_.insert(component); },
          [this] { return ++last_instance_; },
          [this](const std::string& component) {
            const Component* found = registry_.find(component);
            return found != nullptr && found->facts().ready;
          },
          [](const std::string&) { return true; }};
}

void MiniatureCore::adopt(std::size_t which, bool ready) {
  IdleProcess& process = fixture_.processes[which];
  process.ensure();
  manifest::v1::Instance record;
  record.set_id(which + 1);
  record.set_pid(process.pid());
  record.set_role(which == 0 ? manifest::v1::ROLE_ACTIVE : manifest::v1::ROLE_STANDBY);
  record.set_ready(ready);
  record.set_custody_sent(true);
  std::map<std::string, UniqueFd> parts;
  parts["process"] = UniqueFd(::fcntl(process.fd().get(), F_DUPFD_CLOEXEC, 3));
  std::tie(parts["contract"], far_[which]) = needed(seqpacket_pair());
  parts["vitals"] = needed(create_memfd("fuzz-vitals", kVitalsBytes));
  parts["wake"] = UniqueFd(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  std::tie(parts["output"], output_far_[which][0]) = make_pipe();
  std::tie(parts["error"], output_far_[which][1]) = make_pipe();
  const Status adopted = registry_.find("thing")->adopt_instance(record, parts);
  require(adopted.has_value(), adopted ? "" : adopted.error().message());
}

void MiniatureCore::turn() {
  // Several: callbacks leave things for the end of the turn, and a socket is read in portions.
  for (int i = 0; i < 4; ++i) {
    require(loop_.turn(0).has_value(), "the event loop goes on");
    for (const std::string& name : std::exchange(changed_, {})) {
      if (const Component* component = registry_.find(name))
        registry_.changes().publish(component->describe());
    }
  }
  persist();
  check();
}

// As Core does it. A manifest that does not fit would be lost with the next core.
void MiniatureCore::persist() {
  manifest::v1::Manifest manifest;
  for (const auto& component : registry_.all()) *manifest.add_components() = component->record();
  faults_.record(manifest);
  manifest.set_last_instance(last_instance_);
  const Status written = fixture_.memory.write(manifest);
  require(written.has_value(), written ? "" : written.error().message());
  const auto read = fixture_.memory.read();
  require(read.has_value(), "the next core can read the manifest");
}

void MiniatureCore::check() const {
  for (const auto& component : registry_.all()) {
    const Custody& custody = component->custody();
    require(custody.items().size() <= custody.limits().items && custody.bytes() <= custody.limits().bytes,
            "custody is bounded");
    for (const auto& [name, item] : custody.items()) require(item.fd.valid(), "what is held is held");
    require(custody.find("lease") != nullptr, "the core's own items stay");
  }
}

}  // namespace bulkhead::fuzz
