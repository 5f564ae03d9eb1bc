// The command line and environment of bulkhead-api.
#pragma once

#include <optional>
#include <string>

#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "supervisor/api/server.h"

namespace bulkhead::edge {

struct Options {
  std::optional<TcpOptions> tcp;
  std::string log_level = "info";
};

// What the core left open for the edge; close-on-exec from here on.
struct Inherited {
  UniqueFd core;       // BULKHEAD_EDGE_FD: connected SOCK_SEQPACKET socket
  UniqueFd listening;  // BULKHEAD_LISTEN_FD: listening Unix stream socket
};

// kInvalid with one line for the operator; an empty optional when help or the version was printed instead.
Result<std::optional<Options>> parse_options(int argc, char** argv);

// Takes the descriptors named in the environment; checks that they are what they should be.
Result<Inherited> inherited_descriptors();

}  // namespace bulkhead::edge
