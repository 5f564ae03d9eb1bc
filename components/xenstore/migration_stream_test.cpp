// The codec of the migration stream: what it keeps, that it is the format of the specification, and that no
// damage gets further than an error.
#include "components/xenstore/migration_stream.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "components/xenstore/migration_test_support.h"

namespace bulkhead::xenstore::migration {
namespace {

using Bytes = std::vector<std::byte>;
using testing::HasSubstr;

Bytes encoded(const Stream& stream) {
  auto bytes = encode(stream);
  EXPECT_TRUE(bytes) << bytes.error().message();
  return bytes ? *bytes : Bytes{};
}

std::string refusal(std::span<const std::byte> bytes) {
  auto stream = decode(bytes);
  if (stream) return "accepted";
  EXPECT_EQ(stream.error().kind(), ErrorKind::kInvalid);
  return stream.error().message();
}

Bytes raw(std::initializer_list<int> values) {
  Bytes bytes;
  for (int value : values) bytes.push_back(static_cast<std::byte>(value));
  return bytes;
}

Bytes& operator+=(Bytes& bytes, const Bytes& more) {
  bytes.insert(bytes.end(), more.begin(), more.end());
  return bytes;
}

// "xenstore", version 1, little-endian.
Bytes header() {
  Bytes bytes = bytes_of("xenstore");
  return bytes += raw({0, 0, 0, 1, 0, 0, 0, 0});
}
const Bytes kEndRecord = raw({0, 0, 0, 0, 0, 0, 0, 0});

// By hand, from the specification: so that writer and reader are not merely of one mind.
TEST(MigrationStream, IsTheSpecifications) {
  Bytes bytes = header();
  bytes += raw({1, 0, 0, 0, 8, 0, 0, 0, /**/ 6, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF});
  // Connection 1: ring of domain 258 for domain 3, port 9; 2 bytes of input, 3 of output, the first of them
  // partial.
  bytes += raw({2, 0, 0, 0, 32, 0, 0, 0, /**/ 1, 0, 0, 0, 0, 0, 0, 0, 2, 1, 3, 0, 9, 0, 0, 0});
  bytes += raw({2, 0, 1, 0, 3, 0, 0, 0, /**/ 'i', 'n', 'o', 'u', 't', 0, 0, 0});
  bytes += raw({3, 0, 0, 0, 16, 0, 0, 0, /**/ 1, 0, 0, 0, 3, 0, 2, 0, '/', 'w', 0, 't', 0, 0, 0, 0});
  // /n = "v", owned by domain 258 (r), stale entry for domain 5 (b).
  bytes += raw({5, 0, 0, 0, 32, 0, 0, 0, /**/ 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 1, 0, 0, 0, 2, 0});
  bytes += raw({'r', 0, 2, 1, 'b', 1, 5, 0, '/', 'n', 0, 'v', 0, 0, 0, 0});
  bytes += kEndRecord;

  Stream stream;
  stream.descriptors = Descriptors{.listener = 6, .event_channels = -1};
  Connection ring = connection_to(1, Ring{.domid = 258, .target = 3, .port = 9});
  ring.input = bytes_of("in");
  ring.output = bytes_of("out");
  ring.partial = 1;
  ring.watches = {{"/w", "t", {}}};
  stream.connections = {ring};
  stream.nodes = {{.path = "/n", .value = bytes_of("v"), .permissions = {{'r', false, 258}, {'b', true, 5}}}};
  EXPECT_EQ(encoded(stream), bytes);
  auto read = decode(bytes);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, stream);
}

TEST(MigrationStream, OfVersion2IsTheSpecifications) {
  Bytes bytes = bytes_of("xenstore");
  bytes += raw({0, 0, 0, 2, 0, 0, 0, 0});
  // One quota of each kind: values first, then names.
  bytes += raw({6, 0, 0, 0, 24, 0, 0, 0, /**/ 1, 0, 1, 0, 5, 0, 0, 0, 7, 0, 0, 0});
  bytes += raw({'n', 'o', 'd', 'e', 's', 0, 'x', 0, 0, 0, 0, 0});
  // A socket, 1 byte of input, and a unique id behind the padding.
  bytes += raw({2, 0, 0, 0, 40, 0, 0, 0, /**/ 8, 0, 0, 0, 1, 0, 1, 0, 12, 0, 0, 0, 0, 0, 0, 0});
  bytes += raw({1, 0, 0, 0, 0, 0, 0, 0, /**/ 'i', 0, 0, 0, 0, 0, 0, 0, 1, 2, 0, 0, 0, 0, 0, 9});
  bytes +=
      raw({8, 0, 0, 0, 24, 0, 0, 0, /**/ 8, 0, 0, 0, 3, 0, 2, 0, 1, 0, 0, 0, '/', 'w', 0, 't', 0, 0, 0, 0});
  bytes += raw({0, 0, 0, 0});
  bytes += raw({7, 0, 0, 0, 16, 0, 0, 0, /**/ 3, 0, 1, 0, 4, 0, 0, 0, 2, 0, 0, 0, 'q', 0, 0, 0});
  bytes += kEndRecord;

  Stream stream;
  stream.version = kVersion2;
  stream.quotas = GlobalQuotas{.of_domains = {{"nodes", 5}}, .of_all = {{"x", 7}}};
  Connection client = connection_to(8, Socket{.descriptor = 12});
  client.input = bytes_of("i");
  client.unique_id = 0x0900000000000201;
  client.watches = {{"/w", "t", 1}};
  stream.connections = {client};
  stream.domains = {{.domid = 3, .features = 4, .quotas = {{"q", 2}}}};
  EXPECT_EQ(encoded(stream), bytes);
  auto read = decode(bytes);
  ASSERT_TRUE(read) << read.error().message();
  EXPECT_EQ(*read, stream);
}

TEST(MigrationStream, KeepsEverything) {
  for (std::uint32_t version : {kVersion1, kVersion2}) {
    const Stream stream = sample(version);
    auto read = decode(encoded(stream));
    ASSERT_TRUE(read) << read.error().message();
    EXPECT_EQ(*read, stream);
  }
}

// ---- random streams ----

class RandomStream {
 public:
  explicit RandomStream(unsigned seed) : random_(seed) {}
  Stream make() {
    Stream stream;
    stream.version = below(2) != 0 ? kVersion1 : kVersion2;
    deep_ = stream.version == kVersion2;
    if (below(2) != 0) stream.descriptors = Descriptors{number<std::int32_t>(), number<std::int32_t>()};
    if (below(2) != 0) stream.quotas = GlobalQuotas{quotas(), quotas()};
    for (std::uint32_t id = 1; id <= below(6); ++id) stream.connections.push_back(connection(id));
    for (std::uint16_t domid = 0; domid < below(4); ++domid) {
      stream.domains.push_back({domid, deep_ ? number<std::uint32_t>() : 0, quotas()});
    }
    for (std::size_t nodes = below(20); nodes > 0; --nodes) stream.nodes.push_back(node(stream));
    return stream;
  }

