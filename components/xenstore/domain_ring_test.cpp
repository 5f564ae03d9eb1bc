#include "components/xenstore/domain_ring.h"

#include <gtest/gtest.h>

extern "C" {
#include <xen/io/xs_wire.h>
}

#include <array>
#include <string>
#include <string_view>

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {
namespace {

// A page as a domain sees it: through the upstream header.
struct Page {
  alignas(4096) std::array<std::byte, 4096> bytes{};
  ::xenstore_domain_interface& domain() {
    return *reinterpret_cast<::xenstore_domain_interface*>(bytes.data());
  }
  DomainRing ring() { return DomainRing(bytes.data()); }

  void write(std::string_view text) {
    for (const char c : text) domain().req[MASK_XENSTORE_IDX(domain().req_prod++)] = c;
  }
  std::string read() {
    std::string text;
    while (domain().rsp_cons != domain().rsp_prod) {
      text += domain().rsp[MASK_XENSTORE_IDX(domain().rsp_cons++)];
    }
    return text;
  }
};

std::string take(const DomainRing& ring, std::uint32_t at, std::size_t most = 4096) {
  std::string text(most, '\0');
  const auto taken = ring.take(at, std::as_writable_bytes(std::span(text)));
  if (!taken) return "impossible";
  text.resize(*taken);
  return text;
}

TEST(DomainRing, BytesCrossItsEndAndTheIndexesTheirs) {
  Page page;
  const DomainRing ring = page.ring();
  for (const std::uint32_t base : {0U, 1020U, 0xFFFFFFFAU}) {
    page.domain().req_prod = page.domain().rsp_cons = base;
    ring.consumed(base);
    ring.produced(base);
    page.write("0123456789");
    EXPECT_EQ(take(ring, base, 4), "0123");
    EXPECT_EQ(take(ring, base + 4), "456789");
    EXPECT_EQ(take(ring, base + 10), "");
    ASSERT_EQ(ring.put(base, as_bytes(std::string_view("abcdefghij"))), 10U);
    EXPECT_EQ(page.read(), "") << "nothing is there before it is announced";
    ring.produced(base + 10);
    EXPECT_EQ(page.read(), "abcdefghij");
  }
}

TEST(DomainRing, TakesAndGivesNoMoreThanThereIs) {
  Page page;
  const DomainRing ring = page.ring();
  const std::string full(DomainRing::kBytes, 'x');
  page.write(full);
  EXPECT_EQ(take(ring, 0), full);
  const std::string more(DomainRing::kBytes + 1, 'y');
  EXPECT_EQ(ring.put(0, as_bytes(more)), DomainRing::kBytes);
  ring.produced(DomainRing::kBytes);
  EXPECT_EQ(ring.put(DomainRing::kBytes, as_bytes(more)), 0U);
  EXPECT_EQ(page.read(), more.substr(1));
  EXPECT_EQ(ring.put(DomainRing::kBytes, as_bytes(std::string_view("z"))), 1U);
}

TEST(DomainRing, ImpossibleIndexesAreSeen) {
  Page page;
  const DomainRing ring = page.ring();
  page.domain().req_prod = DomainRing::kBytes + 1;
  EXPECT_EQ(take(ring, 0), "impossible");
  page.domain().req_prod = 9;  // behind what was taken
  EXPECT_EQ(take(ring, 10), "impossible");
  page.domain().rsp_cons = 11;  // ahead of what was given
  EXPECT_FALSE(ring.put(10, as_bytes(std::string_view("z"))));
  page.domain().rsp_cons = static_cast<std::uint32_t>(10 - DomainRing::kBytes - 1);
  EXPECT_FALSE(ring.put(10, as_bytes(std::string_view("z"))));
}

TEST(DomainRing, OurOwnIndexesAreNotReadBack) {
  Page page;
  const DomainRing ring = page.ring();
  page.write("abc");
  page.domain().req_cons = 77;
  page.domain().rsp_prod = 99;
  EXPECT_EQ(take(ring, 0), "abc");
  EXPECT_EQ(ring.put(0, as_bytes(std::string_view("z"))), 1U);
}

TEST(DomainRing, ConnectionStateErrorAndFeaturesAreWhereTheDomainLooks) {
  Page page;
  const DomainRing ring = page.ring();
  page.domain().connection = XENSTORE_RECONNECT;
  EXPECT_TRUE(ring.wants_reconnection());
  page.write("abc");
  ring.produced(5);
  ring.clear();
  ring.announce(5);
  ring.set_fault(DomainRing::Fault::kIndexes);
  ring.set_connected();
  EXPECT_FALSE(ring.wants_reconnection());
  EXPECT_EQ(page.domain().req_prod + page.domain().req_cons + page.domain().rsp_prod + page.domain().rsp_cons,
            0U);
  EXPECT_EQ(page.domain().server_features, 5U);
  EXPECT_EQ(page.domain().error, 2U);  // XENSTORE_ERROR_RINGIDX, xenstore-ring.txt
  EXPECT_EQ(page.domain().connection, static_cast<std::uint32_t>(XENSTORE_CONNECTED));
}

}  // namespace
}  // namespace bulkhead::xenstore
