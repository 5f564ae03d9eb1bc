// The checksum: the same whichever way it is computed.
#include "runtime/crc32c.h"

#include <gtest/gtest.h>

#include <cstring>
#include <random>
#include <string_view>
#include <vector>

namespace bulkhead {
namespace {

// Bit by bit, from the polynomial.
std::uint32_t reference(std::span<const std::byte> bytes) {
  std::uint32_t crc = ~std::uint32_t{0};
  for (const std::byte byte : bytes) {
    crc ^= std::to_integer<std::uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = crc >> 1 ^ ((crc & 1) != 0 ? 0x82F63B78U : 0U);
  }
  return ~crc;
}

TEST(Crc32cTest, KnownValue) {
  const std::string_view digits = "123456789";
  EXPECT_EQ(crc32c(std::as_bytes(std::span(digits.data(), digits.size()))), 0xE3069283U);
  EXPECT_EQ(crc32c({}), 0U);
}

TEST(Crc32cTest, EveryLengthAtEveryAlignment) {
  std::mt19937 random(1);
  std::vector<std::byte> bytes(700);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  for (std::size_t length = 0; length < 600; ++length) {
    const auto part = std::span<const std::byte>(bytes).subspan(length % 9, length);
    ASSERT_EQ(crc32c(part), reference(part)) << length;
  }
}

TEST(Crc32cTest, PartsGiveTheWhole) {
  std::mt19937 random(2);
  std::vector<std::byte> bytes(3000);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  const std::span<const std::byte> all(bytes);
  for (int round = 0; round < 300; ++round) {
    const std::size_t at = random() % (bytes.size() + 1);
    ASSERT_EQ(crc32c(all.subspan(at), crc32c(all.first(at))), crc32c(all)) << at;
  }
}

}  // namespace
}  // namespace bulkhead
