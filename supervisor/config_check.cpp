#include "supervisor/config_check.h"

#include <sys/un.h>

#include <algorithm>
#include <functional>
#include <set>

#include "monitors/probe.h"
#include "monitors/request_probe.h"
#include "runtime/clock.h"

namespace bulkhead::supervisor {

namespace {

constexpr std::size_t kMaxComponents = 64;
constexpr std::size_t kMaxSocketPath = sizeof(sockaddr_un::sun_path) - 1;

bool valid_variable(std::string_view name) {
  const auto good = [](char c) {
    return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '_';
  };
  return !name.empty() && std::all_of(name.begin(), name.end(), good) && !(name[0] >= '0' && name[0] <= '9');
}

class Checker {
 public:
  Checker(Config& config, const Origins& origins) : config_(config), origins_(origins) {}

  Status check() {
    std::vector<std::function<Status()>> steps = {
        [this] { return directories(); },
        [this] { return api(); },
        [this] { return component(config_.api.process, "api.process"); },
        [this] { return components(); },
        [this] { return shared_sockets(); },
        [this] { return dependencies(); }};
    for (const auto& step : steps)
      if (auto done = step(); !done) return done;
    return {};
  }

 private:
  std::unexpected<Error> wrong(const std::string& key, const std::string& what) const {
    return std::unexpected(origins_.complaint(key, what));
  }

  Status directories() {
    const auto absolute = [this](const std::string& key, const std::string& path) -> Status {
      if (path.starts_with('/')) return {};
      return wrong(key, "is \"" + path + "\"; an absolute path is needed");
    };
    if (auto done = absolute("supervisor.runtime_dir", config_.supervisor.runtime_dir); !done) return done;
    return absolute("supervisor.state_dir", config_.supervisor.state_dir);
  }

  Status socket_path(std::string& path, const std::string& key) {
    if (!path.starts_with('/')) path = config_.supervisor.runtime_dir + "/" + path;
    if (path.size() <= kMaxSocketPath) return {};
    return wrong(key, "is " + std::to_string(path.size()) + " bytes long as " + path + "; at most " +
                          std::to_string(kMaxSocketPath) + " fit into a socket address");
  }

  Status api() {
    if (config_.api.socket.empty()) return wrong("api.socket", "is empty; a path is needed");
    if (auto done = socket_path(config_.api.socket, "api.socket"); !done) return done;
    CheckConfig& liveness = config_.api.process.liveness;
    if (liveness.type == CheckType::kGrpc && liveness.target.empty())
      liveness.target = "unix:" + config_.api.socket;
    const TcpConfig& tcp = config_.api.tcp;
    if (tcp.address.empty()) return {};
    if (auto done = host_and_port("api.tcp.address", tcp.address); !done) return done;
    for (const auto& [key, path] :
         {std::pair("cert", &tcp.cert), {"key", &tcp.key}, {"client_ca", &tcp.client_ca}}) {
      if (!path->starts_with('/')) {
        return wrong(std::string("api.tcp.") + key,
                     "is \"" + *path + "\"; with api.tcp.address, the absolute path of a PEM file is needed");
      }
    }
    return {};
  }

  Status host_and_port(const std::string& key, const std::string& text) const {
    auto parsed = monitors::make_tcp_probe(text);
    if (parsed) return {};
    return wrong(key, parsed.error().message());
  }

  Status components() {
    if (config_.components.size() > kMaxComponents) {
      return wrong("components", "are " + std::to_string(config_.components.size()) + "; at most " +
                                     std::to_string(kMaxComponents) + " are possible");
    }
    for (auto& each : config_.components)
      if (auto done = component(each, "components." + each.name); !done) return done;
    return {};
  }

  Status component(ComponentConfig& component, const std::string& at) {
    if (component.program.empty()) return wrong(at + ".program", "is empty; a program is needed");
    if (!component.socket.empty())
      if (auto done = socket_path(component.socket, at + ".socket"); !done) return done;
    for (const auto& check : {&Checker::native_only, &Checker::monitors, &Checker::restart,
                              &Checker::rejuvenate, &Checker::environment})
      if (auto done = (this->*check)(component, at); !done) return done;
    component.readiness.failures = 1;
    if (auto done = asked(component, component.readiness, at + ".readiness"); !done) return done;
    return asked(component, component.liveness, at + ".liveness");
  }

