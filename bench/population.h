// Trees that benchmarks fill a store with.
#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

#include "bench/wire.h"
#include "runtime/result.h"

namespace bulkhead::bench {

// What a host's toolstack and its guests keep for each domain: a block device, network devices, console,
// memory, both ends of each. `nodes` leaves (and the directories that hold them), 40 a domain, readable by
// the domain. Sends everything pipelined and waits for the last reply.
Status populate_domains(Wire& wire, std::uint64_t nodes);

// `nodes` leaves below `base`, 100 directories of them: path i is leaf_path(base, i).
std::string leaf_path(const std::string& base, std::uint64_t i);
Status populate_leaves(Wire& wire, const std::string& base, std::uint64_t nodes, const std::string& value);

// `children` empty nodes in one directory, made in an order that is not theirs.
Status populate_directory(Wire& wire, const std::string& directory, std::uint64_t children);

}  // namespace bulkhead::bench
