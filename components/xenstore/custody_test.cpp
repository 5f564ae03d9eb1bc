// Custody: made once, continued after a crash, refused when it is not ours.
#include "components/xenstore/custody.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "components/xenstore/service_test_support.h"

namespace bulkhead::xenstore::test {
namespace {

using testing::AllOf;
using testing::HasSubstr;

constexpr std::size_t kItems = 7;

std::map<std::string, ino_t> identities(const MemoryCustody& store) {
  std::map<std::string, ino_t> result;
  for (const auto& [name, item] : store.items) {
    struct stat info{};
    EXPECT_EQ(::fstat(item.fd.get(), &info), 0);
    result[name] = info.st_ino;
  }
  return result;
}

// The message with which open() refuses.
std::string refusal(const MemoryCustody& store, ErrorKind kind = ErrorKind::kInvalid) {
  const auto opened = Custody::open(store);
  if (opened) return "(opened)";
  EXPECT_EQ(opened.error().kind(), kind) << opened.error().message();
  return opened.error().message();
}

void replace_by_segment(MemoryCustody& store, const std::string& name, std::size_t bytes) {
  store.items.at(name).fd = create_memfd("replacement", bytes).value();
}

TEST(CustodyTest, HoldsEverythingOnceCreated) {
  MemoryCustody store;
  EXPECT_FALSE(Custody::complete(store));
  ASSERT_TRUE(Custody::create(store, kSmallSettings));
  EXPECT_TRUE(Custody::complete(store));
  EXPECT_EQ(store.items.size(), kItems);
  for (const auto& [name, item] : store.items) {
    EXPECT_EQ(item.kind, name == "doorbell" ? "other" : "segment") << name;
  }
  const Custody custody = Custody::open(store).value();
  EXPECT_EQ(custody.geometry().max_connections, 4U);
  EXPECT_EQ(custody.geometry().in_bytes, 8192U);
  EXPECT_EQ(custody.geometry().out_bytes, 16384U);
  EXPECT_EQ(custody.control().next_serial.load(), 1U);
  EXPECT_EQ(custody.control().committed.load(), custody.control().applied.load());
  EXPECT_EQ(custody.control().published.load(), 0U);
  EXPECT_EQ(custody.journal().tail(), 0U);
  EXPECT_EQ(custody.snapshot(2).size(), kSnapshotData + kSmallSettings.snapshot_bytes);
  for (std::uint32_t i = 0; i < 4; ++i) {
    EXPECT_EQ(custody.connections().at<Slot>(0)[i].state.load(), SlotState::kFree);
  }
}

TEST(CustodyTest, CreateContinuesWhereverItStopped) {
  for (std::size_t deposited = 0; deposited < kItems; ++deposited) {
    MemoryCustody store;
    store.deposits_left = deposited;
    const auto stopped = Custody::create(store, kSmallSettings);
    ASSERT_FALSE(stopped) << deposited;
    EXPECT_THAT(stopped.error().message(),
                AllOf(HasSubstr("cannot deposit "), HasSubstr("the core is gone")));
    EXPECT_FALSE(Custody::complete(store)) << deposited;
    EXPECT_NE(refusal(store, ErrorKind::kNotFound), "(opened)") << deposited;
    const auto before = identities(store);
    ASSERT_EQ(before.size(), deposited);

    store.deposits_left = kItems - deposited;  // what is there is not deposited again
    ASSERT_TRUE(Custody::create(store, kSmallSettings)) << deposited;
    EXPECT_TRUE(Custody::complete(store));
    EXPECT_TRUE(Custody::open(store)) << deposited;
    const auto after = identities(store);
    for (const auto& [name, identity] : before) EXPECT_EQ(after.at(name), identity) << name;
  }
}

// A dying predecessor's deposit reaches the core after its successor has looked and before it deposits.
TEST(CustodyTest, PredecessorsLateDepositCounts) {
  struct LateStore : MemoryCustody {
    Status deposit(const std::string& name, const std::string& kind, UniqueFd fd) override {
      if (name == "connections") {
        UniqueFd late = create_memfd("late", connections_bytes(kSmallSettings.geometry)).value();
        EXPECT_TRUE(MemoryCustody::deposit(name, kind, std::move(late)));
        struct stat info{};
        ::fstat(items.at(name).fd.get(), &info);
        identity = info.st_ino;
        return failure(ErrorKind::kRefused, "there is one of that name");
      }
      return MemoryCustody::deposit(name, kind, std::move(fd));
    }
    ino_t identity = 0;
  } store;
  ASSERT_TRUE(Custody::create(store, kSmallSettings));
  EXPECT_EQ(identities(store).at("connections"), store.identity);
  EXPECT_TRUE(Custody::open(store));
}

TEST(CustodyTest, CreatingAgainChangesNothing) {
  MemoryCustody store = small_custody();
  Custody::open(store)->control().next_serial.store(77);
  const auto before = identities(store);
  ASSERT_TRUE(Custody::create(store, kSmallSettings));
  EXPECT_EQ(identities(store), before);
  EXPECT_EQ(Custody::open(store)->control().next_serial.load(), 77U);
}

TEST(CustodyTest, GeometryInCustodyRulesOverTheSettings) {
  MemoryCustody store;
  store.deposits_left = 1;  // the control segment alone
  ASSERT_FALSE(Custody::create(store, kSmallSettings));
  store.deposits_left = kItems;
  CustodySettings other = kSmallSettings;
  other.geometry = {.max_connections = 2, .in_bytes = 16384, .out_bytes = 1 << 17};
  ASSERT_TRUE(Custody::create(store, other));
  const Custody custody = Custody::open(store).value();
  EXPECT_EQ(custody.geometry().max_connections, 4U);
  EXPECT_EQ(custody.connections().size(), connections_bytes(kSmallSettings.geometry));
}

TEST(CustodyTest, TwoProcessesSeeOneCustody) {
  const MemoryCustody store = small_custody();
  const Custody one = Custody::open(store).value();
  const Custody two = Custody::open(store).value();
  ASSERT_NE(&one.control(), &two.control());
  one.control().committed.store(5);
  one.commit_record(6).next_serial = 60;
  one.commit_record(7).next_serial = 70;
  EXPECT_EQ(two.control().committed.load(), 5U);
  EXPECT_EQ(two.commit_record(6).next_serial, 60U);
  EXPECT_EQ(two.commit_record(9).next_serial, 70U);
  const std::uint64_t rung = 1;
  ASSERT_EQ(::write(one.doorbell().get(), &rung, sizeof rung), ssize_t{sizeof rung});
  std::uint64_t heard = 0;
  EXPECT_EQ(::read(two.doorbell().get(), &heard, sizeof heard), ssize_t{sizeof heard});
  EXPECT_EQ(::read(two.doorbell().get(), &heard, sizeof heard), -1);  // never blocks
}

TEST(CustodyTest, CommitRecordsHaveRoomForEveryConnection) {
  for (const std::uint32_t connections : {1U, 2U, 63U, 64U, 1024U}) {
    CustodySettings settings = kSmallSettings;
    settings.geometry.max_connections = connections;
    const MemoryCustody store = small_custody(settings);
    const Custody custody = Custody::open(store).value();
    const auto address = [](const auto& object) { return reinterpret_cast<std::uintptr_t>(&object); };
    const std::size_t needed = sizeof(CommitRecord) + connections * sizeof(CommitEntry);
    const auto control = address(custody.control());
    EXPECT_GE(address(custody.commit_record(0)), control + sizeof(Control));
    EXPECT_GE(address(custody.commit_record(1)), address(custody.commit_record(0)) + needed);
    EXPECT_LE(address(custody.commit_record(1)) + needed, control + store.map("control").size());
  }
}

TEST(CustodyRefusal, MissingItemsAreNamed) {
  for (const char* name :
       {"control", "connections", "journal", "snapshot-0", "snapshot-1", "snapshot-2", "doorbell"}) {
    MemoryCustody store = small_custody();
    store.items.erase(name);
    EXPECT_FALSE(Custody::complete(store)) << name;
    EXPECT_THAT(refusal(store, ErrorKind::kNotFound), HasSubstr(std::string("custody lacks ") + name));
  }
}

TEST(CustodyRefusal, ForeignControlSegment) {
  const MemoryCustody store = small_custody();
  store.map("control").at<Control>(0)->magic ^= 1;
  EXPECT_THAT(refusal(store), HasSubstr("control segment in custody holds something else"));
}

TEST(CustodyRefusal, OtherLayoutVersion) {
  MemoryCustody store;
  store.deposits_left = 1;
  ASSERT_FALSE(Custody::create(store, kSmallSettings));
  store.map("control").at<Control>(0)->version = 9;
  EXPECT_THAT(refusal(store), HasSubstr("another version (layout 9, this program knows 4)"));
  // Nor is anything made that would be sized by a layout we do not know.
  store.deposits_left = kItems;
  const auto created = Custody::create(store, kSmallSettings);
  ASSERT_FALSE(created);
  EXPECT_THAT(created.error().message(), HasSubstr("layout 9"));
  EXPECT_EQ(store.items.size(), 1U);
}

TEST(CustodyRefusal, ControlSegmentSmallerThanItsGeometryNeeds) {
  MemoryCustody store = small_custody();
  store.map("control").at<Control>(0)->geometry.max_connections = 100'000;
  EXPECT_THAT(refusal(store), HasSubstr("too small for its own geometry"));
  replace_by_segment(store, "control", kCommitRecords - 1);
  EXPECT_THAT(refusal(store), AllOf(HasSubstr("control"), HasSubstr("4095 bytes, needs 4096")));
}

// Each bit of what everything else is found by. (More connections are refused before that: the segment is too
// small.)
TEST(CustodyRefusal, DamagedGeometry) {
  const MemoryCustody store = small_custody();
  const Mapping mapping = store.map("control");
  Control& control = *mapping.at<Control>(0);
  EXPECT_TRUE(Custody::open(store));
  const auto bytes = std::as_writable_bytes(std::span(&control.geometry, 1));
  for (std::size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    EXPECT_THAT(refusal(store), testing::AnyOf(HasSubstr("the control segment's geometry is damaged"),
                                               HasSubstr("too small for its own geometry")))
        << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
  control.geometry.out_bytes *= 2;
  EXPECT_THAT(refusal(store), HasSubstr("the control segment's geometry is damaged"));
}

TEST(CustodyRefusal, SegmentsThatAreTooSmallOrNoSegments) {
  const std::size_t needed = connections_bytes(kSmallSettings.geometry);
  MemoryCustody store = small_custody();
  replace_by_segment(store, "connections", needed - 1);
  EXPECT_THAT(refusal(store), AllOf(HasSubstr("connections"), HasSubstr(std::to_string(needed - 1)),
                                    HasSubstr("needs " + std::to_string(needed))));
  store = small_custody();
  replace_by_segment(store, "snapshot-1", kSnapshotData - 1);
  EXPECT_THAT(refusal(store), AllOf(HasSubstr("snapshot-1"), HasSubstr("needs 4096")));
  store = small_custody();
  replace_by_segment(store, "journal", 1 << 20);
  EXPECT_THAT(refusal(store), HasSubstr("cannot open the journal: the segment holds something else"));
  store = small_custody();
  store.items.at("connections").fd = UniqueFd(::eventfd(0, EFD_CLOEXEC));
  EXPECT_THAT(refusal(store, ErrorKind::kFailed),
              HasSubstr("connections: cannot map: not a sealable segment"));
}

// Whoever could shrink it could kill us with SIGBUS.
TEST(CustodyRefusal, SegmentThatMayShrink) {
  MemoryCustody store = small_custody();
  UniqueFd loose(::memfd_create("loose", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  ASSERT_EQ(::ftruncate(loose.get(), 1 << 20), 0);
  store.items.at("connections").fd = std::move(loose);
  EXPECT_THAT(refusal(store), HasSubstr("connections: cannot map: the segment may shrink"));
}

}  // namespace
}  // namespace bulkhead::xenstore::test