 private:
  std::size_t below(std::size_t range) { return random_() % range; }
  template <typename Number>
  Number number() {
    return static_cast<Number>(random_());
  }
  std::string text() {
    std::string text(below(40), 'x');
    for (char& c : text) c = static_cast<char>(1 + below(255));
    return text;
  }
  Bytes bytes() {
    Bytes bytes(below(50));
    for (std::byte& byte : bytes) byte = number<std::byte>();
    return bytes;
  }
  std::vector<QuotaValue> quotas() {
    std::vector<QuotaValue> list(below(4));
    for (QuotaValue& quota : list) quota = {text(), number<std::uint32_t>()};
    return list;
  }
  Connection connection(std::uint32_t id) {
    Connection made = connection_to(id, Socket{number<std::int32_t>()});
    if (below(2) != 0) made.end = Ring{number<std::uint16_t>(), {}, number<std::uint32_t>()};
    made.input = bytes();
    made.output = bytes();
    made.partial = static_cast<std::uint16_t>(below(made.output.size() + 1));
    if (below(2) != 0) made.unique_id = std::uint64_t{random_()} << 32U | random_();
    for (std::size_t watches = below(4); watches > 0; --watches) {
      Watch& watch = made.watches.emplace_back(text(), text());
      if (deep_ && below(2) != 0) watch.depth = static_cast<std::uint16_t>(below(0xFFFF));
    }
    for (std::uint32_t t = 1; t < below(4); ++t) made.transactions.push_back(t);
    return made;
  }
  Node node(const Stream& stream) {
    Node made{.path = text(), .value = bytes(), .permissions = std::vector<Permission>(1 + below(4))};
    for (Permission& entry : made.permissions) {
      entry = {"nrwb"[below(4)], below(2) != 0, number<std::uint16_t>()};
    }
    for (const Connection& connection : stream.connections) {
      if (connection.transactions.empty() || below(3) != 0) continue;
      made.connection = connection.id;
      made.transaction = connection.transactions.back();
      made.access = static_cast<std::uint16_t>(below(4));
      if (below(2) != 0) made.permissions.clear();
    }
    return made;
  }

