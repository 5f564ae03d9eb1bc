// What a domain may hold: the limits, their names, and how they are found by name. Names and defaults are the
// C xenstored's where it has them (Xen's docs/misc/xenstore.txt, GET_QUOTA; `xenstore-control quota`).
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace bulkhead::xenstore {

// They bind unprivileged domains only. 0: not checked.
struct Limits {
  std::uint32_t nodes = 1000;       // nodes owned by a domain
  std::uint32_t watches = 128;      // watches of a domain
  std::uint32_t transactions = 10;  // open transactions of a domain
  std::uint32_t outstanding = 20;   // unanswered requests of a domain; enforced by the server, kept here
  std::uint32_t transaction_nodes = 1024;  // nodes one transaction touches
  std::uint32_t memory = 2'621'440;        // bytes held for a domain (error level)
  std::uint32_t memory_soft = 2'097'152;   // bytes held for a domain (warning level)
  std::uint32_t node_size = 2048;          // bytes of one node
  std::uint32_t path_max = 2048;           // bytes of a path, not counting /local/domain/<domid>/
  std::uint32_t permissions = 5;           // permission entries of one node
  // Ours, not upstream's.
  std::uint32_t path_depth = 128;  // levels of a path; real guests use about ten
  std::uint32_t undelivered =
      262'144;  // bytes a connection of the domain has not read; enforced by the server
  friend bool operator==(const Limits&, const Limits&) = default;
};

// One limit, as people and the protocol call it.
struct Quota {
  std::string_view name;  // the warning levels begin with "soft-"
  std::uint32_t Limits::* limit;
  std::string_view meaning;
};

inline constexpr std::string_view kSoftPrefix = "soft-";

// All of them, in the order in which they are listed and stored. Bit i of a mask means the i-th.
std::span<const Quota> all_quotas();

// Its place in all_quotas(). "node-permissions", as newer xenstoreds say, is "permissions".
std::optional<std::size_t> find_quota(std::string_view name);

// A limit's value as text: decimal digits, at most INT32_MAX, as upstream's tools can show it.
std::optional<std::uint32_t> parse_limit(std::string_view text);

// `used` more than the limit allows.
inline bool exceeds(std::uint64_t used, std::uint32_t limit) {
  return limit != 0 && used > limit;
}

}  // namespace bulkhead::xenstore
