// Debian's C xenstored, with clients at work, hands over to the supervised service: nobody is disconnected,
// nothing is lost or said twice. Or the service cannot go on, and the stock daemon does.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <filesystem>
#include <thread>

#include "runtime/clock.h"
#include "tests/integration/core_host.h"
#include "tests/support/counter_checkers.h"
#include "tests/support/load_loop.h"
#include "tests/support/load_report.h"
#include "tests/support/stock_daemon.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/watch_checker.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAre;

constexpr const char* kControl = BULKHEAD_PEERS_DIR "/usr/lib/xen-4.17/bin/xenstore-control";
constexpr const char* kTakeover = BULKHEAD_BIN "/bulkhead-xenstore-takeover";

std::string nul(std::string text) {
  std::ranges::replace(text, '|', '\0');
  return text;
}

struct Events : xs::Listener {
  void on_reply(const xs::Reply& /*reply*/) override {}
  void on_event(xs::XsClient& /*client*/, std::string_view path, std::string_view token) override {
    seen.push_back(std::string(path) + " " + std::string(token));
  }
  std::vector<std::string> seen;
};

class XenstoreTakeover : public ::testing::Test {
 protected:
  void start(const std::string& settings = "", const std::string& crash_at = "") {
    const Status started = daemon_.start(3);
    ASSERT_TRUE(started) << started.error().message();
    host_ = std::make_unique<CoreHost>(R"(
[components.xenstore]
program = "@BIN@/bulkhead-xenstored"
enabled = false
ring_entries = 1024
restart = { backoff_initial = "10ms", backoff_max = "50ms", hand_over_budget = 1000, budget = 1000 }
standby = true
socket = ")" + daemon_.socket_path() + "\"\n" +
                                           settings,
                                       crash_at);
  }
  std::string api() const { return host_->path("run/api.sock"); }
  static int run(std::vector<std::string> words, const std::string& socket) {
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    std::string path = "XENSTORED_PATH=" + socket;
    char* const environment[] = {path.data(), nullptr};
    pid_t pid = -1;
    if (::posix_spawn(&pid, arguments[0], nullptr, nullptr, arguments.data(), environment) != 0) return -1;
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  // The exit status of xenstore-control, whose request is answered by whoever serves then.
  int live_update(const std::string& api_socket) const {
    const std::string words = "--api=" + api_socket + " --stock=" + xs::StockDaemon::program() + " --no-fork";
    return run({kControl, "live-update", "-c", words, kTakeover}, daemon_.socket_path());
  }
  int live_update() const { return live_update(api()); }
  int check() const { return run({kTakeover, "--check", "--api=" + api()}, daemon_.socket_path()); }
  std::unique_ptr<xs::XsClient> connect(const std::string& name) {
    auto socket = xs::XsClient::connect(daemon_.socket_path());
    EXPECT_TRUE(socket) << socket.error().message();
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log_);
  }
  static std::string call(xs::XsClient& client, xsd_sockmsg_type type, std::string_view payload,
                          xs::Listener* listener = nullptr) {
    const auto reply = client.call(type, 0, payload, listener);
    return reply ? *reply : reply.error().message();
  }
  std::vector<std::string> custody() {
    v1::ListCustodyRequest request;
    request.set_component("xenstore");
    v1::ListCustodyResponse response;
    EXPECT_TRUE(host_->api().ListCustody(CoreHost::deadline().get(), request, &response).ok());
    std::vector<std::string> names;
    for (const v1::CustodyItem& item : response.items()) names.push_back(item.name());
    return names;
  }
  void kill_owner() {
    const v1::Component before = host_->wait_complete("xenstore");
    ASSERT_EQ(::kill(before.active_pid(), SIGKILL), 0);
    host_->wait("xenstore", "it is complete again", [&](const v1::Component& c) {
      return c.incarnation() > before.incarnation() && c.standby_ready();
    });
  }

