// What a completion says of itself must survive its submitter.
#include "components/xenstore/completion.h"

#include <gtest/gtest.h>

namespace bulkhead::xenstore {
namespace {

TEST(Ticket, ComesBackAsItWas) {
  for (const Operation operation :
       {Operation::kIgnored, Operation::kReceive, Operation::kSend, Operation::kAccept, Operation::kClose,
        Operation::kWake, Operation::kContract}) {
    for (const std::uint8_t incarnation : {std::uint8_t{0}, std::uint8_t{1}, std::uint8_t{255}}) {
      for (const std::uint32_t subject : {0U, 1U, 32'767U, 0xfffffU}) {
        for (const std::uint32_t base : {0U, 1U, 0x80000000U, 0xffffffffU}) {
          const Ticket told = Ticket::decode(Ticket{operation, incarnation, subject, base}.encode());
          EXPECT_EQ(told.operation, operation);
          EXPECT_EQ(told.incarnation, incarnation);
          EXPECT_EQ(told.subject, subject);
          EXPECT_EQ(told.base, base);
        }
      }
    }
  }
}

// docs/formats/xenstore-custody.md: another version of the program must read it the same way.
TEST(Ticket, HasTheDocumentedLayout) {
  EXPECT_EQ((Ticket{Operation::kSend, 0xab, 0x12345, 0x89abcdef}.encode()), 0x2ab12345'89abcdefU);
  EXPECT_EQ((Ticket{Operation::kIgnored, 0, 0, 0}.encode()), 0U);
}

TEST(Ticket, MatchesTheOffsetItWasMadeFor) {
  for (const std::uint64_t offset :
       {std::uint64_t{0}, std::uint64_t{0xffffffff}, std::uint64_t{0x1'00000005}, ~std::uint64_t{0}}) {
    const Ticket told{Operation::kReceive, 1, 7, static_cast<std::uint32_t>(offset)};
    EXPECT_TRUE(told.matches(offset));
    EXPECT_FALSE(told.matches(offset + 1));
    EXPECT_FALSE(told.matches(offset + 16384));  // as far as one operation can have moved it
    EXPECT_FALSE(told.matches(offset - 1));
  }
}

}  // namespace
}  // namespace bulkhead::xenstore
