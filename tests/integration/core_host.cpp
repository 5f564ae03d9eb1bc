#include "tests/integration/core_host.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <thread>

#include "runtime/clock.h"
#include "runtime/pidfd.h"

namespace bulkhead::test {
namespace {

std::string replaced(std::string text, const std::string& what, const std::string& by) {
  for (std::size_t at = text.find(what); at != std::string::npos; at = text.find(what, at + by.size())) {
    text.replace(at, what.size(), by);
  }
  return text;
}

std::string content(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

std::chrono::system_clock::time_point patience() {
  return std::chrono::system_clock::now() + kPatience;
}

}  // namespace

std::string xenstore_table(const std::string& more, bool standby) {
  return R"(
[components.xenstore]
program = "@BIN@/bulkhead-xenstored"
socket = "@DIR@/xenstore.sock"
ring_entries = 1024
restart = { backoff_initial = "10ms", backoff_max = "50ms", hand_over_budget = 1000, budget = 1000 }
standby = )" +
         std::string(standby ? "true\n" : "false\n") + more;
}

bool running(pid_t pid) {
  const std::string stat = content("/proc/" + std::to_string(pid) + "/stat");
  const std::size_t name_end = stat.rfind(')');
  if (name_end == std::string::npos) return false;
  // proc_pid_stat(5): state, parent, group, session, terminal, its foreground group, flags.
  std::istringstream fields(stat.substr(name_end + 1));
  std::string state, skipped;
  std::uint64_t flags = 0;
  fields >> state;
  for (int i = 0; i < 5; ++i) fields >> skipped;
  fields >> flags;
  constexpr std::uint64_t kExiting = 0x4;  // PF_EXITING, linux/sched.h
  return state != "Z" && state != "X" && (flags & kExiting) == 0;
}

CoreHost::CoreHost(const std::string& components) : descriptor_store_(false) {
  write_config(components);
  program_ = std::make_unique<Program>(core_command(), Program::Environment{});
  connect();
}

CoreHost::CoreHost(const std::string& components, const std::string& crash_at) : descriptor_store_(true) {
  write_config(components);
  std::vector<std::string> words{std::string(BULKHEAD_BIN) + "/fd_store_host", "--status", path("status")};
  if (!crash_at.empty()) words.insert(words.end(), {"--once-env", "BULKHEAD_CRASH_AT=" + crash_at});
  words.emplace_back("--");
  for (std::string& word : core_command()) words.push_back(std::move(word));
  program_ = std::make_unique<Program>(words, Program::Environment{});
  connect();
}

std::vector<std::string> CoreHost::core_command() const {
  return {std::string(BULKHEAD_BIN) + "/bulkheadd", "--config", path("config.toml")};
}

void CoreHost::write_config(const std::string& components) const {
  std::ofstream file(path("config.toml"));
  file << "[supervisor]\nruntime_dir = \"" << path("run") << "\"\nstate_dir = \"" << path("state") << "\"\n"
       << "user = \"\"\n"
       << "[api]\ngroup = \"\"\n"
       << "[defaults.environment]\nCORE_HOST = \"" << path("") << "\"\n"
       << replaced(replaced(components, "@DIR@", path("")), "@BIN@", BULKHEAD_BIN);
}

void CoreHost::connect() {
  grpc::ChannelArguments arguments;
  // The socket appears within milliseconds; gRPC would try again after a second.
  arguments.SetInt(GRPC_ARG_INITIAL_RECONNECT_BACKOFF_MS, 10);
  arguments.SetInt(GRPC_ARG_MIN_RECONNECT_BACKOFF_MS, 10);
  arguments.SetInt(GRPC_ARG_MAX_RECONNECT_BACKOFF_MS, 50);
  auto channel = grpc::CreateCustomChannel("unix:" + path("run/api.sock"), grpc::InsecureChannelCredentials(),
                                           arguments);
  stub_ = v1::Supervisor::NewStub(channel);
  wait_for_successor(0);
}

CoreHost::~CoreHost() {
  const std::vector<PidFd> processes = all_processes();
  stub_.reset();  // an edge with clients waits for them for a while
  if (!expected_exit_) program_->kill(SIGTERM);
  EXPECT_EQ(program_->wait(), expected_exit_.value_or(0)) << log();
  for (const PidFd& process : processes) {
    // Killed with their parent, perhaps: the kernel may still be at it.
    pollfd ended{process.fd().get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 2000), 1) << "process " << process.pid() << " was left behind\n" << log();
    (void)process.signal(SIGKILL);
  }
  if (::testing::Test::HasFailure()) std::cerr << log();
}

