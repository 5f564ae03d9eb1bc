#include "supervisor/instance_launcher.h"

#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <filesystem>
#include <fstream>
#include <iterator>

namespace bulkhead::supervisor {
namespace {

constexpr const char* kPath = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

std::string instance_mark(const std::string& component, std::uint64_t instance) {
  return "BULKHEAD_INSTANCE=" + component + "/" + std::to_string(instance);
}

std::string custody_mark(const std::string& custody_id) {
  return "BULKHEAD_CUSTODY=" + custody_id;
}

// `environment` as in proc_pid_environ(5).
bool has_variable(const std::string& environment, const std::string& variable) {
  for (std::size_t at = environment.find(variable + '\0'); at != std::string::npos;
       at = environment.find(variable + '\0', at + 1)) {
    if (at == 0 || environment[at - 1] == '\0') return true;
  }
  return false;
}

std::vector<ResourceLimit> resource_limits(const LimitsConfig& limits) {
  std::vector<ResourceLimit> result;
  const auto add = [&result](int resource, const std::optional<std::uint64_t>& value) {
    if (value) result.push_back({resource, *value == kUnlimited ? std::uint64_t{RLIM_INFINITY} : *value});
  };
  add(RLIMIT_NOFILE, limits.nofile);
  add(RLIMIT_CORE, limits.core);
  add(RLIMIT_AS, limits.as);
  add(RLIMIT_NPROC, limits.nproc);
  add(RLIMIT_MEMLOCK, limits.memlock);
  return result;
}

}  // namespace

InstanceLauncher::InstanceLauncher(const ComponentConfig& config, const SupervisorConfig& supervisor,
                                   const CgroupTree& cgroups, std::string custody_id, bool die_with_core)
    : config_(&config),
      custody_id_(std::move(custody_id)),
      limits_(resource_limits(config.limits)),
      die_with_core_(die_with_core) {
  auto program = find_program(config.program);
  if (program) {
    program_ = std::move(*program);
  } else {
    program_ = config.program;
    program_trouble_ = std::move(program).error();
  }
  const std::string& user = config.user.empty() ? supervisor.user : config.user;
  const std::string& group = config.group.empty() && config.user.empty() ? supervisor.group : config.group;
  if (::geteuid() == 0 && !user.empty()) {
    auto account = resolve_account(user, group);
    if (account) {
      if (!account->note.empty()) notes_.push_back(account->note);
      account_ = std::move(*account);
    } else {
      account_trouble_ = std::move(account).error();
    }
  }
  if (!cgroups.usable()) return;
  auto made = cgroups.group(config.name,
                            {config.limits.memory_max, config.limits.pids_max, config.limits.cpu_weight});
  if (!made) {
    notes_.push_back(made.error().message());
    return;
  }
  std::ranges::copy(made->notes, std::back_inserter(notes_));
  cgroup_ = std::move(*made);
}

LaunchRequest InstanceLauncher::request() const {
  LaunchRequest request;
  request.environment.emplace_back(kPath);
  request.environment.emplace_back("LANG=C.UTF-8");
  for (const auto& [name, value] : config_->environment)
    request.environment.push_back(std::string(name).append("=").append(value));
  request.account = account_;
  request.limits = limits_;
  request.oom_score_adjust = config_->limits.oom_score_adjust;
  if (cgroup_) request.cgroup = cgroup_->directory.borrow();
  return request;
}

Result<Program> InstanceLauncher::open_configured() const {
  auto path = find_program(config_->program);
  if (!path) return forward(std::move(path));
  return open_program(*path);
}

Result<Launched> InstanceLauncher::launch(std::uint64_t instance, Addition addition,
                                          const Program* program) const {
  if (account_trouble_) return std::unexpected(*account_trouble_);
  if (program == nullptr && program_trouble_) return std::unexpected(*program_trouble_);
  LaunchRequest what = request();
  what.program = program_;
  if (program != nullptr) {
    what.program = program->path;
    what.executable = program->file.borrow();
    what.is_script = program->is_script;
  }
  what.args = config_->args;
  what.environment.push_back(instance_mark(config_->name, instance));
  what.environment.push_back(custody_mark(custody_id_));
  std::ranges::move(addition.environment, std::back_inserter(what.environment));
  what.descriptors = std::move(addition.descriptors);
  what.die_with_core = die_with_core_;
  return supervisor::launch(what);
}

Result<PidFd> InstanceLauncher::run_command(const std::vector<std::string>& command) const {
  auto program = find_program(command.front());
  if (!program) return forward(std::move(program));
  LaunchRequest what = request();
  what.program = std::move(*program);
  what.args.assign(command.begin() + 1, command.end());
  what.die_with_core = true;
  what.output = LaunchRequest::Output::kDiscard;
  if (what.account && check_group_) what.account->groups.push_back(*check_group_);
  auto launched = supervisor::launch(what);
  if (!launched) return forward(std::move(launched));
  return std::move(launched->process);
}

std::vector<PidFd> find_orphans(const std::string& custody_id, const std::string& component,
                                std::uint64_t instance) {
  std::vector<PidFd> found;
  const std::string instance_variable = instance_mark(component, instance);
  const std::string custody_variable = custody_mark(custody_id);
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename();
    pid_t pid = 0;
    const auto [end, bad] = std::from_chars(name.data(), name.data() + name.size(), pid);
    if (bad != std::errc{} || end != name.data() + name.size()) continue;
    // The descriptor first: it then stands for the very process whose environment is read.
    auto process = PidFd::open(pid);
    std::ifstream file(entry.path() / "environ", std::ios::binary);
    const std::string environment{std::istreambuf_iterator<char>(file), {}};
    const bool ours =
        has_variable(environment, custody_variable) && has_variable(environment, instance_variable);
    if (process && ours) found.push_back(std::move(*process));
  }
  return found;
}

}  // namespace bulkhead::supervisor
