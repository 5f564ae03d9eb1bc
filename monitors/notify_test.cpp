#include "monitors/notify.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>

#include <array>
#include <cstdlib>
#include <cstring>
#include <filesystem>

namespace bulkhead::monitors {
namespace {

TEST(Notification, ReadsWhatItKnows) {
  const auto it =
      parse_notification("READY=1\nSTATUS=Serving 5 clients\nWATCHDOG=1\nEXTEND_TIMEOUT_USEC=500\nERRNO=2\n");
  EXPECT_TRUE(it.ready);
  EXPECT_TRUE(it.watchdog);
  EXPECT_FALSE(it.stopping);
  EXPECT_EQ(it.status, "Serving 5 clients");
  EXPECT_EQ(it.extend_timeout_us, 500);
  EXPECT_EQ(it.error, 2);
  EXPECT_TRUE(parse_notification("STOPPING=1").stopping);
  EXPECT_TRUE(parse_notification("RELOADING=1").reloading);
  EXPECT_TRUE(parse_notification("WATCHDOG=trigger").watchdog_trigger);
}

TEST(Notification, IgnoresTheRest) {
  for (const char* text : {"", "\n\n", "READY", "READY=0", "READY=11", "ready=1", " READY=1", "MAINPID=1",
                           "=1", "ERRNO=x", "ERRNO=99999999999999999999", "EXTEND_TIMEOUT_USEC=-5"}) {
    const auto it = parse_notification(text);
    EXPECT_FALSE(it.ready) << text;
    EXPECT_FALSE(it.error) << text;
    EXPECT_FALSE(it.extend_timeout_us) << text;
  }
}

TEST(Notification, StatusIsOneBoundedPrintableLine) {
  EXPECT_EQ(parse_notification("STATUS=a\x1b[31m\tb").status, "a?[31m?b");
  EXPECT_EQ(parse_notification("STATUS=" + std::string(10000, 'x')).status->size(), 256U);
}

TEST(NotifyWatchdog, FindsSilenceAndConfessions) {
  constexpr std::int64_t kMs = 1'000'000;
  NotifyWatchdog watchdog(100 * kMs);
  const auto beat = parse_notification("WATCHDOG=1");
  const auto confession = parse_notification("WATCHDOG=trigger");
  EXPECT_FALSE(watchdog.deadline_ns().has_value());
  EXPECT_FALSE(watchdog.check(1000 * kMs).has_value());
  watchdog.start(0);
  EXPECT_EQ(watchdog.deadline_ns(), 100 * kMs);
  EXPECT_FALSE(watchdog.heard(beat, 90 * kMs).has_value());
  EXPECT_FALSE(watchdog.heard(parse_notification("READY=1"), 150 * kMs).has_value());
  EXPECT_FALSE(watchdog.check(190 * kMs - 1).has_value());
  const auto silent = watchdog.check(190 * kMs);
  ASSERT_TRUE(silent.has_value());
  EXPECT_EQ(silent->evidence, "no WATCHDOG=1 for 100 ms");
  EXPECT_EQ(silent->since_ns, 90 * kMs);
  EXPECT_FALSE(watchdog.check(500 * kMs).has_value());  // said once
  watchdog.start(600 * kMs);
  EXPECT_TRUE(watchdog.heard(confession, 601 * kMs).has_value());
  EXPECT_FALSE(watchdog.heard(confession, 602 * kMs).has_value());
}

class NotifySocketTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/bulkhead-notify-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    auto made = NotifySocket::create(directory_ + "/notify", ::geteuid());
    ASSERT_TRUE(made.has_value()) << made.error().message();
    socket_.emplace(std::move(*made));
    sender_ = UniqueFd(::socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0));
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, socket_->path().data(), socket_->path().size());
    ASSERT_EQ(::connect(sender_.get(), reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
  }
  void TearDown() override {
    socket_.reset();
    EXPECT_TRUE(std::filesystem::is_empty(directory_));
    std::filesystem::remove_all(directory_);
  }
  void send(const std::string& text) {
    EXPECT_EQ(::send(sender_.get(), text.data(), text.size(), 0), static_cast<ssize_t>(text.size()));
  }

  std::string directory_;
  std::optional<NotifySocket> socket_;
  UniqueFd sender_;
};

TEST_F(NotifySocketTest, TellsWhoSaidWhat) {
  EXPECT_FALSE(socket_->receive().has_value());
  send("READY=1");
  send("STATUS=x");
  const auto first = socket_->receive();
  ASSERT_TRUE(first.has_value());
  EXPECT_TRUE(first->notification.ready);
  EXPECT_EQ(first->sender, ::getpid());
  EXPECT_EQ(socket_->receive()->notification.status, "x");
  EXPECT_FALSE(socket_->receive().has_value());
}

TEST_F(NotifySocketTest, DropsOversizedMessages) {
  send("READY=1\nSTATUS=" + std::string(8000, 'x'));
  send("STATUS=small");
  EXPECT_EQ(socket_->receive()->notification.status, "small");
}

TEST_F(NotifySocketTest, ClosesDescriptorsThatCameAlong) {
  // As many as the kernel lets one message carry, sent often enough to run out if they were kept.
  const auto count = [] {
    return std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                         std::filesystem::directory_iterator());
  };
  const auto before = count();
  for (const int number : {1, 64, 100}) {
    std::string text = "READY=1";
    iovec part{text.data(), text.size()};
    alignas(cmsghdr) std::array<char, CMSG_SPACE(100 * sizeof(int))> control{};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = control.data();
    header.msg_controllen = CMSG_SPACE(static_cast<std::size_t>(number) * sizeof(int));
    cmsghdr* rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(static_cast<std::size_t>(number) * sizeof(int));
    for (int i = 0; i < number; ++i) {
      const int fd = sender_.get();
      std::memcpy(CMSG_DATA(rights) + static_cast<std::size_t>(i) * sizeof fd, &fd, sizeof fd);
    }
    ASSERT_GT(::sendmsg(sender_.get(), &header, 0), 0);
    const auto received = socket_->receive();
    ASSERT_TRUE(received.has_value());
    EXPECT_TRUE(received->notification.ready);
  }
  EXPECT_EQ(count(), before);
}

TEST_F(NotifySocketTest, OnlyItsAccountMaySend) {
  struct stat info{};
  ASSERT_EQ(::stat(socket_->path().c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0600U);
  EXPECT_EQ(info.st_uid, ::geteuid());
}

TEST_F(NotifySocketTest, ReplacesALeftOver) {
  const std::string path = directory_ + "/again";
  auto first = NotifySocket::create(path, ::geteuid());
  auto second = NotifySocket::create(path, ::geteuid());
  EXPECT_TRUE(second.has_value());
  EXPECT_FALSE(NotifySocket::create("/tmp/" + std::string(200, 'x'), 0).has_value());
}

}  // namespace
}  // namespace bulkhead::monitors
