// A xenstore client that writes a value and reads it back. Wire format: xen/io/xs_wire.h and
// docs/misc/xenstore.txt of Xen.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "monitors/probe.h"

namespace bulkhead::monitors {

// The node it writes; readable by anyone, as every node that dom0 makes under /tool.
inline constexpr const char* kXenstoreProbeNode = "/tool/bulkhead/probe";

std::unique_ptr<Probe> make_xenstore_probe(const std::string& socket_path, std::uint64_t token);

}  // namespace bulkhead::monitors
