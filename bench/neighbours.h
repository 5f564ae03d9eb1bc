// Hostile clients: what a quiet client of the same xenstore service has to live beside.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"

namespace bulkhead::bench {

struct Hostility {
  std::string socket;
  std::uint64_t size;                      // of what it builds: children, nodes, watches, by kind
  std::atomic<std::uint64_t>* operations;  // counts what it got done, to show that it was at work
  std::function<void()> ready;             // to be called when setup is over and the attack begins
};

struct NeighbourKind {
  std::string_view name;
  std::string_view help;
  std::uint64_t size;                   // default
  Status (*run)(const Hostility& how);  // returns only when something failed
};

const std::vector<NeighbourKind>& neighbour_kinds();

}  // namespace bulkhead::bench
