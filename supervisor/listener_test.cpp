#include "supervisor/listener.h"

#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>

#include "runtime/pidfd.h"
#include "supervisor/publisher.h"
#include "supervisor/ring.h"

namespace bulkhead::supervisor {
namespace {

class ListenerTest : public ::testing::Test {
 protected:
  ListenerTest() {
    std::string pattern = "/tmp/bulkhead-listener-XXXXXX";
    directory_ = ::mkdtemp(pattern.data());
  }
  ~ListenerTest() override { std::filesystem::remove_all(directory_); }
  std::string path(const std::string& name) const { return directory_ + "/" + name; }

  std::string directory_;
};

TEST_F(ListenerTest, MakesTheDirectoryAndSetsTheMode) {
  auto socket = listen_unix(path("deep/er/socket"), 0640, std::nullopt);
  ASSERT_TRUE(socket) << socket.error().message();
  struct stat info{};
  ASSERT_EQ(::stat(path("deep/er/socket").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 07777, 0640U);
  EXPECT_TRUE(listens_at(socket->borrow(), path("deep/er/socket")));
  EXPECT_FALSE(listens_at(socket->borrow(), path("elsewhere")));
}

TEST_F(ListenerTest, ReplacesWhatADeadProcessLeft) {
  {
    auto former = listen_unix(path("socket"), 0600, std::nullopt);
  }
  EXPECT_TRUE(listen_unix(path("socket"), 0600, std::nullopt));
}

TEST_F(ListenerTest, DoesNotTakeTheSocketOfALivingProcess) {
  auto former = listen_unix(path("socket"), 0600, std::nullopt);
  auto second = listen_unix(path("socket"), 0600, std::nullopt);
  ASSERT_FALSE(second);
  EXPECT_EQ(second.error().kind(), ErrorKind::kRefused);
  EXPECT_TRUE(listens_at(former->borrow(), path("socket")));
}

TEST_F(ListenerTest, LeavesOtherFilesAlone) {
  {
    std::ofstream(path("file")) << "precious";
  }
  EXPECT_FALSE(listen_unix(path("file"), 0600, std::nullopt));
  EXPECT_TRUE(std::filesystem::is_regular_file(path("file")));
}

TEST_F(ListenerTest, TooLongPathIsInvalid) {
  auto socket = listen_unix(path(std::string(200, 'x')), 0600, std::nullopt);
  ASSERT_FALSE(socket);
  EXPECT_EQ(socket.error().kind(), ErrorKind::kInvalid);
}

TEST(Publisher, SubscribersMayEndThemselvesAndOthers) {
  Publisher<int> publisher;
  std::vector<int> heard;
  Publisher<int>::Id first = 0, second = 0;
  first = publisher.subscribe([&](int value) {
    heard.push_back(value);
    publisher.unsubscribe(first);
    publisher.unsubscribe(second);
  });
  second = publisher.subscribe([&](int value) { heard.push_back(10 * value); });
  publisher.subscribe([&](int value) { heard.push_back(100 * value); });
  publisher.publish(1);
  publisher.publish(2);
  EXPECT_EQ(heard, (std::vector<int>{1, 100, 200}));
}

TEST(Ring, IsRecoveredFromAProcessThatHasIt) {
  auto ring = create_ring(8);
  if (!ring && ring.error().kind() == ErrorKind::kRefused) GTEST_SKIP() << ring.error().message();
  ASSERT_TRUE(ring) << ring.error().message();
  auto self = PidFd::open(::getpid());
  ASSERT_TRUE(self);
  auto recovered = recover_ring(*self, ring->fd.get(), ring->params);
  ASSERT_TRUE(recovered) << recovered.error().message();
  EXPECT_EQ(recovered->params, ring->params);
  EXPECT_FALSE(recover_ring(*self, self->fd().get(), ring->params));  // another kind of descriptor
}

}  // namespace
}  // namespace bulkhead::supervisor
