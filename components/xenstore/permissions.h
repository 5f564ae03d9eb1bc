// A node's permissions: the owner's entry first, its access being everybody else's default; then one entry
// per domain.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <string_view>

#include "components/xenstore/protocol.h"
#include "components/xenstore/ref.h"

namespace bulkhead::xenstore::core {

// Bits of what a domain may do with a node.
enum Rights : std::uint8_t { kNoRights = 0, kMayRead = 1, kMayWrite = 2, kMayOwn = 4, kAllRights = 7 };

struct Permission {
  std::uint32_t domid;
  std::uint8_t rights;  // kMayRead, kMayWrite or both
  std::uint8_t
      ignored;  // 1: names a domain that was gone when the node was last changed; never applies again
  std::uint16_t reserved = 0;
  friend bool operator==(const Permission&, const Permission&) = default;
};

using PermissionSet = SharedArray<Permission>;  // never empty in a node

// Exactly `count` entries such as "r5\0n0\0" (the number in any base strtol accepts); what follows them is
// ignored. EINVAL on bad syntax, ENOENT if the owner can be no domain.
std::expected<Ref<PermissionSet>, ErrorCode> parse_permissions(std::string_view arguments, std::size_t count);

// The reverse, each entry with its NUL.
void append_permissions(const PermissionSet& permissions, std::string& out);

}  // namespace bulkhead::xenstore::core
