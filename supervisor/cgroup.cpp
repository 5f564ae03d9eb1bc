#include "supervisor/cgroup.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <sys/xattr.h>

#include <array>
#include <charconv>
#include <fstream>
#include <iterator>
#include <sstream>

namespace bulkhead::supervisor {

namespace {

constexpr const char* kCoreGroup = "core";
// One level below the core's: a single write to cgroup.subtree_control then switches limits off (see
// release()).
constexpr const char* kPrefix = "component-";

std::string read_text(const std::string& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

// The kernel reports errors of control files at the write itself, so no stream with a buffer.
Status write_text(const std::string& path, std::string_view text) {
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_CLOEXEC));
  if (!file.valid()) return os_failure("cannot open " + path);
  if (::write(file.get(), text.data(), text.size()) != static_cast<ssize_t>(text.size()))
    return os_failure("cannot write \"" + std::string(text) + "\" to " + path);
  return {};
}

// Where cgroup v2 is mounted (hybrid hosts: /sys/fs/cgroup/unified), from /proc/self/mountinfo (proc(5)).
std::string mount_point() {
  std::ifstream file("/proc/self/mountinfo");
  std::string line;
  while (std::getline(file, line)) {
    const auto separator = line.find(" - cgroup2 ");
    if (separator == std::string::npos) continue;
    std::istringstream fields(line.substr(0, separator));
    std::array<std::string, 5> field;
    for (auto& each : field) fields >> each;
    return field[4];
  }
  return {};
}

// Our group's path below the mount point: the line "0::/path" of /proc/self/cgroup.
std::string own_group() {
  std::ifstream file("/proc/self/cgroup");
  std::string line;
  while (std::getline(file, line))
    if (line.starts_with("0::/")) return line.substr(3);
  return {};
}

bool marked_delegated(const std::string& path) {
  for (const char* name : {"user.delegate", "trusted.delegate"}) {
    std::array<char, 8> value{};
    const ssize_t length = ::getxattr(path.c_str(), name, value.data(), value.size());
    if (length == 1 && value[0] == '1') return true;
  }
  return false;
}

// A core that was started by an earlier core's side effect may already live in the leaf.
std::string delegated_root() {
  const std::string mount = mount_point();
  const std::string own = own_group();
  if (mount.empty() || own.empty()) return {};
  std::string path = own == "/" ? mount : mount + own;
  const std::string leaf = std::string("/") + kCoreGroup;
  if (!marked_delegated(path) && path.ends_with(leaf)) path.resize(path.size() - leaf.size());
  return path;
}

Status make_directory(const std::string& path) {
  if (::mkdir(path.c_str(), 0755) == 0 || errno == EEXIST) return {};
  return os_failure("cannot make control group " + path);
}

// Which of the controllers that limits need were given to us but cannot be passed on, or were not given.
std::string enable_controllers(const std::string& path) {
  const std::string available = " " + read_text(path + "/cgroup.controllers") + " ";
  std::string missing;
  for (const std::string name : {"memory", "pids", "cpu"}) {
    const bool given = available.find(" " + name + " ") != std::string::npos ||
                       available.find(" " + name + "\n") != std::string::npos;
    if (given && write_text(path + "/cgroup.subtree_control", "+" + name)) continue;
    missing += (missing.empty() ? "" : ", ") + name;
  }
  return missing.empty() ? "" : "no control group limits for " + missing + ": not delegated";
}

std::string limit_text(std::uint64_t value) {
  return value == UINT64_MAX ? "max" : std::to_string(value);
}

}  // namespace

CgroupTree CgroupTree::detect() {
  CgroupTree none;
  const std::string path = delegated_root();
  if (path.empty()) {
    none.note_ = "no control groups: there is no cgroup v2 here";
    return none;
  }
  if (!marked_delegated(path)) {
    none.note_ = "no control groups: " + path + " is not delegated to this service";
    return none;
  }
  return at(path, true);
}

CgroupTree CgroupTree::at(const std::string& path, bool move_self) {
  CgroupTree tree;
  if (move_self) {
    const std::string leaf = path + "/" + kCoreGroup;
    auto moved = make_directory(leaf);
    if (moved) moved = write_text(leaf + "/cgroup.procs", "0");
    if (!moved) {
      tree.note_ = "no control groups: " + moved.error().message();
      return tree;
    }
  }
  tree.path_ = path;
  tree.note_ = enable_controllers(path);
  return tree;
}

Result<CgroupTree::Group> CgroupTree::group(std::string_view component, const CgroupLimits& limits) const {
  if (!usable()) return failure(ErrorKind::kRefused, note_.empty() ? "there are no control groups" : note_);
  const std::string path = path_ + "/" + kPrefix + std::string(component);
  if (auto made = make_directory(path); !made) return forward(std::move(made));
  Group group;
  group.directory = UniqueFd(::open(path.c_str(), O_DIRECTORY | O_RDONLY | O_CLOEXEC));
  if (!group.directory.valid()) return os_failure("cannot open control group " + path);
  const std::array<std::pair<const char*, const std::optional<std::uint64_t>*>, 3> files = {
      {{"memory.max", &limits.memory_max},
       {"pids.max", &limits.pids_max},
       {"cpu.weight", &limits.cpu_weight}}};
  for (const auto& [file, value] : files) {
    if (!*value) continue;
    if (auto written = write_text(path + "/" + file, limit_text(**value)); !written)
      group.notes.push_back("runs without its limit: " + written.error().message());
  }
  return group;
}

Status CgroupTree::remove(std::string_view component) const {
  if (!usable()) return failure(ErrorKind::kRefused, "there are no control groups");
  const std::string path = path_ + "/" + kPrefix + std::string(component);
  if (::rmdir(path.c_str()) == 0 || errno == ENOENT) return {};
  return os_failure("cannot remove control group " + path);
}

std::optional<std::uint64_t> CgroupTree::memory_current(std::string_view component) const {
  const std::string text = read_text(path_ + "/" + kPrefix + std::string(component) + "/memory.current");
  std::uint64_t value = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), value).ec != std::errc()) return std::nullopt;
  return value;
}

Status CgroupTree::release() {
  std::string path = delegated_root();
  // A service manager runs such helpers in a group of their own below the service's.
  while (!path.empty() && !marked_delegated(path)) path.resize(path.rfind('/'));
  if (path.empty()) return {};
  std::istringstream enabled(read_text(path + "/cgroup.subtree_control"));
  std::string name;
  while (enabled >> name)
    if (auto written = write_text(path + "/cgroup.subtree_control", "-" + name); !written) return written;
  return {};
}

}  // namespace bulkhead::supervisor
