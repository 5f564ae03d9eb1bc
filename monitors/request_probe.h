// Request probes: a real client's requests in a component's own protocol, chosen by name in the configuration
// (monitor.probe). The registry is the only list of protocols.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "monitors/probe.h"

namespace bulkhead::monitors {

// Connects to `socket_path`, makes the protocol's requests, checks the answers. `token` makes what it writes
// different each time (a counter). kNotFound for an unknown protocol.
Result<std::unique_ptr<Probe>> make_request_probe(std::string_view protocol, const std::string& socket_path,
                                                  std::uint64_t token);
// The names that can be configured.
std::vector<std::string_view> request_protocols();

}  // namespace bulkhead::monitors
