#include "supervisor/custody.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>

#include "runtime/memfd.h"
#include "supervisor/notify_receiver_test.h"

namespace bulkhead::supervisor {
namespace {

using Deposited = Custody::Deposited;

UniqueFd segment(std::size_t bytes = 4096) {
  return std::move(*create_memfd("test", bytes));
}
UniqueFd copy_of(const UniqueFd& fd) {
  return UniqueFd(::fcntl(fd.get(), F_DUPFD_CLOEXEC, 0));
}

class CustodyTest : public ::testing::Test {
 protected:
  Result<Deposited> deposit(const std::string& name, const std::string& kind, UniqueFd fd) {
    return custody_.deposit(name, kind, std::move(fd), 7, 1234);
  }
  ErrorKind refusal(const std::string& name, const std::string& kind, UniqueFd fd) {
    auto result = deposit(name, kind, std::move(fd));
    return result ? ErrorKind::kFailed : result.error().kind();
  }

  NotifyReceiver receiver_;
  FdStore store_ = receiver_.connect();
  CustodyTotal total_{.max_items = 4};
  Custody custody_{"thing", {3, 10'000}, store_, total_};
};

TEST_F(CustodyTest, KeepsAndParksUnderANameThatSaysEverything) {
  ASSERT_EQ(*deposit("log.seg", "segment", segment(5000)), Deposited::kNew);
  const HeldItem* held = custody_.find("log.seg");
  ASSERT_NE(held, nullptr);
  EXPECT_EQ(held->kind, "segment");
  EXPECT_EQ(held->bytes, 5000U);
  EXPECT_EQ(held->depositor, 7U);
  EXPECT_EQ(custody_.bytes(), 5000U);
  auto parked = receiver_.next();
  ASSERT_TRUE(parked);
  EXPECT_EQ(parked->text, "FDSTORE=1\nFDPOLL=0\nFDNAME=c/thing/segment/1234/7/log.seg");

  CustodyTotal total_of_successor{.max_items = 4};
  Custody successor("thing", {3, 10'000}, store_, total_of_successor);
  ASSERT_TRUE(successor.adopt({"c/thing/segment/1234/7/log.seg", std::move(parked->fds.at(0))}));
  const HeldItem* adopted = successor.find("log.seg");
  ASSERT_NE(adopted, nullptr);
  EXPECT_EQ(adopted->bytes, 5000U);
  EXPECT_EQ(adopted->depositor, 7U);
  EXPECT_EQ(adopted->deposited_unix_us, 1234);
  EXPECT_EQ(total_of_successor.items, 1U);
  EXPECT_EQ(total_of_successor.name_bytes, total_.name_bytes);
}

TEST_F(CustodyTest, RepeatedDepositIsAlreadyHeld) {
  const UniqueFd fd = segment();
  ASSERT_EQ(*deposit("a", "segment", copy_of(fd)), Deposited::kNew);
  EXPECT_EQ(*deposit("a", "segment", copy_of(fd)), Deposited::kAlreadyHeld);
  EXPECT_EQ(refusal("a", "segment", segment()), ErrorKind::kRefused);
  EXPECT_EQ(refusal("a", "other", copy_of(fd)), ErrorKind::kRefused);
  EXPECT_EQ(custody_.items().size(), 1U);
}

// All eventfds share one inode: only the open file itself tells them apart.
TEST_F(CustodyTest, TwoEventfdsAreNotTheSame) {
  const UniqueFd first(::eventfd(0, EFD_CLOEXEC));
  ASSERT_EQ(*deposit("bell", "other", copy_of(first)), Deposited::kNew);
  EXPECT_EQ(*deposit("bell", "other", copy_of(first)), Deposited::kAlreadyHeld);
  EXPECT_EQ(refusal("bell", "other", UniqueFd(::eventfd(0, EFD_CLOEXEC))), ErrorKind::kRefused);
}

TEST_F(CustodyTest, BoundsNumberAndBytes) {
  ASSERT_TRUE(deposit("a", "segment", segment(6000)));
  EXPECT_EQ(refusal("b", "segment", segment(6000)), ErrorKind::kExhausted);
  ASSERT_TRUE(deposit("b", "segment", segment(4000)));
  ASSERT_TRUE(deposit("c", "other", UniqueFd(::eventfd(0, EFD_CLOEXEC))));
  EXPECT_EQ(refusal("d", "other", UniqueFd(::eventfd(0, EFD_CLOEXEC))), ErrorKind::kExhausted);
  ASSERT_TRUE(custody_.withdraw("a"));
  EXPECT_EQ(custody_.bytes(), 4000U);
  EXPECT_TRUE(deposit("d", "segment", segment(6000)));
}

TEST_F(CustodyTest, BoundsAllComponentsTogether) {
  Custody other("other", {100, 10'000'000}, store_, total_);
  for (const char* name : {"a", "b", "c"}) ASSERT_TRUE(deposit(name, "segment", segment(4)));
  ASSERT_TRUE(other.deposit("a", "segment", segment(), 9, 1));
  const auto refused = other.deposit("b", "segment", segment(), 9, 1);
  ASSERT_FALSE(refused);
  EXPECT_EQ(refused.error().kind(), ErrorKind::kExhausted);
  EXPECT_TRUE(refused.error().message().contains("all components")) << refused.error().message();
  EXPECT_TRUE(other.deposit("lease", "segment", segment(), 0, 1));  // the core's own
  ASSERT_TRUE(other.withdraw("lease"));
  ASSERT_TRUE(custody_.withdraw("a"));
  EXPECT_TRUE(other.deposit("b", "segment", segment(), 9, 1));
}

// Handed over in one environment variable, which the kernel limits.
TEST_F(CustodyTest, NamesOfEverythingFitIntoOneEnvironmentVariable) {
  total_.max_items = 100'000;
  Custody other("other", {100'000, 1 << 30}, store_, total_);
  std::size_t held = 0;
  const auto add = [&] {
    const std::string name = std::string(58, 'x') + std::to_string(100'000 + held);
    return other.deposit(name, "other", UniqueFd(::eventfd(0, EFD_CLOEXEC)), 9, 1'700'000'000'000'000);
  };
  for (; held < 10'000 && add(); ++held) (void)receiver_.next();  // its queue is short
  EXPECT_GT(held, 900U);
  EXPECT_LT(held, 1200U);
  EXPECT_LE(total_.name_bytes, CustodyTotal::kMaxNameBytes);
  EXPECT_TRUE(add().error().message().contains("names")) << add().error().message();
}

TEST_F(CustodyTest, RefusesWhatIsNotWhatItSays) {
  EXPECT_EQ(refusal("a", "socket", segment()), ErrorKind::kInvalid);
  EXPECT_EQ(refusal("a", "segment", UniqueFd(::eventfd(0, EFD_CLOEXEC))), ErrorKind::kInvalid);
  const int growing = ::memfd_create("unsealed", MFD_CLOEXEC | MFD_ALLOW_SEALING);
  EXPECT_EQ(refusal("a", "segment", UniqueFd(growing)), ErrorKind::kInvalid);
  EXPECT_EQ(refusal("a", "ring", segment()), ErrorKind::kInvalid);
  EXPECT_EQ(refusal("a", "segment", UniqueFd()), ErrorKind::kInvalid);
  for (const char* name : {"", "A", "a/b", "a b", "a:b"}) {
    EXPECT_EQ(refusal(name, "segment", segment()), ErrorKind::kInvalid) << name;
  }
  EXPECT_EQ(refusal(std::string(65, 'a'), "segment", segment()), ErrorKind::kInvalid);
  EXPECT_TRUE(custody_.items().empty());
}

TEST_F(CustodyTest, WithdrawRemovesFromTheStore) {
  ASSERT_TRUE(deposit("a", "segment", segment()));
  (void)receiver_.next();
  ASSERT_TRUE(custody_.withdraw("a"));
  EXPECT_EQ(receiver_.next()->text, "FDSTOREREMOVE=1\nFDNAME=c/thing/segment/1234/7/a");
  EXPECT_EQ(custody_.withdraw("a").error().kind(), ErrorKind::kNotFound);
}

TEST_F(CustodyTest, AdoptRefusesForeignAndMalformedNames) {
  for (const char* name : {"c/other/segment/1/1/a", "c/thing/segment/x/1/a", "c/thing/segment/1/1",
                           "i/thing/1/wake", "c/thing/segment/1/1/A", "c/thing/nonsense/1/1/a"}) {
    EXPECT_FALSE(custody_.adopt({name, segment()})) << name;
  }
  ASSERT_TRUE(custody_.adopt({"c/thing/segment/1/1/a", segment()}));
  EXPECT_FALSE(custody_.adopt({"c/thing/segment/2/1/a", segment()}));
}

}  // namespace
}  // namespace bulkhead::supervisor
