#include "supervisor/adoption.h"

#include <algorithm>
#include <charconv>

#include "supervisor/custody.h"

namespace bulkhead::supervisor {
namespace {

// i/COMPONENT/INSTANCE/PART
struct InstanceName {
  std::string component;
  std::uint64_t instance = 0;
  std::string part;
};

std::optional<InstanceName> parse_instance_name(const std::string& name) {
  const auto parts = split_name(name);
  if (parts.size() != 4 || parts[0] != "i") return std::nullopt;
  InstanceName parsed{std::string(parts[1]), 0, std::string(parts[3])};
  const auto [end, error] =
      std::from_chars(parts[2].data(), parts[2].data() + parts[2].size(), parsed.instance);
  if (error != std::errc{} || end != parts[2].data() + parts[2].size()) return std::nullopt;
  return parsed;
}

// p/COMPONENT/NUMBER
std::optional<std::pair<std::string, std::uint64_t>> parse_program_name(const std::string& name) {
  const auto parts = split_name(name);
  if (parts.size() != 3 || parts[0] != "p") return std::nullopt;
  std::uint64_t number = 0;
  const auto [end, error] = std::from_chars(parts[2].data(), parts[2].data() + parts[2].size(), number);
  if (error != std::errc{} || end != parts[2].data() + parts[2].size()) return std::nullopt;
  return std::pair(std::string(parts[1]), number);
}

bool take_manifest(Inheritance& inheritance, UniqueFd fd) {
  auto memory = ManifestMemory::open(std::move(fd));
  if (!memory || inheritance.memory) return false;
  auto manifest = memory->read();
  if (!manifest) return false;
  inheritance.memory = std::move(*memory);
  inheritance.manifest = std::move(*manifest);
  return true;
}

}  // namespace

std::uint64_t Inheritance::newest_instance() const {
  std::uint64_t newest = 0;
  for (const auto& [key, parts] : instances) newest = std::max(newest, key.second);
  for (const auto& [component, numbers] : programs) {
    if (!numbers.empty()) newest = std::max(newest, numbers.rbegin()->first);
  }
  for (const auto& [component, entries] : items) {
    for (const FdStore::Entry& entry : entries) newest = std::max(newest, custody_depositor(entry.name));
  }
  return newest;
}

Inheritance sort_inheritance(std::vector<FdStore::Entry> entries) {
  Inheritance inheritance;
  for (FdStore::Entry& entry : entries) {
    const std::string name = entry.name;
    if (name == kManifestName) {
      if (!take_manifest(inheritance, std::move(entry.fd))) inheritance.unreadable_manifest = true;
    } else if (const auto component = custody_component(name); !component.empty()) {
      inheritance.items[std::string(component)].push_back(std::move(entry));
    } else if (auto part = parse_instance_name(name)) {
      inheritance.instances[{part->component, part->instance}][part->part] = std::move(entry.fd);
    } else if (auto program = parse_program_name(name)) {
      inheritance.programs[program->first][program->second] = std::move(entry.fd);
    } else {
      inheritance.unknown.push_back(name);
    }
  }
  return inheritance;
}

}  // namespace bulkhead::supervisor
