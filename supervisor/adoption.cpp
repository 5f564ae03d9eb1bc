#include "supervisor/adoption.h"

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
  const char* end_of_number = parts[2].data() + parts[2].size();
  const auto [end, error] = std::from_chars(parts[2].data(), end_of_number, parsed.instance);
  if (error != std::errc{} || end != end_of_number) return std::nullopt;
  return parsed;
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

Inheritance sort_inheritance(std::vector<FdStore::Entry> entries) {
  Inheritance inheritance;
  for (FdStore::Entry& entry : entries) {
    const std::string name = entry.name;
    if (name == kManifestName) {
      if (!take_manifest(inheritance, std::move(entry.fd))) inheritance.unknown.push_back(name);
    } else if (const auto component = custody_component(name); !component.empty()) {
      inheritance.items[std::string(component)].push_back(std::move(entry));
    } else if (auto part = parse_instance_name(name)) {
      inheritance.instances[{part->component, part->instance}][part->part] = std::move(entry.fd);
    } else {
      inheritance.unknown.push_back(name);
    }
  }
  return inheritance;
}

}  // namespace bulkhead::supervisor
