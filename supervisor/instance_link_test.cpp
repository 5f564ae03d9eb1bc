#include "supervisor/instance_link.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>

#include <optional>

#include "runtime/clock.h"
#include "runtime/seqpacket.h"

namespace bulkhead::supervisor {
namespace {

class InstanceLinkTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto link = InstanceLink::create("i/thing/1", store_, custody_);
    ASSERT_TRUE(link);
    link_ = std::move(*link);
    far_ = UniqueFd(::dup(link_->instance_end().get()));
    link_->close_instance_end();
    ASSERT_TRUE(link_->start(loop_, memory_, 1,
                             {.message =
                                  [this](const contract::FromInstance& message, std::vector<UniqueFd> fds) {
                                    got_.push_back(message);
                                    got_fds_ += fds.size();
                                    if (on_message_) on_message_();
                                  },
                              .lost = [this](const std::string& why) { lost_ = why; },
                              .persist = [this] { ++persisted_; }}));
  }

  // As the instance.
  void say_ready() {
    contract::FromInstance message;
    message.mutable_ready();
    ASSERT_TRUE(send_packet(far_.borrow(), message));
  }
  std::optional<contract::ToInstance> hear(std::size_t fds = 0) {
    auto packet = receive_packet(far_.borrow());
    if (!packet || !*packet) return std::nullopt;
    EXPECT_EQ((*packet)->fds.size(), fds);
    contract::ToInstance message;
    message.ParseFromString((*packet)->bytes);
    return message;
  }
  void turn() { ASSERT_TRUE(loop_.turn(0)); }

  FdStore store_ = FdStore::from_environment();
  CustodyTotal total_{.max_items = 100};
  Custody custody_{"thing", {100, 1 << 20}, store_, total_};
  EventLoop loop_ = std::move(*EventLoop::create());
  ManifestMemory memory_ = std::move(*ManifestMemory::create());
  std::unique_ptr<InstanceLink> link_;
  UniqueFd far_;
  std::vector<contract::FromInstance> got_;
  std::size_t got_fds_ = 0;
  std::function<void()> on_message_;
  std::string lost_;
  int persisted_ = 0;
};

TEST_F(InstanceLinkTest, WelcomeCarriesVitalsAndBell) {
  contract::Welcome welcome;
  welcome.set_component("thing");
  link_->send_welcome(welcome);
  const auto heard = hear(2);
  ASSERT_TRUE(heard);
  EXPECT_EQ(heard->welcome().component(), "thing");
}

TEST_F(InstanceLinkTest, ItemsCarryTheirDescriptorUnlessWithdrawn) {
  ASSERT_TRUE(custody_.deposit("bell", "other", UniqueFd(::eventfd(0, EFD_CLOEXEC)), 1, 1));
  link_->send_item("bell", "other");
  EXPECT_EQ(hear(1)->deposited().name(), "bell");
  link_->send_item("nothing", "other");
  EXPECT_FALSE(hear());
}

TEST_F(InstanceLinkTest, MessagesAreReceivedOnceEach) {
  say_ready();
  say_ready();
  turn();
  EXPECT_EQ(got_.size(), 2U);
  turn();
  EXPECT_EQ(got_.size(), 2U);
}

TEST_F(InstanceLinkTest, HandlerMayEndTheLink) {
  on_message_ = [this] { link_.reset(); };
  say_ready();
  say_ready();
  turn();
  EXPECT_EQ(got_.size(), 1U);
}

TEST_F(InstanceLinkTest, MessageThatKillsEveryCoreIsDropped) {
  for (int i = 0; i < 3; ++i) {
    memory_.begin_message(1);
    memory_.count_death();
  }
  say_ready();
  say_ready();
  turn();
  EXPECT_EQ(got_.size(), 1U);  // the first was the deadly one
}

TEST_F(InstanceLinkTest, GarbageAndOversizedPacketsAreSkipped) {
  const std::string garbage = "\xff\xff\xff garbage";
  ASSERT_GT(::send(far_.get(), garbage.data(), garbage.size(), 0), 0);
  say_ready();
  turn();
  EXPECT_EQ(got_.size(), 1U);
  EXPECT_TRUE(lost_.empty());
}

// Else what it said would be known to nobody, should the core die before its turn ends.
TEST_F(InstanceLinkTest, TheManifestIsWrittenBeforeAMessageIsRemoved) {
  say_ready();
  say_ready();
  on_message_ = [this] { EXPECT_EQ(persisted_, static_cast<int>(got_.size()) - 1); };
  turn();
  EXPECT_EQ(got_.size(), 2U);
  EXPECT_EQ(persisted_, 2);
}

TEST_F(InstanceLinkTest, WhatIsNotReadWaitsInOrder) {
  constexpr int kMany = 3000;
  for (int i = 0; i < kMany; ++i) {
    contract::ToInstance message;
    message.mutable_fault_end()->set_id(static_cast<std::uint64_t>(i));
    link_->send(std::move(message));
  }
  EXPECT_FALSE(link_->flushed());
  EXPECT_EQ(persisted_, 1);
  int heard = 0;
  while (heard < kMany) {
    const auto message = hear();
    if (!message) {
      turn();
      continue;
    }
    ASSERT_EQ(message->fault_end().id(), static_cast<std::uint64_t>(heard));
    ++heard;
  }
  EXPECT_TRUE(link_->flushed());
}

TEST_F(InstanceLinkTest, ClosedContractIsLost) {
  far_.reset();
  turn();
  EXPECT_FALSE(lost_.empty());
}

TEST_F(InstanceLinkTest, PingRings) {
  link_->ping(5, 42);
  EXPECT_EQ(link_->vitals().ping.load(), 5U);
  EXPECT_EQ(link_->vitals().ping_ns.load(), 42);
  contract::Welcome welcome;
  link_->send_welcome(welcome);
  auto packet = receive_packet(far_.borrow());
  pollfd bell{(*packet)->fds[1].get(), POLLIN, 0};
  EXPECT_EQ(::poll(&bell, 1, 0), 1);
}

}  // namespace
}  // namespace bulkhead::supervisor
