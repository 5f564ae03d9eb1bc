// Clients that contend for a few nodes, with the owner killed at random: is there one order that explains
// what all of them were told? And the check itself, against Debian's xenstored and against servers that lie.
#include <gtest/gtest.h>

#include <algorithm>
#include <cstdlib>

#include "runtime/clock.h"
#include "tests/support/fault_proxy.h"
#include "tests/support/history_recorder.h"
#include "tests/support/kill_campaign.h"
#include "tests/support/linearizability.h"
#include "tests/support/stock_daemon.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;
using testing::KillCampaign;
using xs::Verdict;

constexpr std::size_t kRequests = 30;  // per client and round

// BULKHEAD_TEST_KILLS: more than a test run has time for.
int kills_from_environment(int fallback) {
  const char* text = std::getenv("BULKHEAD_TEST_KILLS");
  return text == nullptr ? fallback : std::atoi(text);
}

void open(xs::HistoryRecorder& recorder) {
  const Status opened = recorder.open();
  ASSERT_TRUE(opened.has_value()) << opened.error().message();
}

class XenstoreLinearizability : public ::testing::Test {
 protected:
  void start() {
    auto host = ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", {}, 1024, "warning"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
  }

  // Rounds until the campaign is over, each checked on its own.
  void expect_linearizable(KillCampaign& campaign, xs::HistoryRecorder::Settings settings) {
    ASSERT_TRUE(campaign.begin()) << campaign.error();
    settings.socket_path = host_->socket_path();
    xs::AnomalyLog log;
    xs::HistoryRecorder recorder(settings, log);
    ASSERT_NO_FATAL_FAILURE(open(recorder));
    bool over = false;
    std::size_t struck = 0;
    std::size_t operations = 0;
    std::size_t places = 0;
    for (std::size_t round = 0; !over; ++round) {
      xs::History history;
      const Status recorded = recorder.record(kRequests, [&] { over = over || campaign.step(); }, history);
      ASSERT_TRUE(recorded.has_value()) << "round " << round << ": " << recorded.error().message();
      struck += kills_within(campaign, recorder.busy());
      operations += history.operations.size();
      const Verdict verdict = check_linearizable(history);
      places += verdict.places;
      ASSERT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << "round " << round << ": " << verdict.why;
    }
    EXPECT_EQ(campaign.error(), "");
    EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
    // The kills hit what is checked, and there is something to check.
    EXPECT_GT(struck, 0U);
    EXPECT_GT(recorder.commits(), 0U);
    EXPECT_GT(recorder.conflicts(), 0U);
    std::printf(
        "kills %d, of them %zu among requests; operations %zu, commits %zu, conflicts %zu, places %zu\n",
        campaign.kills(), struck, operations, recorder.commits(), recorder.conflicts(), places);
  }

  static std::size_t kills_within(KillCampaign& campaign, std::pair<std::int64_t, std::int64_t> busy) {
    return static_cast<std::size_t>(std::ranges::count_if(
        campaign.take_marks(), [&](std::int64_t at) { return at >= busy.first && at <= busy.second; }));
  }

  std::unique_ptr<ComponentHost> host_;
};

TEST_F(XenstoreLinearizability, RandomKills) {
  start();
  KillCampaign campaign(*host_, {.kills = kills_from_environment(60), .seed = 11});
  expect_linearizable(campaign, {.clients = 5, .depth = 2, .seed = 1});
}

// More orders to choose from: the check has to work harder, and the owner dies with more half done.
TEST_F(XenstoreLinearizability, RandomKillsWithManyRequestsInFlight) {
  start();
  KillCampaign campaign(*host_, {.kills = kills_from_environment(30), .seed = 12});
  expect_linearizable(campaign, {.clients = 6, .depth = 5, .seed = 2});
}

TEST_F(XenstoreLinearizability, BothKilled) {
  start();
  const auto kill_both = [](ComponentHost& host, ComponentHost::Instance& active,
                            ComponentHost::Instance& standby) {
    host.kill(standby);
    host.kill(active);
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 20, .strike = kill_both, .seed = 13});
  expect_linearizable(campaign, {.clients = 5, .depth = 3, .seed = 3});
}

// Model and check agree with the original. It may merge events, and an open transaction of it does not show
// one instant.
TEST(StockLinearizability, HistoriesOfDebiansXenstoredPass) {
  xs::StockDaemon daemon;
  const Status started = daemon.start();
  ASSERT_TRUE(started) << started.error().message();
  xs::AnomalyLog log;
  xs::HistoryRecorder recorder({.socket_path = daemon.socket_path(), .snapshot_isolation = false}, log);
  ASSERT_NO_FATAL_FAILURE(open(recorder));
  for (int round = 0; round < 40; ++round) {
    xs::History history;
    const Status recorded = recorder.record(kRequests, [] {}, history);
    ASSERT_TRUE(recorded.has_value()) << recorded.error().message();
    EXPECT_EQ(check_merged_events(history), "");
    history.watchers.clear();
    const Verdict verdict = check_linearizable(history);
    ASSERT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << "round " << round << ": " << verdict.why;
  }
  EXPECT_GT(recorder.commits(), 0U);
  EXPECT_GT(recorder.conflicts(), 0U);
}

