#include "components/xenstore/limits.h"

#include <algorithm>
#include <array>
#include <charconv>

namespace bulkhead::xenstore {
namespace {

constexpr std::array kQuotas = {
    Quota{"nodes", &Limits::nodes, "nodes owned by a domain"},
    Quota{"watches", &Limits::watches, "watches of a domain"},
    Quota{"transactions", &Limits::transactions, "open transactions of a domain"},
    Quota{"outstanding", &Limits::outstanding, "unanswered requests of a domain"},
    Quota{"transaction-nodes", &Limits::transaction_nodes, "nodes accessed by a transaction"},
    Quota{"memory", &Limits::memory, "bytes held for a domain: refuse above"},
    Quota{"node-size", &Limits::node_size, "bytes of a node"},
    Quota{"path-max", &Limits::path_max, "bytes of a path"},
    Quota{"permissions", &Limits::permissions, "permission entries of a node"},
    Quota{"path-depth", &Limits::path_depth, "levels of a path"},
    Quota{"undelivered", &Limits::undelivered, "bytes a connection has not read"},
    Quota{"soft-memory", &Limits::memory_soft, "bytes held for a domain: warn above"},
};

}  // namespace

std::span<const Quota> all_quotas() {
  return kQuotas;
}

std::optional<std::size_t> find_quota(std::string_view name) {
  if (name == "node-permissions") name = "permissions";
  const auto* found = std::ranges::find(kQuotas, name, &Quota::name);
  if (found == kQuotas.end()) return std::nullopt;
  return static_cast<std::size_t>(found - kQuotas.begin());
}

std::optional<std::uint32_t> parse_limit(std::string_view text) {
  std::uint32_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size() || value > INT32_MAX) return std::nullopt;
  return value;
}

}  // namespace bulkhead::xenstore
