#include "supervisor/api_link.h"

#include <gtest/gtest.h>

#include <optional>

#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/seqpacket.h"

namespace bulkhead::supervisor {
namespace {

using bulkhead::contract::v1::EdgeReply;
using bulkhead::contract::v1::EdgeRequest;

class ApiLinkTest : public ::testing::Test {
 protected:
  ApiLinkTest() : link_(loop_, [this](const std::shared_ptr<Call>& call) { calls_.push_back(call); }) {
    auto pair = seqpacket_pair();
    near_ = std::move(pair->first);
    far_ = std::move(pair->second);
    EXPECT_TRUE(link_.attach(near_.borrow()));
  }
  void request(std::uint64_t id, bool cancel = false) {
    EdgeRequest request;
    request.set_id(id);
    request.set_cancel(cancel);
    if (!cancel) request.set_method("GetVersion");
    ASSERT_TRUE(send_packet(far_.borrow(), request));
    ASSERT_TRUE(loop_.turn(0));
  }
  std::optional<EdgeReply> reply() {
    auto packet = receive_packet(far_.borrow());
    if (!packet || !*packet) return std::nullopt;
    EdgeReply reply;
    reply.ParseFromString((*packet)->bytes);
    return reply;
  }

  EventLoop loop_ = std::move(*EventLoop::create());
  UniqueFd near_, far_;
  std::vector<std::shared_ptr<Call>> calls_;
  ApiLink link_;
};

TEST_F(ApiLinkTest, CallIsAnsweredOnce) {
  request(5);
  ASSERT_EQ(calls_.size(), 1U);
  EXPECT_EQ(calls_[0]->method(), "GetVersion");
  v1::GetVersionResponse response;
  response.set_version("1");
  calls_[0]->reply(response);
  calls_[0]->reply(response);
  EXPECT_TRUE(calls_[0]->ended());
  const auto got = reply();
  ASSERT_TRUE(got);
  EXPECT_EQ(got->id(), 5U);
  EXPECT_EQ(got->code(), 0U);
  EXPECT_EQ(got->body(), response.SerializeAsString());
  EXPECT_FALSE(reply());
}

TEST_F(ApiLinkTest, CancelledCallEndsQuietly) {
  request(5);
  bool ended = false;
  calls_[0]->on_end([&] { ended = true; });
  request(5, true);
  EXPECT_TRUE(ended);
  calls_[0]->fail(Code::kInternal, "too late");
  EXPECT_FALSE(reply());
}

TEST_F(ApiLinkTest, RepeatedIdIsRefused) {
  request(5);
  request(5);
  EXPECT_EQ(calls_.size(), 1U);
  EXPECT_EQ(reply()->code(), static_cast<std::uint32_t>(Code::kResourceExhausted));
}

TEST_F(ApiLinkTest, TooLongAnswerFailsHonestly) {
  request(5);
  v1::GetVersionResponse response;
  response.set_version(std::string(kMaxPacketBytes, 'x'));
  calls_[0]->reply(response);
  EXPECT_EQ(reply()->code(), static_cast<std::uint32_t>(Code::kResourceExhausted));
}

TEST_F(ApiLinkTest, StreamThatIsNotReadIsEnded) {
  request(5);
  request(6);
  v1::Event event;
  event.set_text(std::string(1000, 'x'));
  std::size_t sent = 0;
  while (!calls_[0]->ended() && sent < 10'000) {
    calls_[0]->element(event);
    ++sent;
  }
  EXPECT_TRUE(calls_[0]->ended());
  EXPECT_FALSE(calls_[1]->ended());
  std::size_t elements = 0;
  for (;;) {
    const auto got = reply();
    if (!got) {
      ASSERT_TRUE(loop_.turn(0));
      continue;
    }
    if (got->more()) {
      ++elements;
      continue;
    }
    EXPECT_EQ(got->code(), static_cast<std::uint32_t>(Code::kResourceExhausted));
    break;
  }
  EXPECT_EQ(elements, sent - 1);  // everything before the end arrives, in order
}

TEST_F(ApiLinkTest, ReadStreamGoesOn) {
  request(5);
  v1::Event event;
  for (std::size_t i = 0; i < 4 * ApiLink::kMaxQueuedElements; ++i) {
    calls_[0]->element(event);
    ASSERT_TRUE(reply());
  }
  EXPECT_FALSE(calls_[0]->ended());
}

TEST_F(ApiLinkTest, DetachEndsEveryCall) {
  request(5);
  request(6);
  int ended = 0;
  for (const auto& call : calls_) call->on_end([&] { ++ended; });
  link_.detach();
  EXPECT_EQ(ended, 2);
  EXPECT_TRUE(calls_[0]->ended());
}

TEST_F(ApiLinkTest, ClosedEdgeDetaches) {
  request(5);
  far_.reset();
  ASSERT_TRUE(loop_.turn(0));
  EXPECT_TRUE(calls_[0]->ended());
  EXPECT_FALSE(link_.socket().valid());
}

}  // namespace
}  // namespace bulkhead::supervisor
