#include "components/xenstore/protocol.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cstring>

namespace bulkhead::xenstore {
namespace {

using std::string_view_literals::operator""sv;

constexpr std::string_view kDomainPrefix = "/local/domain/";

constexpr std::array<bool, 256> kPathCharacters = [] {
  std::array<bool, 256> allowed{};
  for (char c : "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@"sv) {
    allowed[static_cast<unsigned char>(c)] = true;
  }
  return allowed;
}();

// Length of a leading /local/domain/<up to five digits>/, 0 if there is none.
std::size_t domain_prefix_length(std::string_view path) {
  if (!path.starts_with(kDomainPrefix)) return 0;
  std::size_t at = kDomainPrefix.size();
  while (at < path.size() && at < kDomainPrefix.size() + 5 && path[at] >= '0' && path[at] <= '9') ++at;
  return at > kDomainPrefix.size() && at < path.size() && path[at] == '/' ? at + 1 : 0;
}

}  // namespace

Effect effect_of(std::uint32_t type, std::uint32_t transaction) {
  switch (type) {
    case kDirectory:
    case kDirectoryPart:
    case kRead:
    case kGetPerms:
      return transaction == 0 ? Effect::kNone : Effect::kShrinks;
    case kGetDomainPath:
    case kIsDomainIntroduced:
    case kGetFeature:
    case kGetQuota:
      return Effect::kNone;
    case kControl:
    case kSetFeature:
    case kSetQuota:
    case kRm:
    case kUnwatch:
    case kResetWatches:
    case kRelease:
    case kTransactionEnd:
      return Effect::kShrinks;
    default:
      return Effect::kGrows;
  }
}

bool changes_node(std::uint32_t type) {
  return type == kWrite || type == kMkdir || type == kRm || type == kSetPerms;
}

std::string_view error_name(ErrorCode code) {
  switch (code) {
    case ErrorCode::kNone:
      break;
    case ErrorCode::kAccess:
      return "EACCES\0"sv;
    case ErrorCode::kAgain:
      return "EAGAIN\0"sv;
    case ErrorCode::kBusy:
      return "EBUSY\0"sv;
    case ErrorCode::kExists:
      return "EEXIST\0"sv;
    case ErrorCode::kInvalid:
      return "EINVAL\0"sv;
    case ErrorCode::kIo:
      return "EIO\0"sv;
    case ErrorCode::kNoEntry:
      return "ENOENT\0"sv;
    case ErrorCode::kNoMemory:
      return "ENOMEM\0"sv;
    case ErrorCode::kNoSpace:
      return "ENOSPC\0"sv;
    case ErrorCode::kNotPermitted:
      return "EPERM\0"sv;
    case ErrorCode::kNotSupported:
      return "ENOSYS\0"sv;
    case ErrorCode::kTooBig:
      return "E2BIG\0"sv;
  }
  return "EINVAL\0"sv;
}

bool is_path(std::string_view path) {
  if (path.empty() || path.size() > kMaxAbsolutePath || path[0] != '/') return false;
  if (path.size() == 1) return true;
  char previous = 'x';
  for (char c : path) {
    if (!kPathCharacters[static_cast<unsigned char>(c)] || (c == '/' && previous == '/')) return false;
    previous = c;
  }
  return previous != '/';
}

bool is_path_within(std::string_view path, std::size_t limit) {
  if (!is_path(path)) return false;
  return path.size() <= limit || path.size() <= domain_prefix_length(path) + limit;
}

std::string_view parent_path(std::string_view path) {
  std::size_t slash = path.rfind('/');
  return path.substr(0, std::max<std::size_t>(slash, 1));
}

std::string_view last_component(std::string_view path) {
  return path.substr(path.rfind('/') + 1);
}

std::optional<std::string_view> take_argument(std::string_view& rest) {
  std::size_t end = rest.find('\0');
  if (end == std::string_view::npos) return std::nullopt;
  std::string_view argument = rest.substr(0, end);
  rest.remove_prefix(end + 1);
  return argument;
}

std::optional<std::string_view> only_argument(std::string_view payload) {
  if (payload.empty() || payload.find('\0') != payload.size() - 1) return std::nullopt;
  return payload.substr(0, payload.size() - 1);
}

std::size_t count_arguments(std::string_view payload) {
  return static_cast<std::size_t>(std::count(payload.begin(), payload.end(), '\0'));
}

std::int64_t leading_number(std::string_view text) {
  constexpr std::int64_t kCeiling = std::int64_t{1} << 62;
  std::size_t at = text.find_first_not_of(" \t\n\v\f\r");
  if (at == std::string_view::npos) return 0;
  bool negative = text[at] == '-';
  if (text[at] == '-' || text[at] == '+') ++at;
  std::int64_t value = 0;
  for (; at < text.size() && text[at] >= '0' && text[at] <= '9'; ++at) {
    if (value < kCeiling / 10) value = value * 10 + (text[at] - '0');
  }
  return negative ? -value : value;
}

std::optional<Introduction> parse_introduction(std::string_view payload) {
  if (count_arguments(payload) < 3) return std::nullopt;
  const std::int64_t domid = leading_number(*take_argument(payload));
  const std::int64_t mfn = leading_number(*take_argument(payload));
  const std::int64_t port = leading_number(*take_argument(payload));
  if (domid < 0 || domid >= kFirstReservedDomain || port <= 0 || port > UINT32_MAX) return std::nullopt;
  return Introduction{static_cast<std::uint32_t>(domid), static_cast<std::uint64_t>(mfn),
                      static_cast<std::uint32_t>(port)};
}

std::optional<std::uint32_t> exact_domid(std::string_view text) {
  std::uint16_t domid = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), domid);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return domid;
}

}  // namespace bulkhead::xenstore