  // Clients that were there before, and what they are to see.
  void populate() {
    client_ = connect("client");
    watcher_ = connect("watcher");
    halved_ = std::move(*xs::XsClient::connect(daemon_.socket_path()));
    ASSERT_EQ(call(*client_, XS_INTRODUCE, nul("1|11|12|")), nul("OK|"));
    ASSERT_EQ(call(*client_, XS_WRITE, nul("/local/domain/1/name|one")), nul("OK|"));
    ASSERT_EQ(call(*client_, XS_SET_PERMS, nul("/local/domain/1/name|n1|r2|")), nul("OK|"));
    ASSERT_EQ(call(*watcher_, XS_WATCH, nul("/many|many|"), &events_), nul("OK|"));
    call(*watcher_, XS_READ, nul("/|"), &events_);
    events_.seen.clear();
    ASSERT_EQ(::write(halved_.get(), request_.data(), kHalf), static_cast<ssize_t>(kHalf));
  }
  void expect_nobody_noticed() {
    EXPECT_EQ(call(*client_, XS_READ, nul("/local/domain/1/name|")), "one");
    EXPECT_EQ(call(*client_, XS_GET_PERMS, nul("/local/domain/1/name|")), nul("n1|r2|"));
    EXPECT_EQ(call(*client_, XS_IS_DOMAIN_INTRODUCED, nul("1|")), nul("T|"));
    EXPECT_EQ(call(*client_, XS_WRITE, nul("/many/x|1")), nul("OK|"));
    EXPECT_EQ(call(*watcher_, XS_READ, nul("/many/x|"), &events_), "1");
    EXPECT_THAT(events_.seen, ::testing::Each("/many/x many"));
    EXPECT_FALSE(events_.seen.empty());
    const std::string rest = request_.substr(kHalf);
    ASSERT_EQ(::write(halved_.get(), rest.data(), rest.size()), std::ssize(rest));
    std::array<char, sizeof(xsd_sockmsg) + 3> answer{};
    ASSERT_EQ(::recv(halved_.get(), answer.data(), answer.size(), MSG_WAITALL), std::ssize(answer));
    EXPECT_EQ(std::string_view(answer.data() + sizeof(xsd_sockmsg), 3), "one");
    EXPECT_EQ(call(*connect("newcomer"), XS_READ, nul("/many/x|")), "1");
    EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
  }
  void expect_the_service_serves() {
    host_->wait_complete("xenstore");
    const auto ended = daemon_.wait_for_end();
    ASSERT_TRUE(ended) << ended.error().message();
    EXPECT_EQ(*ended, 0);
    EXPECT_FALSE(std::filesystem::exists(daemon_.folder() / "state_dump"));
    for (const std::string& item : custody()) {
      EXPECT_FALSE(item == "import" || item.starts_with("client-")) << item;
    }
  }
  void expect_the_stock_daemon_serves() {
    EXPECT_EQ(std::filesystem::read_symlink("/proc/" + std::to_string(daemon_.pid()) + "/exe").filename(),
              "xenstored");
    EXPECT_EQ(host_->component("xenstore").state(), v1::STATE_STOPPED);
    EXPECT_FALSE(host_->component("xenstore").wanted());
    EXPECT_THAT(custody(), UnorderedElementsAre("lease"));
  }
  static std::string whole_request() {
    const std::string payload = nul("/local/domain/1/name|");
    const xsd_sockmsg header{
        .type = XS_READ, .req_id = 4, .tx_id = 0, .len = static_cast<uint32_t>(payload.size())};
    return std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
  }

  static constexpr std::size_t kHalf = 20;
  const std::string request_ = whole_request();
  xs::StockDaemon daemon_;
  std::unique_ptr<CoreHost> host_;
  xs::AnomalyLog log_;
  std::unique_ptr<xs::XsClient> client_;
  std::unique_ptr<xs::XsClient> watcher_;
  UniqueFd halved_;
  Events events_;
};

TEST_F(XenstoreTakeover, ClientsAreServedOn) {
  start();
  populate();
  EXPECT_EQ(check(), 0);
  ASSERT_EQ(live_update(), 0);
  EXPECT_THAT(host_->component("xenstore").cause(), HasSubstr("took over"));
  expect_the_service_serves();
  expect_nobody_noticed();
  EXPECT_EQ(check(), 1);  // it is not stopped
  kill_owner();
  EXPECT_EQ(call(*client_, XS_READ, nul("/many/x|")), "1");
  EXPECT_EQ(log_.total(), 0U);
}

