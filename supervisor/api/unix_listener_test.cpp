#include "supervisor/api/unix_listener.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>

#include <condition_variable>
#include <cstring>
#include <set>

namespace bulkhead::edge {
namespace {

constexpr std::chrono::seconds kPatience(10);

// An abstract, autobound address: no file, no clash.
UniqueFd listening_socket(sockaddr_un& address, socklen_t& length) {
  UniqueFd listening(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un any{};
  any.sun_family = AF_UNIX;
  EXPECT_EQ(::bind(listening.get(), reinterpret_cast<sockaddr*>(&any), sizeof(sa_family_t)), 0);
  EXPECT_EQ(::listen(listening.get(), 16), 0);
  length = sizeof address;
  EXPECT_EQ(::getsockname(listening.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  return listening;
}

class UnixListenerTest : public testing::Test {
 protected:
  void listen(ListenerLimits limits) {
    auto listener = UnixListener::create(listening_socket(address_, length_), limits,
                                         [this](UniqueFd connection) { receive(std::move(connection)); });
    ASSERT_TRUE(listener);
    listener_ = std::move(*listener);
    listener_->start();
  }
  void receive(UniqueFd connection) {
    const std::lock_guard lock(mutex_);
    numbers_.insert(connection.get());
    received_.push_back(std::move(connection));
    changed_.notify_all();
  }
  UniqueFd connect() {
    UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    EXPECT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address_), length_), 0);
    return client;
  }
  int wait_for_connection(std::size_t count) {
    std::unique_lock lock(mutex_);
    EXPECT_TRUE(changed_.wait_for(lock, kPatience, [&] { return received_.size() >= count; }));
    return received_.empty() ? -1 : received_.back().get();
  }
  void wait_for_connections_left(std::size_t count) {
    const auto deadline = std::chrono::steady_clock::now() + kPatience;
    while (listener_->connections() != count && std::chrono::steady_clock::now() < deadline)
      std::this_thread::yield();
    EXPECT_EQ(listener_->connections(), count);
  }

  sockaddr_un address_{};
  socklen_t length_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<UniqueFd> received_;
  std::set<int> numbers_;
  std::unique_ptr<UnixListener> listener_;
};

TEST_F(UnixListenerTest, KnowsWhoIsBehindEachConnection) {
  listen({});
  const UniqueFd client = connect();
  const int number = wait_for_connection(1);
  const auto peer = listener_->peer(number);
  ASSERT_TRUE(peer);
  EXPECT_EQ(peer->uid(), ::geteuid());
  EXPECT_EQ(peer->gid(), ::getegid());
  EXPECT_EQ(peer->pid(), ::getpid());
  std::vector<gid_t> groups(static_cast<std::size_t>(::getgroups(0, nullptr)));
  ASSERT_GE(::getgroups(static_cast<int>(groups.size()), groups.data()), 0);
  EXPECT_EQ(std::vector<gid_t>(peer->groups().begin(), peer->groups().end()), groups);
  EXPECT_FALSE(listener_->peer(number + 1));
}

TEST_F(UnixListenerTest, ForgetsAConnectionThatItsClientClosed) {
  listen({});
  UniqueFd client = connect();
  const int number = wait_for_connection(1);
  client.reset();
  wait_for_connections_left(0);
  EXPECT_FALSE(listener_->peer(number));
}

TEST_F(UnixListenerTest, ForgetsAConnectionThatTheReceiverShutDown) {
  listen({});
  const UniqueFd client = connect();
  ::shutdown(wait_for_connection(1), SHUT_RDWR);  // as gRPC does before it closes
  wait_for_connections_left(0);
}

TEST_F(UnixListenerTest, NumbersAreNotUsedAgainSoon) {
  listen({});
  for (std::size_t i = 1; i <= 100; ++i) {
    const UniqueFd client = connect();
    wait_for_connection(i);
    const std::lock_guard lock(mutex_);
    received_.back().reset();  // free for the kernel to give out again
  }
  EXPECT_EQ(numbers_.size(), 100U);
}

TEST_F(UnixListenerTest, NumbersGoRoundAtTheEndOfTheRange) {
  rlimit before{};
  ASSERT_EQ(::getrlimit(RLIMIT_NOFILE, &before), 0);
  rlimit small = before;
  small.rlim_cur = 64;
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &small), 0);
  listen({});
  for (std::size_t i = 1; i <= 100; ++i) {
    const UniqueFd client = connect();
    wait_for_connection(i);
    const std::lock_guard lock(mutex_);
    received_.back().reset();
  }
  EXPECT_GE(numbers_.size(), 30U);
  EXPECT_LT(*numbers_.rbegin(), 64);
  ASSERT_EQ(::setrlimit(RLIMIT_NOFILE, &before), 0);
}

TEST_F(UnixListenerTest, TurnsAwayWhatIsOverTheLimit) {
  listen({.connections = 2, .connections_per_user = 2});
  const UniqueFd first = connect();
  const UniqueFd second = connect();
  wait_for_connection(2);
  const UniqueFd third = connect();
  char byte = 0;
  EXPECT_EQ(::read(third.get(), &byte, 1), 0);  // closed at once
  EXPECT_EQ(listener_->refused(), 1U);
  EXPECT_EQ(listener_->connections(), 2U);
}

TEST_F(UnixListenerTest, AfterStopClientsWaitInTheBacklog) {
  sockaddr_un address{};
  socklen_t length = 0;
  UniqueFd listening = listening_socket(address, length);
  const UniqueFd kept(::fcntl(listening.get(), F_DUPFD_CLOEXEC, 3));  // custody's
  auto listener =
      UnixListener::create(std::move(listening), {}, [](UniqueFd) { FAIL() << "accepted after stop()"; });
  ASSERT_TRUE(listener);
  (*listener)->start();
  (*listener)->stop();
  const UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  ASSERT_EQ(::connect(client.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  const UniqueFd accepted(::accept4(kept.get(), nullptr, nullptr, SOCK_CLOEXEC));
  EXPECT_TRUE(accepted.valid());
}

}  // namespace
}  // namespace bulkhead::edge