  std::mt19937 random_;
  bool deep_ = false;
};

TEST(MigrationStream, KeepsWhateverIsInIt) {
  for (unsigned seed = 0; seed < 2000; ++seed) {
    const Stream stream = RandomStream(seed).make();
    auto read = decode(encoded(stream));
    ASSERT_TRUE(read) << seed << ": " << read.error().message();
    ASSERT_EQ(*read, stream) << seed;
  }
}

// ---- damage ----

TEST(MigrationStream, EveryTruncationIsRefused) {
  const Bytes bytes = encoded(sample(kVersion2));
  for (std::size_t size = 0; size < bytes.size(); ++size) {
    ASSERT_NE(refusal(std::span(bytes).first(size)), "accepted") << size;
  }
}

// A stream has no checksums: a flipped byte of a value gives another value. Whatever is accepted must be a
// stream like any other.
TEST(MigrationStream, EveryFlippedByteIsRefusedOrGivesAnotherStream) {
  const Stream stream = sample(kVersion2);
  const Bytes bytes = encoded(stream);
  std::size_t refused = 0;
  for (std::size_t at = 0; at < bytes.size(); ++at) {
    for (unsigned flip : {0x01U, 0x80U, 0xFFU}) {
      Bytes flipped = bytes;
      flipped[at] ^= static_cast<std::byte>(flip);
      auto read = decode(flipped);
      ASSERT_FALSE(read && at < 16) << at;
      if (!read) {
        ++refused;
        continue;
      }
      auto again = decode(encoded(*read));
      ASSERT_TRUE(again) << at << ": " << again.error().message();
      ASSERT_EQ(*again, *read) << at;
    }
  }
  EXPECT_GT(refused, bytes.size() / 2);
}

TEST(MigrationStream, AnUnknownRecordIsNamedWithItsPlace) {
  Bytes bytes = header();
  bytes += raw({1, 0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  bytes += raw({0x42, 0, 0, 1, 0, 0, 0, 0});
  bytes += kEndRecord;
  EXPECT_EQ(refusal(bytes), "xenstore stream: byte 32, record type 16777282: unknown type");
}

TEST(MigrationStream, OfAnotherKindIsRefused) {
  Bytes bytes = header();
  bytes += kEndRecord;
  ASSERT_TRUE(decode(bytes));
  Bytes other = bytes;
  other[0] = std::byte{'X'};
  EXPECT_EQ(refusal(other), "xenstore stream: this is no xenstore migration stream");
  other = bytes;
  other[11] = std::byte{3};
  EXPECT_EQ(refusal(other), "xenstore stream: version 3 is not known");
  other[11] = std::byte{0};
  EXPECT_EQ(refusal(other), "xenstore stream: version 0 is not known");
  other = bytes;
  other[15] = std::byte{1};
  EXPECT_THAT(refusal(other), HasSubstr("big-endian"));
  other[15] = std::byte{2};
  EXPECT_THAT(refusal(other), HasSubstr("unknown flags 2"));
  other = bytes;
  other += kEndRecord;
  EXPECT_EQ(refusal(other), "xenstore stream: byte 24: something follows the end record");
}

// Nothing is allocated for a number that the record has no room for.
TEST(MigrationStream, ForgedNumbersAreRefused) {
  Bytes lengths = header();
  lengths += raw({5, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF});
  EXPECT_EQ(refusal(lengths), "xenstore stream: byte 16: truncated");

  Bytes permissions = header();
  permissions += raw({5, 0, 0, 0, 24, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 2, 0, 0, 0, 0, 0, 0xFF, 0xFF});
  permissions += raw({'/', 0, 0, 0, 0, 0, 0, 0});
  EXPECT_THAT(refusal(permissions), HasSubstr("impossible number of permissions"));

  Bytes quotas = header();
  quotas += raw({6, 0, 0, 0, 8, 0, 0, 0, 0xFF, 0xFF, 0xFF, 0xFF, 0, 0, 0, 0});
  EXPECT_THAT(refusal(quotas), HasSubstr("impossible number of quotas"));

  Bytes output = header();
  output += raw({2, 0, 0, 0, 24, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0, 3, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0});
  output += raw({0xFF, 0xFF, 0xFF, 0xFF});
  EXPECT_THAT(refusal(output), HasSubstr("do not fit"));
}

TEST(MigrationStream, RecordsMayOnlyReferToEarlierOnes) {
  Bytes watch = header();
  watch += raw({3, 0, 0, 0, 16, 0, 0, 0, 1, 0, 0, 0, 3, 0, 2, 0, '/', 'w', 0, 't', 0, 0, 0, 0});
  EXPECT_EQ(refusal(watch), "xenstore stream: byte 16, record type 3: of unknown connection 1");
  Bytes transaction = header();
  transaction += raw({4, 0, 0, 0, 8, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0});
  EXPECT_THAT(refusal(transaction), HasSubstr("of unknown connection 1"));
  Stream stream = sample(kVersion1);
  stream.nodes.back().transaction = 2;
  EXPECT_THAT(refusal(encoded(stream)), HasSubstr("of unknown transaction 2"));
  stream = sample(kVersion1);
  stream.connections[1].id = 1;
  EXPECT_THAT(refusal(encoded(stream)), HasSubstr("repeated connection 1"));
  stream = sample(kVersion1);
  stream.connections[3].transactions = {1, 1};
  EXPECT_THAT(refusal(encoded(stream)), HasSubstr("repeated transaction 1"));
  stream = sample(kVersion1);
  stream.domains[1].domid = 3;
  EXPECT_THAT(refusal(encoded(stream)), HasSubstr("a second time"));
}

// The specification does not count padding into a record's length; every xenstored does.
TEST(MigrationStream, PaddingMayBeOutsideOfTheLength) {
  Bytes bytes = header();
  bytes += raw({5, 0, 0, 0, 23, 0, 0, 0, /**/ 0, 0, 0, 0, 0, 0, 0, 0, 3, 0, 0, 0, 0, 0, 1, 0});
  bytes += raw({'r', 0, 2, 0, '/', 'n', 0, /* padding, not zero */ 9});
  bytes += kEndRecord;
  auto read = decode(bytes);
  ASSERT_TRUE(read) << read.error().message();
  ASSERT_EQ(read->nodes.size(), 1U);
  EXPECT_EQ(read->nodes[0].path, "/n");
  bytes[20] = std::byte{32};
  EXPECT_THAT(refusal(bytes), HasSubstr("longer than its fields"));
}

TEST(MigrationStream, WhatTheFormatCannotHoldIsNotWritten) {
  const auto why = [](const Stream& stream) {
    auto bytes = encode(stream);
    return bytes ? "written" : bytes.error().message();
  };
  Stream stream = sample(kVersion2);
  stream.version = kVersion1;
  EXPECT_THAT(why(stream), HasSubstr("this depth"));
  stream.version = 3;
  EXPECT_THAT(why(stream), HasSubstr("unknown version"));
  stream = sample(kVersion1);
  stream.connections[1].input.resize(65536);
  EXPECT_THAT(why(stream), HasSubstr("the input of a connection is too long"));
  stream.connections[1].input.resize(65535);
  EXPECT_EQ(why(stream), "written");
  stream.connections[1].partial = 1000;
  EXPECT_THAT(why(stream), HasSubstr("partial"));
  stream = sample(kVersion1);
  stream.nodes[2].path = std::string("/a\0b", 4);
  EXPECT_THAT(why(stream), HasSubstr("NUL"));
  stream.nodes[2].path.assign(65535, 'x');
  EXPECT_THAT(why(stream), HasSubstr("a text is too long"));
}

}  // namespace
}  // namespace bulkhead::xenstore::migration