// At each named point of a request's path, from its arrival to its reply.
TEST_F(XenstoreLinearizability, CrashPointsOfTheOwner) {
  start();
  std::vector<std::string> points;
  std::size_t next = 0;
  const auto strike = [&](ComponentHost& host, ComponentHost::Instance& active, ComponentHost::Instance&) {
    for (const std::string& point : active.hello().crash_points()) {
      const bool ours = point.starts_with("receive-") || point.starts_with("request-") ||
                        point.starts_with("commit") || point.starts_with("send-") || point == "submitted";
      if (next == 0 && ours) points.push_back(point);
    }
    EXPECT_TRUE(host.inject(active, "crash-at", points[next++ % points.size()]).has_value());
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 28, .strike = strike, .seed = 15});
  expect_linearizable(campaign, {.clients = 5, .depth = 3, .seed = 5});
  EXPECT_GE(points.size(), 13U);
  EXPECT_GE(next, 2 * points.size());
}

TEST_F(XenstoreLinearizability, EachNodeAloneInLongRounds) {
  start();
  KillCampaign campaign(*host_, {.kills = kills_from_environment(20), .seed = 14});
  ASSERT_TRUE(campaign.begin()) << campaign.error();
  xs::AnomalyLog log;
  xs::HistoryRecorder recorder(
      {.socket_path = host_->socket_path(), .clients = 8, .depth = 1, .lasting_nodes = true}, log);
  ASSERT_NO_FATAL_FAILURE(open(recorder));
  for (bool over = false; !over;) {
    xs::History history;
    const Status recorded = recorder.record(300, [&] { over = over || campaign.step(); }, history);
    ASSERT_TRUE(recorded.has_value()) << recorded.error().message();
    history.watchers.clear();
    const std::vector<xs::History> parts = partition(history);
    ASSERT_EQ(parts.size(), 3U);
    for (const xs::History& part : parts) {
      const Verdict verdict = check_linearizable(part);
      ASSERT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << verdict.why;
    }
  }
  EXPECT_EQ(campaign.error(), "");
}

struct Lie {
  const char* name;
  xs::FaultPlan plan;
};

std::ostream& operator<<(std::ostream& out, const Lie& lie) {
  return out << lie.name;
}

class BrokenServer : public XenstoreLinearizability, public ::testing::WithParamInterface<Lie> {
 protected:
  // The real service behind a proxy that lies once: rounds before that pass. False: the lie was not seen, as
  // it may be if it was told before or between rounds or of a transaction that changed nothing.
  bool found(const xs::FaultPlan& plan) {
    const xs::TempFolder folder;
    const std::string socket_path = (folder.path() / "proxy").string();
    const xs::FaultProxy proxy(socket_path, host_->socket_path(), plan);
    xs::AnomalyLog log;
    xs::HistoryRecorder recorder({.socket_path = socket_path, .seed = plan.nth}, log);
    open(recorder);
    while (!proxy.struck()) {
      xs::History history;
      const Status recorded = recorder.record(kRequests, [&] { host_->pump(0); }, history);
      EXPECT_TRUE(recorded.has_value()) << recorded.error().message();
      const Verdict verdict = check_linearizable(history);
      if (proxy.struck()) return verdict.kind == Verdict::Kind::kViolation;
      EXPECT_EQ(verdict.kind, Verdict::Kind::kLinearizable) << verdict.why;
      if (HasFailure()) return false;
    }
    return false;
  }
};

TEST_P(BrokenServer, IsFound) {
  start();
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  constexpr int kAttempts = 20;
  for (int attempt = 0; attempt < kAttempts; ++attempt) {
    xs::FaultPlan plan = GetParam().plan;
    plan.nth += static_cast<std::uint64_t>(attempt) * 7;
    if (found(plan)) return;
    ASSERT_FALSE(HasFailure());
  }
  FAIL() << "not found";
}

constexpr std::uint64_t kNth = 50;

INSTANTIATE_TEST_SUITE_P(
    EveryLie, BrokenServer,
    ::testing::Values(Lie{"StaleRead", {xs::Fault::kStale, XS_READ, kNth}},
                      Lie{"GarbledRead", {xs::Fault::kGarble, XS_READ, kNth}},
                      Lie{"WriteAcknowledgedAndLost", {xs::Fault::kLoseWrite, XS_WRITE, kNth}},
                      Lie{"WriteToAnotherNode", {xs::Fault::kDivertRequest, XS_WRITE, kNth}},
                      Lie{"AnotherNodeRemoved", {xs::Fault::kDivertRequest, XS_RM, 10}},
                      Lie{"CommitAcknowledgedAndAborted", {xs::Fault::kFlipEnd, XS_TRANSACTION_END, 30}},
                      Lie{"NamesGarbled", {xs::Fault::kGarble, XS_DIRECTORY, kNth}},
                      Lie{"EventLost", {xs::Fault::kDrop, XS_WATCH_EVENT, kNth}},
                      Lie{"EventRepeated", {xs::Fault::kRepeat, XS_WATCH_EVENT, kNth}},
                      Lie{"EventsSwapped", {xs::Fault::kSwap, XS_WATCH_EVENT, kNth}}),
    [](const ::testing::TestParamInfo<Lie>& lie) { return lie.param.name; });

}  // namespace
}  // namespace bulkhead
