#include "runtime/seqpacket.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/memfd.h"

namespace bulkhead {
namespace {

namespace contract = bulkhead::contract::v1;

class SeqpacketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto pair = seqpacket_pair();
    ASSERT_TRUE(pair.has_value());
    left_ = std::move(pair->first);
    right_ = std::move(pair->second);
  }
  UniqueFd left_;
  UniqueFd right_;
};

TEST_F(SeqpacketTest, MessageAndDescriptorArriveTogether) {
  auto segment = create_memfd("travels", 4096);
  ASSERT_TRUE(segment.has_value());
  contract::FromInstance message;
  message.mutable_deposit()->set_name("travels");
  ASSERT_TRUE(send_packet(left_.borrow(), message, {segment->borrow()}).has_value());
  auto packet = receive_packet(right_.borrow());
  ASSERT_TRUE(packet.has_value() && packet->has_value());
  contract::FromInstance got;
  ASSERT_TRUE(got.ParseFromString((*packet)->bytes));
  EXPECT_EQ(got.deposit().name(), "travels");
  ASSERT_EQ((*packet)->fds.size(), 1U);
  EXPECT_TRUE(Mapping::map((*packet)->fds[0].borrow(), 4096).has_value());
}

TEST_F(SeqpacketTest, NothingToReadIsNoFailure) {
  auto packet = receive_packet(right_.borrow());
  ASSERT_TRUE(packet.has_value());
  EXPECT_FALSE(packet->has_value());
}

TEST_F(SeqpacketTest, PeerGoneIsDisconnected) {
  left_.reset();
  EXPECT_EQ(receive_packet(right_.borrow()).error().kind(), ErrorKind::kDisconnected);
  contract::FromInstance message;
  message.mutable_ready();
  EXPECT_EQ(send_packet(right_.borrow(), message).error().kind(), ErrorKind::kDisconnected);
}

TEST_F(SeqpacketTest, PeerThatDoesNotReadIsExhaustedNotBlocking) {
  contract::FromInstance message;
  message.mutable_finding()->set_evidence(std::string(60'000, 'x'));
  Status sent;
  for (int i = 0; i < 1000 && sent; ++i) sent = send_packet(left_.borrow(), message);
  ASSERT_FALSE(sent.has_value());
  EXPECT_EQ(sent.error().kind(), ErrorKind::kExhausted);
}

TEST_F(SeqpacketTest, TooManyDescriptorsAreRefusedAndClosed) {
  std::vector<BorrowedFd> many(kMaxPacketFds + 1, left_.borrow());
  contract::FromInstance message;
  message.mutable_ready();
  EXPECT_EQ(send_packet(left_.borrow(), message, many).error().kind(), ErrorKind::kInvalid);
}

}  // namespace
}  // namespace bulkhead
