#include "cli/commands.h"

#include <unistd.h>

#include <CLI/Config.hpp>
#include <CLI/Formatter.hpp>
#include <CLI/Validators.hpp>
#include <algorithm>
#include <array>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <map>
#include <memory>
#include <vector>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/completion.h"
#include "cli/json.h"
#include "cli/units.h"
#include "cli/views.h"

namespace bulkhead::cli {
namespace {

using google::protobuf::Message;

constexpr std::chrono::milliseconds kLongestLease(3'600'000);
constexpr std::uint32_t kMostIncidents = 500;

std::int64_t now_unix_us() {
  return std::chrono::duration_cast<std::chrono::microseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}
std::int64_t now_unix_ms() {
  return now_unix_us() / 1000;
}

// The answer as JSON, or as `view` shows it.
template <typename Response, typename View>
Outcome<void> show(Session& session, const Response& response, const View& view) {
  session.output.write(session.json ? to_json(response, JsonLayout::kIndented) + "\n" : view(response));
  return {};
}

// One element of a stream; false: stop.
template <typename View>
bool show_element(Session& session, const Message& element, const View& view) {
  return session.output.write(session.json ? to_json(element, JsonLayout::kOneLine) + "\n" : view());
}

void report_gap(const std::string& why) {
  complain("the stream was interrupted and has been opened again, something may be missing (" +
           printable(why) + ")");
}

template <typename Request, typename Response, typename View>
Outcome<void> query_and_show(Session& session, const Request& request, const View& view) {
  Response response;
  if (Outcome<void> asked = session.client.query(request, response); !asked) return asked;
  return show(session, response, view);
}

template <typename Element, typename Request, typename View>
Outcome<void> watch_and_show(Session& session, const Request& request, const View& view) {
  Element element;
  return session.client.watch(
      request, element,
      {[&] { return show_element(session, element, [&] { return view(element); }); }, report_gap});
}

CLI::App* command(CLI::App& parent, const std::string& name, const std::string& what) {
  return parent.add_subcommand(name, what);
}

CLI::Option* component_argument(CLI::App& command, std::string& name) {
  return command.add_option("component", name, "name of a component")->type_name("COMPONENT");
}

// `parse` leaves what was typed in a T that lives as long as the action.
template <typename T, typename Action>
void set_action(CLI::App& command, Invocation& invocation, const std::shared_ptr<T>& typed, Action action) {
  command.callback([&invocation, typed, action] {
    invocation.action = [typed, action](Session& session) { return action(session, *typed); };
  });
}

std::string duration_problem(const std::string& text) {
  return parse_duration(text) ? ""
                              : "'" + text + "' is not a duration: write for example 250ms, 30s, 5m or 1h";
}

// ---- looking ----

void add_status(CLI::App& tree, Invocation& invocation) {
  CLI::App& status = *command(tree, "status", "What is supervised and how it is");
  const auto name = std::make_shared<std::string>();
  component_argument(status, *name);
  set_action(status, invocation, name, [](Session& session, const std::string& only) {
    v1::ListComponentsRequest request;
    request.set_name(only);
    return query_and_show<v1::ListComponentsRequest, v1::ListComponentsResponse>(
        session, request, [&](const v1::ListComponentsResponse& list) {
          if (only.empty()) return components_view(list, now_unix_ms(), session.layout);
          return list.components().empty()
                     ? ""
                     : component_view(list.components(0), now_unix_ms(), session.layout);
        });
  });
}

// On a terminal the table stays in place; elsewhere a line per change.
Outcome<void> watch_components(Session& session, const std::string& only) {
  v1::WatchComponentsRequest request;
  request.set_name(only);
  std::map<std::string, v1::Component> known;
  return watch_and_show<v1::ComponentChange>(session, request, [&](const v1::ComponentChange& change) {
    if (!session.layout.terminal) return change_line(change.component(), now_unix_ms(), session.layout);
    known[change.component().name()] = change.component();
    v1::ListComponentsResponse list;
    for (const auto& [name, component] : known) *list.add_components() = component;
    constexpr const char* kHomeAndClear = "\x1b[H\x1b[J";
    return kHomeAndClear + components_view(list, now_unix_ms(), session.layout) + "\nlast change " +
           clock_text(now_unix_us()) + ", ^C ends\n";
  });
}

void add_watch(CLI::App& tree, Invocation& invocation) {
  CLI::App& watch = *command(tree, "watch", "The same, kept up to date");
  const auto name = std::make_shared<std::string>();
  component_argument(watch, *name);
  set_action(watch, invocation, name, watch_components);
}

void add_events(CLI::App& tree, Invocation& invocation) {
  CLI::App& events =
      *command(tree, "events", "Transitions, findings, recovery steps and faults as they happen");
  const auto name = std::make_shared<std::string>();
  component_argument(events, *name);
  set_action(events, invocation, name, [](Session& session, const std::string& only) {
    v1::WatchEventsRequest request;
    request.set_component(only);
    return watch_and_show<v1::Event>(
        session, request, [&](const v1::Event& event) { return event_line(event, session.layout); });
  });
}

struct IncidentQuery {
  std::string component;
  std::uint32_t limit = 20;
  bool follow = false;
};

Outcome<v1::ListIncidentsResponse> list_incidents(Session& session, const IncidentQuery& query) {
  v1::ListIncidentsRequest request;
  request.set_component(query.component);
  request.set_limit(query.limit);
  v1::ListIncidentsResponse list;
  if (Outcome<void> asked = session.client.query(request, list); !asked)
    return std::unexpected(asked.error());
  return list;
}

bool show_incident(Session& session, const v1::Incident& incident) {
  return show_element(session, incident, [&] { return incident_view(incident, session.layout) + "\n"; });
}

// Oldest first those of the list that are newer than `after` and older than `before`.
bool show_between(Session& session, const v1::ListIncidentsResponse& list, std::int64_t after,
                  std::int64_t before) {
  for (int i = list.incidents_size() - 1; i >= 0; --i) {
    const v1::Incident& incident = list.incidents(i);
    if (incident.id() > after && incident.id() < before && !show_incident(session, incident)) return false;
  }
  return true;
}

Outcome<void> follow_incidents(Session& session, const IncidentQuery& query) {
  const Outcome<v1::ListIncidentsResponse> list = list_incidents(session, query);
  if (!list) return std::unexpected(list.error());
  if (!show_between(session, *list, INT64_MIN, INT64_MAX)) return {};
  std::int64_t last = list->incidents().empty() ? 0 : list->incidents(0).id();
  v1::WatchIncidentsRequest request;
  request.set_component(query.component);
  v1::Incident incident;
  const auto on_element = [&] {
    // Whatever came between the list and the stream, or while the stream was interrupted, is in the list by
    // now.
    if (incident.id() > last + 1) {
      const auto missed = list_incidents(session, {query.component, kMostIncidents, false});
      if (missed && !show_between(session, *missed, last, incident.id())) return false;
    }
    last = std::max(last, incident.id());
    return show_incident(session, incident);
  };
  return session.client.watch(request, incident, {on_element, report_gap});
}

void add_incidents(CLI::App& tree, Invocation& invocation) {
  CLI::App& incidents =
      *command(tree, "incidents", "What went wrong and what was done about it, newest first");
  const auto query = std::make_shared<IncidentQuery>();
  incidents.add_option("--component", query->component, "only those of one component")
      ->type_name("COMPONENT");
  incidents.add_option("--limit", query->limit, "how many")
      ->capture_default_str()
      ->check(CLI::Range(1U, kMostIncidents));
  incidents.add_flag("--follow", query->follow, "then wait for new ones; oldest first");
  set_action(incidents, invocation, query, [](Session& session, const IncidentQuery& typed) -> Outcome<void> {
    if (typed.follow) return follow_incidents(session, typed);
    const Outcome<v1::ListIncidentsResponse> list = list_incidents(session, typed);
    if (!list) return std::unexpected(list.error());
    return show(session, *list, [&](const v1::ListIncidentsResponse& response) {
      std::string text;
      for (const v1::Incident& incident : response.incidents()) {
        text += (text.empty() ? "" : "\n") + incident_view(incident, session.layout);
      }
      return text.empty() ? std::string("no incidents\n") : text;
    });
  });
}

template <typename Request, typename Response, typename View>
void add_listing(CLI::App& tree, Invocation& invocation, const char* name, const char* what, View view) {
  CLI::App& listing = *command(tree, name, what);
  const auto component = std::make_shared<std::string>();
  component_argument(listing, *component);
  set_action(listing, invocation, component, [view](Session& session, const std::string& only) {
    Request request;
    request.set_component(only);
    return query_and_show<Request, Response>(
        session, request, [&](const Response& response) { return view(response, session.layout); });
  });
}

// ---- faults ----

struct Injection {
  std::string component;
  std::string kind;
  std::string argument;
  std::string lease = "30s";
  bool standby = false;
};

std::string lease_problem(const std::string& text) {
  const auto lease = parse_duration(text);
  if (!lease) return duration_problem(text);
  const bool fits = lease->count() > 0 && *lease <= kLongestLease;
  return fits ? "" : "a fault lasts between 1ms and 1h, not " + text;
}

Outcome<void> inject(Session& session, const Injection& typed) {
  v1::InjectFaultRequest request;
  request.set_component(typed.component);
  request.set_kind(typed.kind);
  request.set_argument(typed.argument);
  request.set_target(typed.standby ? "standby" : "active");
  request.set_for_ms(static_cast<std::uint32_t>(parse_duration(typed.lease).value_or(kLongestLease).count()));
  v1::InjectFaultResponse response;
  if (Outcome<void> done = session.client.act(request, response); !done) return done;
  return show(session, response,
              [](const v1::InjectFaultResponse& answer) { return fault_line(answer.fault()); });
}

void add_inject(CLI::App& tree, Invocation& invocation) {
  CLI::App& injection =
      *command(tree, "inject", "Cause a fault on purpose; it is undone when its time is up");
  const auto typed = std::make_shared<Injection>();
  component_argument(injection, typed->component)->required();
  injection.add_option("kind", typed->kind, "what fault: see 'bulkhead faults --kinds'")
      ->type_name("FAULT")
      ->required();
  injection
      .add_option("argument", typed->argument,
                  "of the fault: latency (slow), bytes per second (leak), point (crash-at)")
      ->type_name("ARGUMENT");
  injection.add_option("--for", typed->lease, "undo it after this time")
      ->capture_default_str()
      ->type_name("DURATION")
      ->check(lease_problem);
  injection.add_flag("--standby", typed->standby, "hit the standby, not the active instance");
  set_action(injection, invocation, typed, inject);
}

struct FaultQuery {
  std::string component;
  bool kinds = false;
};

std::string kinds_view(const v1::ListFaultsResponse& list, const Layout& layout) {
  Table table({{"COMPONENT"}, {"KIND"}, {"ARGUMENTS"}});
  for (const v1::FaultKind& kind : list.kinds()) {
    std::string arguments;
    for (const std::string& argument : kind.arguments())
      arguments += (arguments.empty() ? "" : ", ") + argument;
    table.add({{kind.component(), Style::kBold}, {kind.kind()}, {arguments}});
  }
  return table.empty() ? "nothing can be injected\n" : table.render(layout);
}

void add_faults(CLI::App& tree, Invocation& invocation) {
  CLI::App& faults = *command(tree, "faults", "Faults injected at present");
  const auto typed = std::make_shared<FaultQuery>();
  component_argument(faults, typed->component);
  faults.add_flag("--kinds", typed->kinds, "what could be injected instead");
  set_action(faults, invocation, typed, [](Session& session, const FaultQuery& query) {
    v1::ListFaultsRequest request;
    request.set_component(query.component);
    return query_and_show<v1::ListFaultsRequest, v1::ListFaultsResponse>(
        session, request, [&](const v1::ListFaultsResponse& list) {
          return query.kinds ? kinds_view(list, session.layout)
                             : faults_view(list, now_unix_us(), session.layout);
        });
  });
}

struct Clearing {
  std::uint64_t id = 0;
  std::string component;
  bool all = false;
};

Outcome<void> clear(Session& session, const Clearing& typed) {
  v1::ClearFaultsRequest request;
  request.set_id(typed.id);
  request.set_component(typed.component);
  v1::ClearFaultsResponse response;
  if (Outcome<void> done = session.client.act(request, response); !done) return done;
  return show(session, response, [](const v1::ClearFaultsResponse& answer) {
    std::string text;
    for (const v1::Fault& fault : answer.cleared()) text += "cleared " + fault_line(fault);
    return text.empty() ? std::string("nothing to clear\n") : text;
  });
}

void add_clear(CLI::App& tree, Invocation& invocation) {
  CLI::App& clearing = *command(tree, "clear", "Undo injected faults now");
  const auto typed = std::make_shared<Clearing>();
  CLI::Option_group& which = *clearing.add_option_group("which");
  which.add_option("id", typed->id, "number of a fault")->type_name("ID")->check(CLI::PositiveNumber);
  which.add_option("--component", typed->component, "all of one component")->type_name("COMPONENT");
  which.add_flag("--all", typed->all, "all there are");
  which.require_option(1);
  set_action(clearing, invocation, typed, clear);
}

// ---- acting on a component ----

template <typename Request, typename Response>
void add_verb(CLI::App& tree, Invocation& invocation, const char* name, const char* what) {
  CLI::App& verb = *command(tree, name, what);
  const auto component = std::make_shared<std::string>();
  component_argument(verb, *component)->required();
  set_action(verb, invocation, component, [](Session& session, const std::string& only) -> Outcome<void> {
    Request request;
    request.set_component(only);
    Response response;
    if (Outcome<void> done = session.client.act(request, response); !done) return done;
    return show(session, response, [&](const Response& answer) {
      std::string text = change_line(answer.component(), now_unix_ms(), session.layout);
      if constexpr (requires { answer.blackout_us(); }) {
        text += "not serving for " + latency_text(answer.blackout_us()) + "\n";
      }
      return text;
    });
  });
}

struct Upgrade {
  std::string component;
  std::string program;
  bool rollback = false;
};

Outcome<void> upgrade(Session& session, const Upgrade& typed) {
  v1::UpgradeRequest request;
  request.set_component(typed.component);
  // The supervisor's working directory is another one.
  std::error_code error;
  if (!typed.program.empty()) request.set_program(std::filesystem::absolute(typed.program, error));
  request.set_rollback(typed.rollback);
  v1::UpgradeResponse response;
  if (Outcome<void> done = session.client.act(request, response); !done) return done;
  return show(session, response, [&](const v1::UpgradeResponse& answer) {
    return change_line(answer.component(), now_unix_ms(), session.layout) + "running " +
           program_text(answer.component().active_program()) + "\nnot serving for " +
           latency_text(answer.blackout_us()) + "\n";
  });
}

void add_upgrade(CLI::App& tree, Invocation& invocation) {
  CLI::App& upgrading =
      *command(tree, "upgrade", "Let a new program take over, without loss; the former one is kept");
  const auto typed = std::make_shared<Upgrade>();
  component_argument(upgrading, typed->component)->required();
  CLI::Option* program =
      upgrading
          .add_option("--program", typed->program, "this one, not the configured one as it is on disk now")
          ->type_name("FILE");
  upgrading.add_flag("--rollback", typed->rollback, "return to the program that is kept instead")
      ->excludes(program);
  set_action(upgrading, invocation, typed, upgrade);
}

struct QuotaChange {
  std::string component;
  std::vector<std::string> words;  // [DOMID] NAME VALUE
};

bool is_number(const std::string& text) {
  constexpr std::size_t kMostDigits = 18;
  return !text.empty() && text.size() <= kMostDigits &&
         text.find_first_not_of("0123456789") == std::string::npos;
}

Outcome<void> set_quota(Session& session, const QuotaChange& typed) {
  const std::string& value = typed.words.back();
  if (!is_number(value)) return fail(ExitCode::kUsage, "'" + value + "' is no number (0: unlimited)");
  v1::SetQuotaRequest request;
  request.set_component(typed.component);
  if (typed.words.size() == 3) {
    if (!is_number(typed.words[0])) {
      return fail(ExitCode::kUsage, "'" + typed.words[0] + "' is no domain's number");
    }
    request.set_subject("domain " + typed.words[0]);
  }
  request.set_name(typed.words[typed.words.size() - 2]);
  request.set_value(std::stoull(value));
  v1::SetQuotaResponse response;
  if (Outcome<void> done = session.client.act(request, response); !done) return done;
  return show(session, response, [](const v1::SetQuotaResponse&) { return ""; });
}

void add_quota(CLI::App& tree, Invocation& invocation) {
  CLI::App& quota = *command(tree, "quota", "Limits of components' clients");
  quota.require_subcommand(1);
  CLI::App& set = *command(quota, "set", "Change a limit, at once: for one domain, else the default for all");
  const auto typed = std::make_shared<QuotaChange>();
  component_argument(set, typed->component)->required();
  set.add_option("limit", typed->words, "which limit and its new value (0: unlimited)")
      ->type_name("[DOMID] NAME VALUE")
      ->expected(2, 3)
      ->required();
  set_action(set, invocation, typed, set_quota);
}

struct LogLevel {
  std::string level;
  std::string component;
};

void add_log_level(CLI::App& tree, Invocation& invocation) {
  CLI::App& log_level = *command(tree, "log-level", "Change how much is logged, at once");
  const auto typed = std::make_shared<LogLevel>();
  log_level.add_option("level", typed->level, "")
      ->required()
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error"}));
  component_argument(log_level, typed->component)
      ->description("only this component, else the supervisor and all");
  set_action(log_level, invocation, typed, [](Session& session, const LogLevel& wanted) -> Outcome<void> {
    v1::SetLogLevelRequest request;
    request.set_level(wanted.level);
    request.set_component(wanted.component);
    v1::SetLogLevelResponse response;
    if (Outcome<void> done = session.client.act(request, response); !done) return done;
    return show(session, response, [](const v1::SetLogLevelResponse&) { return ""; });
  });
}

// ---- without the supervisor ----

// Beside this program if it is there (a build tree, an unusual prefix), else wherever PATH finds it.
std::string bulkheadd_path() {
  std::array<char, 4096> own{};
  const ssize_t length = ::readlink("/proc/self/exe", own.data(), own.size() - 1);
  std::string beside(own.data(), length > 0 ? static_cast<std::size_t>(length) : 0);
  beside = beside.substr(0, beside.rfind('/') + 1) + "bulkheadd";
  return ::access(beside.c_str(), X_OK) == 0 ? beside : "bulkheadd";
}

Outcome<void> check_configuration(const std::string& file) {
  std::vector<std::string> words{bulkheadd_path(), "--check"};
  if (!file.empty()) words.insert(words.end(), {"--config", file});
  std::vector<char*> arguments;
  arguments.reserve(words.size() + 1);
  for (std::string& word : words) arguments.push_back(word.data());
  arguments.push_back(nullptr);
  ::execvp(arguments[0], arguments.data());
  return fail(ExitCode::kFailed,
              "cannot run bulkheadd to check the configuration: " + std::string(::strerrordesc_np(errno)));
}

void add_config(CLI::App& tree, Invocation& invocation) {
  CLI::App& config = *command(tree, "config", "The configuration");
  config.require_subcommand(1);
  CLI::App& check = *command(config, "check", "Validate a configuration file; the supervisor need not run");
  const auto file = std::make_shared<std::string>();
  check.add_option("file", *file, "default: the one bulkheadd uses")->type_name("FILE");
  set_action(check, invocation, file,
             [](Session&, const std::string& path) { return check_configuration(path); });
}

void add_version(CLI::App& tree, Invocation& invocation) {
  CLI::App& version = *command(tree, "version", "Versions of this program and of the supervisor that runs");
  version.callback([&invocation] {
    invocation.action = [](Session& session) {
      if (!session.json) session.output.write("bulkhead    " BULKHEAD_VERSION "\n");
      return query_and_show<v1::GetVersionRequest, v1::GetVersionResponse>(session, v1::GetVersionRequest(),
                                                                           version_view);
    };
  });
}

void add_completion(CLI::App& tree, Invocation& invocation) {
  CLI::App& completion = *command(tree, "completion", "Print a completion script for a shell");
  const auto shell = std::make_shared<std::string>();
  completion.add_option("shell", *shell, "")->required()->check(CLI::IsMember({"bash", "zsh", "fish"}));
  set_action(completion, invocation, shell, [](Session& session, const std::string& wanted) -> Outcome<void> {
    session.output.write(completion_script(wanted));
    return {};
  });
}

void add_globals(CLI::App& tree, Invocation& invocation) {
  tree.add_option("--socket", invocation.socket, "the supervisor's Unix socket")
      ->type_name("FILE")
      ->envname("BULKHEAD_SOCKET")
      ->default_val(kDefaultSocket);
  tree.add_option("-o,--output", invocation.output, "for people or for scripts")
      ->capture_default_str()
      ->check(CLI::IsMember({"table", "json"}));
  tree.add_option("--timeout", invocation.timeout, "for an answer (default: 5s for queries, 60s for actions)")
      ->type_name("DURATION")
      ->check(duration_problem);
  tree.add_option("--color,--colour", invocation.colour, "colours")
      ->capture_default_str()
      ->check(CLI::IsMember({"auto", "always", "never"}));
  tree.set_version_flag("--version", "bulkhead " BULKHEAD_VERSION);
}

}  // namespace

void add_commands(CLI::App& tree, Invocation& invocation) {
  tree.require_subcommand(1);
  tree.fallthrough();  // before the commands, which inherit it: global options may come after the command
  add_globals(tree, invocation);
  add_status(tree, invocation);
  add_watch(tree, invocation);
  add_events(tree, invocation);
  add_incidents(tree, invocation);
  add_listing<v1::ListCustodyRequest, v1::ListCustodyResponse>(
      tree, invocation, "custody", "Descriptors and segments kept for components", custody_view);
  add_listing<v1::ListQuotasRequest, v1::ListQuotasResponse>(
      tree, invocation, "quotas", "Limits of components' clients and what they use", quotas_view);
  add_verb<v1::HandOverRequest, v1::HandOverResponse>(tree, invocation, "handover",
                                                      "Let the standby take over, planned");
  add_verb<v1::RestartRequest, v1::RestartResponse>(tree, invocation, "restart",
                                                    "Replace every process, without loss where possible");
  add_upgrade(tree, invocation);
  add_verb<v1::DrainRequest, v1::DrainResponse>(tree, invocation, "drain",
                                                "Finish the work in progress, then stop until 'enable'");
  add_verb<v1::EnableRequest, v1::EnableResponse>(tree, invocation, "enable",
                                                  "Start again what was drained, disabled or isolated");
  add_verb<v1::DisableRequest, v1::DisableResponse>(tree, invocation, "disable",
                                                    "Stop at once until 'enable'");
  add_verb<v1::ReleaseCustodyRequest, v1::ReleaseCustodyResponse>(
      tree, invocation, "release", "Give up all that a stopped component holds, its state included");
  add_inject(tree, invocation);
  add_faults(tree, invocation);
  add_clear(tree, invocation);
  add_quota(tree, invocation);
  add_log_level(tree, invocation);
  add_config(tree, invocation);
  add_version(tree, invocation);
  add_completion(tree, invocation);
}

}  // namespace bulkhead::cli