  Status native_only(const ComponentConfig& component, const std::string& at) const {
    if (component.kind == ComponentKind::kNative) return {};
    const std::string why = "needs the component contract; kind = \"native\", or leave it out, is needed";
    if (component.standby) return wrong(at + ".standby", why);
    if (!component.socket.empty()) return wrong(at + ".socket", why);
    if (component.ring_entries > 0) return wrong(at + ".ring_entries", why);
    if (component.monitor.max_cpu > 0) return wrong(at + ".monitor.max_cpu", why);
    return {};
  }

  Status monitors(const ComponentConfig& component, const std::string& at) const {
    const MonitorConfig& monitor = component.monitor;
    if (monitor.check_interval_ns > monitor.progress_deadline_ns / 2) {
      return wrong(at + ".monitor.check_interval", "is " + format_duration(monitor.check_interval_ns) +
                                                       "; at most half of progress_deadline (" +
                                                       format_duration(monitor.progress_deadline_ns) +
                                                       ") is needed");
    }
    if (monitor.probe.empty()) return {};
    const auto known = monitors::request_protocols();
    if (std::find(known.begin(), known.end(), monitor.probe) == known.end()) {
      std::string names;
      for (const auto& name : known) names += (names.empty() ? "" : ", ") + std::string(name);
      return wrong(at + ".monitor.probe", "is \"" + monitor.probe + "\"; one of these is needed: " + names);
    }
    if (component.socket.empty())
      return wrong(at + ".monitor.probe", "has nothing to connect to; " + at + ".socket is needed");
    return {};
  }

  Status restart(const ComponentConfig& component, const std::string& at) const {
    const RestartConfig& restart = component.restart;
    if (restart.backoff_initial_ns <= restart.backoff_max_ns) return {};
    return wrong(at + ".restart.backoff_initial",
                 "is " + format_duration(restart.backoff_initial_ns) + "; at most backoff_max (" +
                     format_duration(restart.backoff_max_ns) + ") is needed");
  }

  Status rejuvenate(const ComponentConfig& component, const std::string& at) const {
    constexpr std::int64_t kLeastAge = kSecond;
    constexpr std::uint64_t kLeastGrowth = std::uint64_t{1} << 20;
    const RejuvenateConfig& rejuvenate = component.rejuvenate;
    if (rejuvenate.every_ns > 0 && rejuvenate.every_ns < kLeastAge) {
      return wrong(at + ".rejuvenate.every", "is " + format_duration(rejuvenate.every_ns) +
                                                 "; at least 1s, or 0s for never, is needed");
    }
    if (rejuvenate.growth > 0 && rejuvenate.growth < kLeastGrowth) {
      return wrong(at + ".rejuvenate.growth", "is " + std::to_string(rejuvenate.growth) +
                                                  " bytes; at least 1MiB, or 0 for never, is needed");
    }
    if (component.standby) return {};
    const std::string why = "hands over to a standby; " + at + ".standby = true is needed";
    if (rejuvenate.every_ns > 0) return wrong(at + ".rejuvenate.every", why);
    if (rejuvenate.growth > 0) return wrong(at + ".rejuvenate.growth", why);
    return {};
  }

  Status environment(const ComponentConfig& component, const std::string& at) const {
    for (const auto& [name, value] : component.environment) {
      const std::string key = at + ".environment";
      if (!valid_variable(name))
        return wrong(key, "\"" + name + "\" is no name of a variable; letters, digits and \"_\" are needed");
      if (name.starts_with("BULKHEAD_")) {
        return wrong(key,
                     name + " is the supervisor's own; a name that does not begin with BULKHEAD_ is needed");
      }
    }
    return {};
  }

  Status asked(const ComponentConfig& component, const CheckConfig& check, const std::string& at) const {
    if (check.type == CheckType::kNone) return {};
    if (component.kind == ComponentKind::kNative) {
      return wrong(at + ".type",
                   "is told by the component itself; kind = \"foreign\", or \"none\", is needed");
    }
    switch (check.type) {
      case CheckType::kNone:
      case CheckType::kNotify:
        return {};
      case CheckType::kCommand:
        if (!check.command.empty() && !check.command[0].empty()) return {};
        return wrong(at + ".command", "is empty; a program and its arguments are needed");
      case CheckType::kTcp:
        return host_and_port(at + ".target", check.target);
      case CheckType::kUnix:
        if (check.target.starts_with('/') && check.target.size() <= kMaxSocketPath) return {};
        return wrong(at + ".target", "is \"" + check.target + "\"; an absolute path of at most " +
                                         std::to_string(kMaxSocketPath) + " bytes is needed");
      case CheckType::kGrpc:
        if (check.target.starts_with("unix:/")) return {};
        return host_and_port(at + ".target", check.target);
    }
    return {};
  }