// Every process of every component of this host.
std::vector<PidFd> CoreHost::all_processes() const {
  std::vector<PidFd> found;
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    auto process = PidFd::open(std::stoi(name));
    const std::string environment = content(entry.path() / "environ");
    if (process && environment.find("CORE_HOST=" + path("")) != std::string::npos) {
      found.push_back(std::move(*process));
    }
  }
  return found;
}

std::string CoreHost::log() const {
  return program_->errors();
}

std::unique_ptr<grpc::ClientContext> CoreHost::deadline() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(patience());
  context->set_wait_for_ready(true);
  return context;
}

v1::Component CoreHost::component(const std::string& name) {
  v1::ListComponentsRequest request;
  request.set_name(name);
  v1::ListComponentsResponse response;
  const grpc::Status status = stub_->ListComponents(deadline().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.components_size() == 1 ? response.components(0) : v1::Component();
}

v1::Component CoreHost::wait(const std::string& name, const std::string& what,
                             const std::function<bool(const v1::Component&)>& condition) {
  v1::Component last;
  const auto end = patience();
  // A stream ends when the core or the edge is restarted; the next one begins with the state as it is.
  while (std::chrono::system_clock::now() < end) {
    v1::WatchComponentsRequest request;
    request.set_name(name);
    const auto context = deadline();
    const auto stream = stub_->WatchComponents(context.get(), request);
    v1::ComponentChange change;
    while (stream->Read(&change)) {
      last = change.component();
      if (!condition(last)) continue;
      context->TryCancel();
      return last;
    }
    (void)stream->Finish();
  }
  ADD_FAILURE() << "waited in vain until " << what << "; it is\n" << last.DebugString() << log();
  return last;
}

v1::Component CoreHost::wait_complete(const std::string& name) {
  return wait(name, "it serves with a ready standby", [](const v1::Component& c) {
    return c.state() == v1::STATE_SERVING && c.ready() && c.standby_ready();
  });
}

std::vector<v1::Incident> CoreHost::incidents(const std::string& name) {
  v1::ListIncidentsRequest request;
  request.set_component(name);
  v1::ListIncidentsResponse response;
  const grpc::Status status = stub_->ListIncidents(deadline().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return {response.incidents().begin(), response.incidents().end()};
}

v1::Incident CoreHost::wait_incident(const std::string& name, const std::string& what,
                                     const std::function<bool(const v1::Incident&)>& condition) {
  const auto end = patience();
  while (std::chrono::system_clock::now() < end) {
    for (const v1::Incident& incident : incidents(name)) {
      if (condition(incident)) return incident;
    }
    // Until something happens; what happens before the watch begins is seen in the next list.
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(100));
    v1::WatchIncidentsRequest request;
    request.set_component(name);
    v1::Incident incident;
    const auto stream = stub_->WatchIncidents(&context, request);
    const bool happened = stream->Read(&incident);
    context.TryCancel();
    (void)stream->Finish();
    if (happened && condition(incident)) return incident;
  }
  ADD_FAILURE() << "waited in vain for an incident: " << what << "\n" << log();
  return {};
}

grpc::Status CoreHost::inject(const std::string& component, const std::string& kind,
                              const std::string& argument, const std::string& target, std::uint32_t for_ms) {
  v1::InjectFaultRequest request;
  request.set_component(component);
  request.set_kind(kind);
  request.set_argument(argument);
  request.set_target(target);
  request.set_for_ms(for_ms);
  v1::InjectFaultResponse response;
  return stub_->InjectFault(deadline().get(), request, &response);
}

std::set<std::string> CoreHost::custody_of(const std::string& component) {
  v1::ListCustodyRequest request;
  request.set_component(component);
  v1::ListCustodyResponse response;
  EXPECT_TRUE(stub_->ListCustody(deadline().get(), request, &response).ok());
  std::set<std::string> names;
  for (const v1::CustodyItem& item : response.items()) names.insert(item.name());
  return names;
}

std::uint64_t CoreHost::echo_count() const {
  std::uint64_t number = 0;
  std::istringstream(ask_surely("echo", "count")) >> number;
  return number;
}

std::string CoreHost::ask(const std::string& component, const std::string& command) const {
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  const std::string file = path("run/" + component + ".sock");
  std::memcpy(address.sun_path, file.data(), file.size());
  if (::connect(socket.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) != 0) return {};
  const timeval limit{20, 0};
  ::setsockopt(socket.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
  (void)!::send(socket.get(), command.data(), command.size(), MSG_NOSIGNAL);
  std::string answer(512, '\0');
  const ssize_t got = ::recv(socket.get(), answer.data(), answer.size(), 0);
  answer.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  while (!answer.empty() && answer.back() == '\n') answer.pop_back();
  return answer;
}

std::string CoreHost::ask_surely(const std::string& component, const std::string& command) const {
  const auto end = patience();
  while (std::chrono::system_clock::now() < end) {
    if (std::string answer = ask(component, command); !answer.empty()) return answer;
  }
  ADD_FAILURE() << component << " does not answer\n" << log();
  return {};
}

std::set<pid_t> CoreHost::processes_of(const std::string& component) const {
  std::set<pid_t> found;
  const std::string instance = "BULKHEAD_INSTANCE=" + component + "/";
  const std::string host = "CORE_HOST=" + path("");
  for (const auto& entry : std::filesystem::directory_iterator("/proc")) {
    const std::string name = entry.path().filename();
    if (name.find_first_not_of("0123456789") != std::string::npos) continue;
    const std::string environment = content(entry.path() / "environ");
    if (environment.find(instance) == std::string::npos || environment.find(host) == std::string::npos)
      continue;
    if (running(std::stoi(name))) found.insert(std::stoi(name));
  }
  return found;
}

// PID RUNS READY STORED STATUS...
std::vector<std::string> CoreHost::status() const {
  std::istringstream words(content(path("status")));
  return {std::istream_iterator<std::string>(words), {}};
}

pid_t CoreHost::core_pid() const {
  if (!descriptor_store_) return program_->pid();
  const auto words = status();
  return words.empty() ? 0 : std::stoi(words[0]);
}

int CoreHost::core_runs() const {
  const auto words = status();
  return words.size() < 2 ? 0 : std::stoi(words[1]);
}

void CoreHost::wait_for_successor(pid_t former) {
  const auto end = patience();
  while (std::chrono::system_clock::now() < end) {
    v1::GetVersionResponse version;
    // Short: a call that the former core took with it is never answered.
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::milliseconds(500));
    context.set_wait_for_ready(true);
    if (stub_->GetVersion(&context, {}, &version).ok() && version.core_pid() != former) return;
  }
  ADD_FAILURE() << "no successor of core " << former << " answers\n" << log();
}

void CoreHost::wait_for_run(int number) const {
  const auto end = patience();
  while (core_runs() < number && std::chrono::system_clock::now() < end) std::this_thread::yield();
  EXPECT_GE(core_runs(), number) << "the core did not die\n" << log();
}

void CoreHost::signal_core(int number) const {
  ::kill(core_pid(), number);
}

}  // namespace bulkhead::test