TEST_F(XenstoreTakeover, ClientsAtWorkNoticeNothing) {
  start();
  const xs::CheckerSettings settings{daemon_.socket_path(), "/check", 4};
  xs::LoadLoop loop(settings, log_, {});
  ASSERT_TRUE(loop.open());
  ASSERT_TRUE(loop.add(std::make_unique<xs::CounterWriter>(0, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<xs::CounterReader>(0, 1, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<xs::WatchChecker>(0, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<xs::TransferChecker>(0, settings, log_)));
  constexpr std::uint64_t kWork = 2000;  // replies before the update, and between kills
  std::atomic<std::uint64_t> replies = 0;
  std::atomic<bool> over = false;
  int result = -1;
  std::thread operations([&] {
    const auto work = [&](std::uint64_t until) {
      for (std::uint64_t now = replies; now < until && !over; now = replies) replies.wait(now);
    };
    work(kWork);
    result = live_update();
    for (int kill = 0; kill < 3 && result == 0; ++kill) {
      kill_owner();
      work(replies + kWork);
    }
    over = true;
  });
  const std::int64_t end = monotonic_ns() + 120 * kSecond;
  loop.run([&] {
    if (monotonic_ns() > end) over = true;
    replies = over ? UINT64_MAX : loop.replies();
    replies.notify_all();
    return over.load();
  });
  operations.join();
  EXPECT_EQ(result, 0);
  EXPECT_GT(loop.replies(), 4 * kWork);
  EXPECT_EQ(log_.total(), 0U) << xs::report_text(xs::make_report(loop, log_, 0));
  for (const auto& checker : loop.checkers()) EXPECT_GT(checker->completed(), 0U) << checker->name();
  expect_the_service_serves();
}

// It has no room for what it is handed.
TEST_F(XenstoreTakeover, AServiceThatCannotGoOnGivesEverythingBack) {
  start("settings = { max_connections = \"1\" }\n");
  populate();
  EXPECT_EQ(live_update(), 0);
  expect_the_stock_daemon_serves();
  expect_nobody_noticed();
}

TEST_F(XenstoreTakeover, WithoutASupervisorTheStockDaemonGoesOn) {
  start();
  populate();
  EXPECT_EQ(live_update(host_->path("nobody.sock")), 0);
  expect_the_stock_daemon_serves();
  expect_nobody_noticed();
}

struct DeathOfTheCore {
  const char* point;
  bool taken_over;
};

class XenstoreTakeoverCrashPoint : public XenstoreTakeover,
                                   public ::testing::WithParamInterface<DeathOfTheCore> {};

// The edge's start is the first, the service's the second.
TEST_P(XenstoreTakeoverCrashPoint, EitherServes) {
  start("", GetParam().point);
  populate();
  EXPECT_EQ(live_update(), 0);
  host_->wait_for_run(2);
  if (GetParam().taken_over) {
    expect_the_service_serves();
  } else {
    expect_the_stock_daemon_serves();
  }
  expect_nobody_noticed();
}

std::string case_name(const ::testing::TestParamInfo<DeathOfTheCore>& tested) {
  std::string name = tested.param.point;
  std::ranges::replace_if(name, [](char c) { return c == '-' || c == ':'; }, '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(OfTheCore, XenstoreTakeoverCrashPoint,
                         ::testing::Values(DeathOfTheCore{"core-import-half:3", false},
                                           DeathOfTheCore{"core-import-deposited:1", false},
                                           DeathOfTheCore{"core-launch-intent:2", true},
                                           DeathOfTheCore{"core-launch-recorded:2", true},
                                           DeathOfTheCore{"core-introduced:1", true},
                                           DeathOfTheCore{"core-withdraw-after-remove:1", true}),
                         case_name);

}  // namespace
}  // namespace bulkhead::test
