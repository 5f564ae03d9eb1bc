// The configuration of bulkheadd: TOML with defaults from config/bulkhead.toml (built into the program),
// checked completely before anything is started. docs/configuration.md describes every key.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"

namespace bulkhead::supervisor {

// All durations are nanoseconds (`_ns`), all sizes bytes. The values' meaning and range is told by the key
// table in config_keys.cpp; defaults live in config/bulkhead.toml only, so a struct made by hand starts out
// empty.

struct SupervisorConfig {
  std::string runtime_dir;
  std::string state_dir;
  std::string log_level;  // trace, debug, info, warning, error
  // Account of every component that names none of its own; used when the core runs as root.
  std::string user;
  std::string group;
};

struct IncidentsConfig {
  std::int64_t max_age_ns = 0;
  std::uint64_t max_count = 0;
};

struct CustodyConfig {
  std::uint64_t max_items = 0;        // per component
  std::uint64_t max_items_total = 0;  // of all components
  std::uint64_t max_bytes = 0;        // per component
};

struct MonitorConfig {
  std::int64_t progress_deadline_ns = 0;
  std::int64_t check_interval_ns = 0;
  std::string probe;  // request probe by protocol name (monitors/request_probe.h), empty: none
  std::int64_t probe_interval_ns = 0;
  std::int64_t probe_deadline_ns = 0;
  std::uint32_t probe_failures = 0;  // in a row, before it is a finding
  double latency_factor = 0;         // a probe this many times slower than its baseline is a finding; 0: off
  std::int64_t resource_interval_ns = 0;
  std::uint64_t max_rss = 0;  // 0: no limit
  std::uint64_t max_fds = 0;  // 0: no limit
  double max_cpu = 0;         // CPUs used without work done; 0: off
};

// Planned replacement of healthy processes (rejuvenation.h).
struct RejuvenateConfig {
  std::int64_t every_ns = 0;  // 0: off
  std::uint64_t growth = 0;   // bytes; 0: off
};

enum class RestartPolicy : unsigned char { kAlways, kOnFailure, kNever };

struct RestartConfig {
  RestartPolicy policy = RestartPolicy::kAlways;
  std::uint32_t budget = 0;            // cold starts within `window`
  std::uint32_t hand_over_budget = 0;  // take-overs by a standby within `window`
  std::int64_t window_ns = 0;
  std::int64_t backoff_initial_ns =
      0;  // the first failure after health restarts at once, the second after this
  std::int64_t backoff_max_ns = 0;
  std::int64_t reset_after_ns = 0;  // this long without failure is health
  std::int64_t start_timeout_ns = 0;
  std::int64_t stop_timeout_ns = 0;
  std::int64_t hand_over_timeout_ns = 0;
  int stop_signal = 0;  // foreign components
};

// Unset: inherited from the core (rlimits) or from the parent group (cgroup). kUnlimited lifts the limit.
inline constexpr std::uint64_t kUnlimited = UINT64_MAX;
struct LimitsConfig {
  std::optional<std::uint64_t> nofile, core, as, nproc, memlock;  // rlimits
  std::optional<std::uint64_t> memory_max, pids_max, cpu_weight;  // cgroup v2
  std::int32_t oom_score_adjust = 0;
  std::int32_t nice = 0;  // of the thread that serves
};

enum class ComponentKind : unsigned char {
  kNative,   // speaks the component contract
  kForeign,  // any executable
};

enum class CheckType : unsigned char { kNone, kNotify, kCommand, kTcp, kUnix, kGrpc };

// How a foreign component's readiness or liveness is asked for.
struct CheckConfig {
  CheckType type = CheckType::kNone;
  std::string target;  // tcp: HOST:PORT (numeric host), unix: path, grpc: HOST:PORT or unix:PATH
  std::vector<std::string> command;  // command: program and arguments
  std::string service;               // grpc: service name, may be empty
  std::int64_t interval_ns = 0;
  std::int64_t deadline_ns = 0;
  std::uint32_t failures = 0;  // liveness: in a row, before it is a finding
};

struct ComponentConfig {
  std::string name;  // [a-z][a-z0-9-]{0,31}
  bool enabled = false;
  ComponentKind kind = ComponentKind::kNative;
  std::string program;  // without a slash: find_program() (launch.h) looks for it
  std::vector<std::string> args;
  std::string user, group;  // empty: supervisor.user and supervisor.group
  bool standby = false;
  std::string socket;  // absolute after loading; empty: none
  std::uint32_t socket_mode = 0;
  std::uint32_t ring_entries = 0;  // 0: no io_uring
  std::vector<std::string> depends_on;
  std::map<std::string, std::string> environment;
  std::map<std::string, std::string> settings;
  MonitorConfig monitor;
  RestartConfig restart;
  RejuvenateConfig rejuvenate;
  std::int64_t upgrade_probation_ns = 0;  // a new program that fails within it is given up; 0: none
  LimitsConfig limits;
  CheckConfig readiness, liveness;
};

struct TcpConfig {
  std::string address;  // HOST:PORT; empty: no TCP
  std::string cert, key, client_ca;
  std::vector<std::string> admins;  // certificate subjects that may change things
};

struct ApiConfig {
  bool enabled = false;
  std::string socket;  // absolute after loading
  std::uint32_t socket_mode = 0;
  std::string group;  // its members may change things
  TcpConfig tcp;
  // How the edge itself is run and supervised: same keys as a component, under api.process.
  ComponentConfig process;
};

struct Config {
  std::string source;  // the file, or "built-in defaults"
  SupervisorConfig supervisor;
  ApiConfig api;
  IncidentsConfig incidents;
  CustodyConfig custody;
  // In an order in which dependencies come first.
  std::vector<ComponentConfig> components;

  const ComponentConfig* find(std::string_view name) const;
};

// Reads `path` and applies `overrides` ("a.b=value", as given to --set) on top. The first mistake is the
// error, one line: "FILE:LINE: key: what is wrong; what would be right" (kInvalid), or "--set a.b: ..." for
// an override.
//
// A component exists when the file or an override names it; a name with a profile in the built-in text
// (xenstore) starts from that profile. An empty path means the built-in text itself is the file.
Result<Config> load_config(const std::string& path, const std::vector<std::string>& overrides);

// What bulkheadd runs with when no file is named: `standard` if there is such a file (it must be readable
// then), else the built-in text.
Result<Config> load_default_config(const std::string& standard, const std::vector<std::string>& overrides);

// The same from text; `source` stands for the file's name in messages.
Result<Config> parse_config(std::string_view text, const std::string& source,
                            const std::vector<std::string>& overrides);

// The text of config/bulkhead.toml as built in.
std::string_view builtin_config();

// One line per key for documentation and tests; component keys begin with "components.NAME.".
struct KeyDescription {
  std::string key;
  std::string_view type;   // "duration", "size", "true or false", ...
  std::string_view about;  // one sentence
};
std::vector<KeyDescription> describe_keys();

}  // namespace bulkhead::supervisor
