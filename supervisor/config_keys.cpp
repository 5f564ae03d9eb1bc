#include "supervisor/config_keys.h"

#include <algorithm>
#include <array>
#include <csignal>
#include <utility>

#include "runtime/clock.h"

namespace bulkhead::supervisor {

namespace {

constexpr std::int64_t kDay = kSecond * 3600 * 24;
constexpr std::uint64_t kTera = std::uint64_t{1} << 40;

template <typename Value, std::size_t N>
bool choose(const std::array<std::pair<std::string_view, Value>, N>& words, std::string_view word,
            Value& into) {
  const auto found =
      std::find_if(words.begin(), words.end(), [&](const auto& entry) { return entry.first == word; });
  if (found == words.end()) return false;
  into = found->second;
  return true;
}

constexpr std::string_view kCheckWords = "notify, command, tcp, unix, grpc or none";
bool set_check_type(CheckType& type, std::string_view word) {
  static constexpr std::array<std::pair<std::string_view, CheckType>, 6> kWords = {
      {{"none", CheckType::kNone},
       {"notify", CheckType::kNotify},
       {"command", CheckType::kCommand},
       {"tcp", CheckType::kTcp},
       {"unix", CheckType::kUnix},
       {"grpc", CheckType::kGrpc}}};
  return choose(kWords, word, type);
}

bool set_signal(int& number, std::string_view word) {
  static constexpr std::array<std::pair<std::string_view, int>, 7> kWords = {{{"SIGTERM", SIGTERM},
                                                                              {"SIGINT", SIGINT},
                                                                              {"SIGQUIT", SIGQUIT},
                                                                              {"SIGHUP", SIGHUP},
                                                                              {"SIGUSR1", SIGUSR1},
                                                                              {"SIGUSR2", SIGUSR2},
                                                                              {"SIGKILL", SIGKILL}}};
  return choose(kWords, word, number);
}

bool set_level(std::string& level, std::string_view word) {
  static constexpr std::array<std::string_view, 5> kLevels = {"trace", "debug", "info", "warning", "error"};
  if (std::find(kLevels.begin(), kLevels.end(), word) == kLevels.end()) return false;
  level = word;
  return true;
}

bool set_policy(RestartPolicy& policy, std::string_view word) {
  static constexpr std::array<std::pair<std::string_view, RestartPolicy>, 3> kWords = {
      {{"always", RestartPolicy::kAlways},
       {"on-failure", RestartPolicy::kOnFailure},
       {"never", RestartPolicy::kNever}}};
  return choose(kWords, word, policy);
}

bool set_kind(ComponentKind& kind, std::string_view word) {
  static constexpr std::array<std::pair<std::string_view, ComponentKind>, 2> kWords = {
      {{"native", ComponentKind::kNative}, {"foreign", ComponentKind::kForeign}}};
  return choose(kWords, word, kind);
}

// `[](C& c) -> auto& { return c.member; }`, the way every row says where its value lives.
#define AT(member) [](auto& c) -> auto& { return c.member; }  // NOLINT(bugprone-macro-parentheses)

using G = GlobalKey;
const std::array kGlobalKeys = std::to_array<GlobalKey>({
    {"supervisor.runtime_dir", G::Text{AT(supervisor.runtime_dir)},
     "Sockets and other things that live as long as the host runs. An absolute path."},
    {"supervisor.state_dir", G::Text{AT(supervisor.state_dir)},
     "What outlives a reboot: incidents. An absolute path."},
    {"supervisor.log_level",
     G::Choice{[](Config& c, std::string_view word) { return set_level(c.supervisor.log_level, word); },
               "trace, debug, info, warning or error"},
     "The least severe message logged at start; changeable live."},
    {"supervisor.user", G::Text{AT(supervisor.user)},
     "Account of every component that names none, when the core runs as root; empty: the core's own. A "
     "leading \"-\" means: "
     "only if it exists."},
    {"supervisor.group", G::Text{AT(supervisor.group)}, "Group of the same; empty: the user's own."},
    {"api.enabled", G::Flag{AT(api.enabled)}, "Whether the gRPC edge runs."},
    {"api.socket", G::Text{AT(api.socket)}, "Unix socket of the API."},
    {"api.socket_mode", G::Mode{AT(api.socket_mode)}, "Permissions of the socket."},
    {"api.group", G::Text{AT(api.group)},
     "Its members may change things; root always may. A leading \"-\" as for user."},
    {"api.tcp.address", G::Text{AT(api.tcp.address)},
     "HOST:PORT to listen on with mutual TLS; empty: no TCP."},
    {"api.tcp.cert", G::Text{AT(api.tcp.cert)}, "Server certificate, PEM file."},
    {"api.tcp.key", G::Text{AT(api.tcp.key)}, "Its private key, PEM file."},
    {"api.tcp.client_ca", G::Text{AT(api.tcp.client_ca)}, "Certificate authority of the clients, PEM file."},
    {"api.tcp.admins", G::Texts{AT(api.tcp.admins)}, "Certificate subjects that may change things."},
    {"incidents.max_age", G::Duration{AT(incidents.max_age_ns), kSecond, 36500 * kDay},
     "Older ones are deleted."},
    {"incidents.max_count", G::Count64{AT(incidents.max_count), 1, 10'000'000},
     "Of more, the oldest are deleted."},
    {"custody.max_items", G::Count64{AT(custody.max_items), 1, 100'000},
     "Descriptors in custody, per component."},
    {"custody.max_items_total", G::Count64{AT(custody.max_items_total), 1, 100'000},
     "Descriptors in custody, of all components together; what the service manager's store has room for "
     "besides those "
     "of processes."},
    {"custody.max_bytes", G::Size{AT(custody.max_bytes), 1 << 20, 64 * kTera},
     "Memory segments in custody, per component."},
});

using K = ComponentKey;
const std::array kComponentKeys = std::to_array<ComponentKey>({
    {"enabled", K::Flag{AT(enabled)}, "Whether it is wanted when the core starts."},
    {"kind",
     K::Choice{[](ComponentConfig& c, std::string_view word) { return set_kind(c.kind, word); },
               "native or foreign"},
     "native: speaks the component contract; foreign: any executable."},
    {"program", K::Text{AT(program)},
     "A path, or a name to be found beside bulkheadd, in its libexec directory or in PATH."},
    {"args", K::Texts{AT(args)}, "Arguments."},
    {"user", K::Text{AT(user)}, "Account to run as; empty: supervisor.user."},
    {"group", K::Text{AT(group)}, "Group to run as; empty: the user's own, or supervisor.group."},
    {"standby", K::Flag{AT(standby)}, "A second instance follows, ready to take over. Native only."},
    {"socket", K::Text{AT(socket)},
     "Listening Unix socket that the core binds and keeps in custody. Native only."},
    {"socket_mode", K::Mode{AT(socket_mode)}, "Permissions of that socket."},
    {"ring_entries", K::Count32{AT(ring_entries), 0, 32768},
     "Entries of the io_uring in custody; 0: none. Native only."},
    {"depends_on", K::Texts{AT(depends_on)}, "Components that must be ready before it starts."},
    {"environment", K::Table{AT(environment)},
     "Environment variables; nothing else is passed on but PATH and LANG."},
    {"settings", K::Table{AT(settings)},
     "Handed to a native component as they are; its own documentation names them."},
    {"monitor.progress_deadline", K::Duration{AT(monitor.progress_deadline_ns), kMillisecond, 3600 * kSecond},
     "Work pending and none done for this long is a hang. Native only."},
    {"monitor.check_interval", K::Duration{AT(monitor.check_interval_ns), kMillisecond, 60 * kSecond},
     "How often progress is looked at; at most half the deadline."},
    {"monitor.probe", K::Text{AT(monitor.probe)},
     "End-to-end requests through the socket, by protocol name; empty: none."},
    {"monitor.probe_interval", K::Duration{AT(monitor.probe_interval_ns), kMillisecond, kDay}, "How often."},
    {"monitor.probe_deadline", K::Duration{AT(monitor.probe_deadline_ns), kMillisecond, 3600 * kSecond},
     "An answer later than this is a failure."},
    {"monitor.probe_failures", K::Count32{AT(monitor.probe_failures), 1, 1000},
     "So many in a row are a finding."},
    {"monitor.latency_factor", K::Number{AT(monitor.latency_factor), 0, 1e6},
     "A probe slower than its own baseline by this factor is a finding; 0: off."},
    {"monitor.resource_interval", K::Duration{AT(monitor.resource_interval_ns), 10 * kMillisecond, kDay},
     "How often memory, descriptors and CPU are looked at."},
    {"monitor.max_rss", K::Size{AT(monitor.max_rss), 0, 64 * kTera},
     "Resident memory above this is a finding; 0: no limit."},
    {"monitor.max_fds", K::Count64{AT(monitor.max_fds), 0, 10'000'000},
     "Open descriptors above this are; 0: no limit."},
    {"monitor.max_cpu", K::Number{AT(monitor.max_cpu), 0, 1024},
     "More CPUs than this used for a minute without any work done is a finding; 0: off. Native only."},
    {"restart.policy",
     K::Choice{[](ComponentConfig& c, std::string_view word) { return set_policy(c.restart.policy, word); },
               "always, on-failure or never"},
     "Foreign: whether an exit is followed by a start. never: a failure isolates, a good end stops."},
    {"restart.hand_over_budget", K::Count32{AT(restart.hand_over_budget), 0, 1'000'000},
     "Take-overs by the standby within the window; after that a rebuild."},
    {"restart.budget", K::Count32{AT(restart.budget), 0, 1'000'000},
     "Cold starts within the window; after that isolation."},
    {"restart.window", K::Duration{AT(restart.window_ns), kMillisecond, 365 * kDay},
     "The window of both budgets."},
    {"restart.backoff_initial", K::Duration{AT(restart.backoff_initial_ns), 0, kDay},
     "The first failure after health restarts at once, the second waits this long, each further one twice as "
     "long."},
    {"restart.backoff_max", K::Duration{AT(restart.backoff_max_ns), 0, 365 * kDay},
     "But never longer than this."},
    {"restart.reset_after", K::Duration{AT(restart.reset_after_ns), kMillisecond, 365 * kDay},
     "Served this long without failure, it is healthy: budgets and back-off begin anew."},
    {"restart.start_timeout", K::Duration{AT(restart.start_timeout_ns), kMillisecond, kDay},
     "A start or a take-over that takes longer has failed."},
    {"restart.stop_timeout", K::Duration{AT(restart.stop_timeout_ns), kMillisecond, kDay},
     "Whoever was asked to stop and has not by then is killed."},
    {"restart.hand_over_timeout", K::Duration{AT(restart.hand_over_timeout_ns), kMillisecond, kDay},
     "An active instance that does not yield within this is killed; the standby continues all the same."},
    {"restart.stop_signal",
     K::Choice{
         [](ComponentConfig& c, std::string_view word) { return set_signal(c.restart.stop_signal, word); },
         "SIGTERM, SIGINT, SIGQUIT, SIGHUP, SIGUSR1, SIGUSR2 or SIGKILL"},
     "How a foreign component is asked to stop."},
    {"rejuvenate.every", K::Duration{AT(rejuvenate.every_ns), 0, 3650 * kDay},
     "Both processes are replaced, planned, when the active one is this old; 0s: never. Needs a standby."},
    {"rejuvenate.growth", K::Size{AT(rejuvenate.growth), 0, 64 * kTera},
     "The same when the active one's private memory has grown by this since it became active; 0: never. "
     "Needs "
     "a standby."},
    {"upgrade.probation", K::Duration{AT(upgrade_probation_ns), 0, 365 * kDay},
     "A new program that fails within this is given up for the former one; 0s: none. Native only."},
    {"limits.nofile", K::Limit{AT(limits.nofile), 16, 1 << 30}, "Open descriptors (RLIMIT_NOFILE)."},
    {"limits.core", K::Limit{AT(limits.core), 0, 64 * kTera}, "Size of a core dump (RLIMIT_CORE)."},
    {"limits.as", K::Limit{AT(limits.as), 1 << 20, 1024 * kTera}, "Address space (RLIMIT_AS)."},
    {"limits.nproc", K::Limit{AT(limits.nproc), 1, 1 << 22}, "Processes of its user (RLIMIT_NPROC)."},
    {"limits.memlock", K::Limit{AT(limits.memlock), 0, 64 * kTera}, "Locked memory (RLIMIT_MEMLOCK)."},
    {"limits.memory_max", K::Limit{AT(limits.memory_max), 1 << 20, 64 * kTera},
     "Memory of all its processes (cgroup v2)."},
    {"limits.pids_max", K::Limit{AT(limits.pids_max), 1, 1 << 22},
     "Number of its processes and threads (cgroup v2)."},
    {"limits.cpu_weight", K::Limit{AT(limits.cpu_weight), 1, 10000},
     "Share of CPU under contention, 100 is usual (cgroup v2)."},
    {"limits.oom_score_adjust", K::Integer{AT(limits.oom_score_adjust), -1000, 1000},
     "Who goes first when memory is short: 1000 first, -1000 never (proc(5), oom_score_adj)."},
    {"limits.nice", K::Integer{AT(limits.nice), -20, 19},
     "Who goes first when CPUs are short: -20 first, 19 last; 0: as it was started. Of the instance that "
     "serves: its "
     "main thread, and its session (sched(7), autogroup)."},
    {"readiness.type",
     K::Choice{
         [](ComponentConfig& c, std::string_view word) { return set_check_type(c.readiness.type, word); },
         kCheckWords},
     "Foreign: how it is known to be ready; none: as soon as it runs."},
    {"readiness.target", K::Text{AT(readiness.target)},
     "tcp: HOST:PORT, unix: a path, grpc: HOST:PORT or unix:PATH. Numeric hosts."},
    {"readiness.command", K::Texts{AT(readiness.command)},
     "command: program and arguments; exit status 0 is yes."},
    {"readiness.service", K::Text{AT(readiness.service)},
     "grpc: the service name asked for; \"*\": any answer will do."},
    {"readiness.interval", K::Duration{AT(readiness.interval_ns), kMillisecond, kDay},
     "How often it is asked."},
    {"readiness.deadline", K::Duration{AT(readiness.deadline_ns), kMillisecond, 3600 * kSecond},
     "A later answer is a no."},
    {"liveness.type",
     K::Choice{
         [](ComponentConfig& c, std::string_view word) { return set_check_type(c.liveness.type, word); },
         kCheckWords},
     "Foreign: how it is known to be alive. notify: WATCHDOG=1 at least every interval, which WATCHDOG_USEC "
     "tells it; silence of interval and deadline together is a finding."},
    {"liveness.target", K::Text{AT(liveness.target)}, "As for readiness."},
    {"liveness.command", K::Texts{AT(liveness.command)}, "As for readiness."},
    {"liveness.service", K::Text{AT(liveness.service)}, "As for readiness."},
    {"liveness.interval", K::Duration{AT(liveness.interval_ns), kMillisecond, kDay},
     "How often it is asked."},
    {"liveness.deadline", K::Duration{AT(liveness.deadline_ns), kMillisecond, 3600 * kSecond},
     "A later answer is a failure."},
    {"liveness.failures", K::Count32{AT(liveness.failures), 1, 1000},
     "So many in a row are a finding; not for notify."},
});
#undef AT

}  // namespace

std::span<const GlobalKey> global_keys() {
  return kGlobalKeys;
}
std::span<const ComponentKey> component_keys() {
  return kComponentKeys;
}

}  // namespace bulkhead::supervisor
