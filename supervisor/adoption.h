// Sorts what a former core parked in the descriptor store by what it belongs to.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "bulkhead/manifest/v1/manifest.pb.h"
#include "supervisor/fd_store.h"
#include "supervisor/manifest.h"

namespace bulkhead::supervisor {

inline constexpr const char* kManifestName = "manifest";

struct Inheritance {
  // Both or neither: without a manifest that can be read there is nothing to go on with.
  std::optional<ManifestMemory> memory;
  manifest::v1::Manifest manifest;

  std::map<std::string, std::vector<FdStore::Entry>> items;  // by component
  // By component and instance: descriptors by the last part of their names.
  std::map<std::pair<std::string, std::uint64_t>, std::map<std::string, UniqueFd>> instances;
  // By component and number.
  std::map<std::string, std::map<std::uint64_t, UniqueFd>> programs;
  // Something is parked under the manifest's name that is none, or is damaged, or of another layout.
  bool unreadable_manifest = false;
  // Names nobody knows.
  std::vector<std::string> unknown;

  bool empty() const {
    return items.empty() && instances.empty() && programs.empty() && unknown.empty() && !unreadable_manifest;
  }
  // The largest instance number that any name mentions; 0: none does. Numbers are not used again, and without
  // a manifest the names are all that is known.
  std::uint64_t newest_instance() const;
};

Inheritance sort_inheritance(std::vector<FdStore::Entry> entries);

}  // namespace bulkhead::supervisor
