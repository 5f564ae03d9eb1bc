// How the active instance treats its clients; from the component's settings.
#pragma once

#include <cstdint>

#include "components/xenstore/write_limit.h"
#include "runtime/instance.h"

namespace bulkhead::xenstore {

struct ServerSettings {
  WriteLimit::Policy write_limit;  // write_rate, write_burst
  std::uint32_t poison_limit = 3;  // requests of one client refused as poison, then it is cut off
  std::uint64_t unsent_limit =
      256 << 20;  // unsent_bytes: of all clients together; above it the greediest lose

  // kInvalid names the setting that is impossible.
  static Result<ServerSettings> from(const Instance& instance);
};

// A number between two bounds, `fallback` if it is not set; kInvalid says what is wrong.
Result<std::uint64_t> setting_between(const Instance& instance, const std::string& name,
                                      std::uint64_t fallback, std::uint64_t low, std::uint64_t high);

}  // namespace bulkhead::xenstore
