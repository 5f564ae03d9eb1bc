// Facts of the xenstore wire protocol: sizes, message types, error names, the syntax of paths and arguments.
// Sources: xen/io/xs_wire.h, Xen's docs/misc/xenstore.txt, the observable behaviour of the C xenstored 4.17.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>

namespace bulkhead::xenstore {

inline constexpr std::size_t kHeaderSize = 16;
inline constexpr std::size_t kMaxPayload = 4096;
inline constexpr std::size_t kMaxAbsolutePath = 3072;
inline constexpr std::size_t kMaxRelativePath = 2048;

// Domain ids from here on are reserved by Xen (DOMID_FIRST_RESERVED, which is DOMID_SELF's value as well).
inline constexpr std::uint32_t kFirstReservedDomain = 0x7FF0;

enum MessageType : std::uint32_t {
  kControl = 0,
  kDirectory = 1,
  kRead = 2,
  kGetPerms = 3,
  kWatch = 4,
  kUnwatch = 5,
  kTransactionStart = 6,
  kTransactionEnd = 7,
  kIntroduce = 8,
  kRelease = 9,
  kGetDomainPath = 10,
  kWrite = 11,
  kMkdir = 12,
  kRm = 13,
  kSetPerms = 14,
  kWatchEvent = 15,
  kError = 16,
  kIsDomainIntroduced = 17,
  kResume = 18,
  kSetTarget = 19,
  kResetWatches = 21,
  kDirectoryPart = 22,
  kGetFeature = 23,
  kSetFeature = 24,
  kGetQuota = 25,
  kSetQuota = 26,
  kTypeCount = 27,
};

// What executing a request may do to what the service holds. Reads within a transaction count as kShrinks:
// they are remembered to find conflicts, but no longer than the transaction lives.
enum class Effect : std::uint8_t { kNone, kShrinks, kGrows };
Effect effect_of(std::uint32_t type, std::uint32_t transaction);

// Asks for a change of a node, in the tree or in its transaction's.
bool changes_node(std::uint32_t type);

// The errors this engine reports, a subset of xsd_errors.
enum class ErrorCode : std::uint8_t {
  kNone,
  kAccess,
  kAgain,
  kBusy,
  kExists,
  kInvalid,
  kIo,
  kNoEntry,
  kNoMemory,
  kNoSpace,
  kNotPermitted,
  kNotSupported,
  kTooBig,
};

// The name as sent on the wire, its trailing NUL included: "EINVAL\0". Not for kNone.
std::string_view error_name(ErrorCode code);

inline std::string_view as_text(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}
inline std::span<const std::byte> as_bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}

// Absolute, permitted characters only, no empty component, no trailing slash except in "/", at most
// kMaxAbsolutePath.
bool is_path(std::string_view path);
// As is_path, and no longer than `limit` bytes, not counting a prefix /local/domain/<domid>/.
bool is_path_within(std::string_view path, std::size_t limit);
// The path of `path`'s parent. `path` is valid and not "/".
std::string_view parent_path(std::string_view path);
std::string_view last_component(std::string_view path);

// Walks the components of a valid absolute path: "/a/b" gives "a", "b"; "/" gives none.
class Components {
 public:
  explicit Components(std::string_view path) : path_(path), at_(path.size() == 1 ? 2 : 1) {}
  bool done() const { return at_ > path_.size(); }
  std::string_view next() {
    std::size_t end = path_.find('/', at_);
    if (end == std::string_view::npos) end = path_.size();
    std::string_view component = path_.substr(at_, end - at_);
    at_ = end + 1;
    return component;
  }
  // Length of the path up to and including the component last returned.
  std::size_t consumed() const { return at_ - 1; }

 private:
  std::string_view path_;
  std::size_t at_;
};

// Takes the next NUL-terminated argument off `rest`; nothing if no NUL is left.
std::optional<std::string_view> take_argument(std::string_view& rest);
// The payload's only argument: exactly one NUL, at its end.
std::optional<std::string_view> only_argument(std::string_view payload);
std::size_t count_arguments(std::string_view payload);

// A leading decimal number as atoi() reads it (blanks, sign, digits, anything after ignored; 0 if there is
// none), saturating instead of overflowing.
std::int64_t leading_number(std::string_view text);

// What INTRODUCE asks for; nothing if its arguments are none. Like the C xenstored it takes leading numbers.
struct Introduction {
  std::uint32_t domid;
  std::uint64_t mfn;   // of the ring's page; every domain grants it, too
  std::uint32_t port;  // the domain's end of its event channel
};
std::optional<Introduction> parse_introduction(std::string_view payload);

// Digits and nothing else, at most what a domid's type can hold.
std::optional<std::uint32_t> exact_domid(std::string_view text);

}  // namespace bulkhead::xenstore
