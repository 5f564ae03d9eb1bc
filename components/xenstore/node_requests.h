// What the requests on nodes share: finding the node a request names, with the protocol's errors.
#pragma once

#include <optional>
#include <string_view>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {

struct Target {
  std::string_view path;       // in the payload or in the call's buffer
  const Node* node = nullptr;  // null with kNoEntry
};

// EINVAL without a valid name; EIO if the node is damaged; ENOENT; EACCES if not all `needed` rights are
// granted, or if an unprivileged caller may not even learn that there is no such node. Notes `reliance` on
// the path in a transaction.
ErrorCode find_node(Call& call, std::optional<std::string_view> name, std::uint8_t needed,
                    std::uint8_t reliance, Target& target);

// The topmost path on the way to `path` that does not exist, when its first `existing` bytes name the deepest
// that does.
std::string_view first_missing(std::string_view path, std::size_t existing);

}  // namespace bulkhead::xenstore::core
