#include "components/xenstore/protocol.h"

#include <gtest/gtest.h>

#include <cerrno>

extern "C" {
#include <xen/io/xs_wire.h>
}

#include "components/xenstore/engine.h"
#include "components/xenstore/permissions.h"

namespace bulkhead::xenstore {
namespace {

using std::string_literals::operator""s;

// Our own definitions are Xen's.
static_assert(sizeof(Header) == sizeof(xsd_sockmsg) && sizeof(Header) == kHeaderSize);
static_assert(offsetof(Header, type) == offsetof(xsd_sockmsg, type));
static_assert(offsetof(Header, request_id) == offsetof(xsd_sockmsg, req_id));
static_assert(offsetof(Header, transaction_id) == offsetof(xsd_sockmsg, tx_id));
static_assert(offsetof(Header, length) == offsetof(xsd_sockmsg, len));
static_assert(kMaxPayload == XENSTORE_PAYLOAD_MAX);
static_assert(kMaxAbsolutePath == XENSTORE_ABS_PATH_MAX && kMaxRelativePath == XENSTORE_REL_PATH_MAX);
static_assert(+kControl == XS_CONTROL && +kDirectory == XS_DIRECTORY && +kRead == XS_READ);
static_assert(+kGetPerms == XS_GET_PERMS && +kWatch == XS_WATCH && +kUnwatch == XS_UNWATCH);
static_assert(+kTransactionStart == XS_TRANSACTION_START && +kTransactionEnd == XS_TRANSACTION_END);
static_assert(+kIntroduce == XS_INTRODUCE && +kRelease == XS_RELEASE &&
              +kGetDomainPath == XS_GET_DOMAIN_PATH);
static_assert(+kWrite == XS_WRITE && +kMkdir == XS_MKDIR && +kRm == XS_RM && +kSetPerms == XS_SET_PERMS);
static_assert(+kWatchEvent == XS_WATCH_EVENT && +kError == XS_ERROR && +kResume == XS_RESUME);
static_assert(+kIsDomainIntroduced == XS_IS_DOMAIN_INTRODUCED && +kSetTarget == XS_SET_TARGET);
static_assert(+kResetWatches == XS_RESET_WATCHES && +kDirectoryPart == XS_DIRECTORY_PART);
static_assert(+kTypeCount >= XS_TYPE_COUNT);  // features and quotas (23 to 26) came with Xen 4.21

TEST(Protocol, ErrorNamesAreAmongXensAndEndInNul) {
  for (int code = 1; code <= static_cast<int>(ErrorCode::kTooBig); ++code) {
    std::string_view name = error_name(static_cast<ErrorCode>(code));
    ASSERT_EQ(name.back(), '\0');
    bool known = false;
    for (const auto& error : xsd_errors) known = known || name == std::string(error.errstring) + '\0';
    EXPECT_TRUE(known) << name;
  }
}

TEST(Protocol, Paths) {
  for (const char* good : {"/", "/a", "/a/b", "/A-z_09@", "/local/domain/0/device", "/a/@b"}) {
    EXPECT_TRUE(is_path(good)) << good;
  }
  for (const char* bad :
       {"", "a", "//", "/a/", "/a//b", "/a b", "/a.b", "/\xe4", "@introduceDomain", "/a:b"}) {
    EXPECT_FALSE(is_path(bad)) << bad;
  }
  EXPECT_FALSE(is_path("/a\0b"s));
  EXPECT_TRUE(is_path("/" + std::string(3071, 'a')));
  EXPECT_FALSE(is_path("/" + std::string(3072, 'a')));
}

TEST(Protocol, PathLimitDoesNotCountADomainsHome) {
  std::string long_name(2047, 'a');
  EXPECT_TRUE(is_path_within("/" + long_name, 2048));
  EXPECT_FALSE(is_path_within("/" + long_name + "a", 2048));
  EXPECT_TRUE(is_path_within("/local/domain/12345/" + long_name + "a", 2048));
  EXPECT_FALSE(is_path_within("/local/domain/12345/" + long_name + "aa", 2048));
  EXPECT_FALSE(is_path_within("/local/domain/123456/" + long_name, 2048));
  EXPECT_FALSE(is_path_within("/local/domain/" + long_name, 2048));
}

TEST(Protocol, EffectOfRequests) {
  EXPECT_EQ(effect_of(kRead, 0), Effect::kNone);
  EXPECT_EQ(effect_of(kRead, 7), Effect::kShrinks);  // remembered until the transaction ends
  EXPECT_EQ(effect_of(kIsDomainIntroduced, 7), Effect::kNone);
  EXPECT_EQ(effect_of(kRm, 0), Effect::kShrinks);
  EXPECT_EQ(effect_of(kTransactionEnd, 7), Effect::kShrinks);
  for (const std::uint32_t type : {kWrite, kMkdir, kWatch, kTransactionStart, kIntroduce, kSetPerms}) {
    EXPECT_EQ(effect_of(type, 0), Effect::kGrows) << type;
  }
}

TEST(Protocol, PathParts) {
  EXPECT_EQ(parent_path("/a"), "/");
  EXPECT_EQ(parent_path("/a/b"), "/a");
  EXPECT_EQ(last_component("/a/bc"), "bc");
  Components components("/a/bc");
  EXPECT_EQ(components.next(), "a");
  EXPECT_EQ(components.consumed(), 2U);
  EXPECT_EQ(components.next(), "bc");
  EXPECT_EQ(components.consumed(), 5U);
  EXPECT_TRUE(components.done());
  EXPECT_TRUE(Components("/").done());
}

TEST(Protocol, Arguments) {
  EXPECT_EQ(only_argument("abc\0"s), "abc");
  EXPECT_EQ(only_argument("\0"s), "");
  EXPECT_FALSE(only_argument(""));
  EXPECT_FALSE(only_argument("abc"));
  EXPECT_FALSE(only_argument("a\0b\0"s));
  std::string text = "a\0\0tail"s;
  std::string_view rest = text;
  EXPECT_EQ(take_argument(rest), "a");
  EXPECT_EQ(take_argument(rest), "");
  EXPECT_FALSE(take_argument(rest));
  EXPECT_EQ(rest, "tail");
  EXPECT_EQ(count_arguments(text), 2U);
}

TEST(Protocol, NumbersAsAtoiReadsThem) {
  EXPECT_EQ(leading_number("12"), 12);
  EXPECT_EQ(leading_number(" -7x"), -7);
  EXPECT_EQ(leading_number("+3 4"), 3);
  EXPECT_EQ(leading_number("x"), 0);
  EXPECT_EQ(leading_number(""), 0);
  EXPECT_GT(leading_number("99999999999999999999999999"), 1'000'000'000'000);
}

std::string round_trip(const std::string& text) {
  auto parsed = core::parse_permissions(text, count_arguments(text));
  if (!parsed) return std::string(error_name(parsed.error()).substr(0, 6));
  std::string out;
  core::append_permissions(**parsed, out);
  return out;
}

TEST(Permissions, ParseAndFormat) {
  EXPECT_EQ(round_trip("n0\0r5\0w12\0b7\0"s), "n0\0r5\0w12\0b7\0"s);
  EXPECT_EQ(round_trip("n0x10\0"s), "n16\0"s);
  EXPECT_EQ(round_trip("n010\0"s), "n8\0"s);
  EXPECT_EQ(round_trip("n0\0r-1\0"s), "n0\0r-1\0"s);
  for (const std::string& bad : {"x0\0"s, "n\0"s, "\0"s, "n5x\0"s, "n0\0r\0"s, "n 5\0"s, "5\0"s}) {
    EXPECT_EQ(round_trip(bad), "EINVAL") << bad;
  }
  EXPECT_EQ(round_trip("n40000\0"s), "ENOENT");
  EXPECT_FALSE(core::parse_permissions("n0"s, 1));
  EXPECT_FALSE(core::parse_permissions("", 0));
}

TEST(Permissions, EntriesThatCanBeNoDomainAreIgnored) {
  auto parsed = core::parse_permissions("n0\0r32752\0r32751\0"s, 3);
  ASSERT_TRUE(parsed);
  EXPECT_EQ((*parsed)->data()[1].ignored, 1);
  EXPECT_EQ((*parsed)->data()[2].ignored, 0);
}

}  // namespace
}  // namespace bulkhead::xenstore