  Status shared_sockets() const {
    std::map<std::string, std::string> owner = {{config_.api.socket, "api.socket"}};
    for (const auto& component : config_.components) {
      if (component.socket.empty()) continue;
      const std::string key = "components." + component.name + ".socket";
      const auto [found, fresh] = owner.emplace(component.socket, key);
      if (!fresh) {
        return wrong(key,
                     "is " + component.socket + ", as is " + found->second + "; different paths are needed");
      }
    }
    return {};
  }

  // Depth first, in the order of names: what is finished first can start first.
  Status dependencies() {
    std::vector<ComponentConfig> sorted;
    std::set<std::string> done;
    std::vector<std::string> path;
    for (const auto& component : config_.components)
      if (auto visited = visit(component, path, done, sorted); !visited) return visited;
    config_.components = std::move(sorted);
    return {};
  }

  Status visit(const ComponentConfig& component, std::vector<std::string>& path, std::set<std::string>& done,
               std::vector<ComponentConfig>& sorted) const {
    if (done.contains(component.name)) return {};
    const std::string key = "components." + component.name + ".depends_on";
    const bool again = std::find(path.begin(), path.end(), component.name) != path.end();
    path.push_back(component.name);
    if (again) {
      return wrong(key,
                   "goes round in a circle (" + circle(path) + "); one of these must not depend on the next");
    }
    for (const auto& name : component.depends_on) {
      const ComponentConfig* other = config_.find(name);
      if (other == nullptr)
        return wrong(key, "names \"" + name + "\", which is no component; " + known_names() + " exist");
      if (auto visited = visit(*other, path, done, sorted); !visited) return visited;
    }
    path.pop_back();
    done.insert(component.name);
    sorted.push_back(component);
    return {};
  }

  std::string known_names() const {
    std::string names;
    for (const auto& component : config_.components) names += (names.empty() ? "" : ", ") + component.name;
    return names;
  }

  static std::string circle(const std::vector<std::string>& path) {
    std::string text;
    for (auto it = std::find(path.begin(), path.end(), path.back()); it != path.end(); ++it)
      text += (text.empty() ? "" : " -> ") + *it;
    return text;
  }

  Config& config_;
  const Origins& origins_;
};

}  // namespace

Error Origins::complaint(const std::string& key, const std::string& what) const {
  std::string below;
  for (const std::string_view section : {"components.", "api.process."}) {
    if (!key.starts_with(section)) continue;
    const auto dot = section == "components." ? key.find('.', section.size()) + 1 : section.size();
    below = "defaults." + key.substr(dot);
  }
  const Origin* found = find(key);
  if (found == nullptr) found = find(below);
  // Nobody wrote it: what was written beside it made it matter.
  for (auto dot = key.rfind('.'); found == nullptr && dot != std::string::npos && dot > 0;
       dot = key.rfind('.', dot - 1))
    found = find_below(key.substr(0, dot));
  if (found == nullptr) return Origin{source_, false}.complaint(key, what);
  // --set names its own key, which may be another one than the one that became impossible.
  Origin origin = *found;
  origin.names_key = origin.names_key && origin.where.ends_with(" " + key);
  return origin.complaint(key, what);
}

const Origin* Origins::find(const std::string& key) const {
  const auto found = by_key_.find(key);
  return found == by_key_.end() ? nullptr : &found->second;
}

const Origin* Origins::find_below(const std::string& section) const {
  if (const Origin* table = find(section)) return table;
  const auto next = by_key_.lower_bound(section + ".");
  return next != by_key_.end() && next->first.starts_with(section + ".") ? &next->second : nullptr;
}

Status check_and_finish(Config& config, const Origins& origins) {
  return Checker(config, origins).check();
}

}  // namespace bulkhead::supervisor
