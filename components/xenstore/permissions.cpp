#include "components/xenstore/permissions.h"

#include <charconv>
#include <optional>
#include <vector>

namespace bulkhead::xenstore::core {
namespace {

std::optional<std::uint8_t> rights_of_letter(char letter) {
  switch (letter) {
    case 'n':
      return kNoRights;
    case 'r':
      return kMayRead;
    case 'w':
      return kMayWrite;
    case 'b':
      return kMayRead | kMayWrite;
    default:
      return std::nullopt;
  }
}

// Decimal, 0x... or 0...; a sign is allowed. Domain ids are 32 bits wide on the wire, and wrap.
std::optional<std::uint32_t> parse_domid(std::string_view text) {
  bool negative = text.starts_with('-');
  if (negative || text.starts_with('+')) text.remove_prefix(1);
  int base = 10;
  if (text.starts_with("0x") || text.starts_with("0X")) {
    base = 16;
    text.remove_prefix(2);
  } else if (text.size() > 1 && text[0] == '0') {
    base = 8;
  }
  std::uint64_t value = 0;
  auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  auto narrow = static_cast<std::uint32_t>(value);
  return negative ? 0U - narrow : narrow;
}

std::optional<Permission> parse_permission(std::string_view text) {
  if (text.size() < 2) return std::nullopt;
  auto rights = rights_of_letter(text[0]);
  auto domid = parse_domid(text.substr(1));
  if (!rights || !domid) return std::nullopt;
  return Permission{.domid = *domid, .rights = *rights, .ignored = *domid >= kFirstReservedDomain};
}

}  // namespace

std::expected<Ref<PermissionSet>, ErrorCode> parse_permissions(std::string_view arguments,
                                                               std::size_t count) {
  std::vector<Permission> parsed;
  parsed.reserve(count);
  for (std::size_t i = 0; i < count; ++i) {
    auto argument = take_argument(arguments);
    auto permission = argument ? parse_permission(*argument) : std::nullopt;
    if (!permission) return std::unexpected(ErrorCode::kInvalid);
    parsed.push_back(*permission);
  }
  if (parsed.empty()) return std::unexpected(ErrorCode::kInvalid);
  if (parsed.front().ignored != 0) return std::unexpected(ErrorCode::kNoEntry);
  return PermissionSet::make(parsed);
}

void append_permissions(const PermissionSet& permissions, std::string& out) {
  constexpr std::string_view kLetters = "nrwb";
  for (const Permission& permission : permissions.view()) {
    out += kLetters[permission.rights & 3U];
    out += std::to_string(static_cast<std::int32_t>(permission.domid));
    out += '\0';
  }
}

}  // namespace bulkhead::xenstore::core
