// The xenstore service dies in every way there is, under checking load: nothing may be lost, repeated,
// reordered or torn.
#include <gtest/gtest.h>
#include <signal.h>

#include <algorithm>
#include <cstdlib>
#include <string>
#include <thread>

#include "runtime/clock.h"
#include "tests/support/counter_checkers.h"
#include "tests/support/kill_campaign.h"
#include "tests/support/load_loop.h"
#include "tests/support/model_checker.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/visitor.h"
#include "tests/support/watch_checker.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;
using testing::KillCampaign;

int kills_from_environment(int fallback) {
  const char* text = std::getenv("BULKHEAD_TEST_KILLS");
  return text == nullptr ? fallback : std::atoi(text);
}

class XenstoreFault : public ::testing::Test {
 protected:
  void start(std::map<std::string, std::string> settings = {}) {
    auto host =
        ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", std::move(settings), 1024, "warning"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
  }

  // Runs the campaign under one checker of each kind (several movers, so that transactions conflict) and
  // expects that nobody noticed anything.
  void expect_unnoticed(KillCampaign& campaign) {
    ASSERT_TRUE(campaign.begin()) << campaign.error();
    xs::AnomalyLog log;
    const xs::CheckerSettings settings{host_->socket_path(), "/test", 8};
    xs::LoadLoop loop(settings, log, {});
    ASSERT_TRUE(loop.open().has_value());
    std::size_t added = 0;
    const auto add = [&](std::unique_ptr<xs::Checker> checker) {
      auto done = loop.add(std::move(checker));
      ASSERT_TRUE(done.has_value()) << done.error().message();
      ++added;
    };
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::CounterWriter>(i, settings, log));
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::CounterReader>(i, 2, settings, log));
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::WatchChecker>(i, settings, log));
    for (std::size_t i = 0; i < 3; ++i) add(std::make_unique<xs::TransferChecker>(i, settings, log));
    add(std::make_unique<xs::ModelChecker>(0, settings, log));
    ASSERT_EQ(added, 10U);
    xs::Visitor passerby(host_->socket_path(), log, XS_GET_DOMAIN_PATH, std::string("0\0", 2),
                         std::string("/local/domain/0\0", 16));
    loop.run([&] {
      passerby.step();
      const bool done = campaign.step();
      for (const std::int64_t at : campaign.take_marks()) loop.mark(at);
      return done;
    });
    EXPECT_EQ(campaign.error(), "");
    EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
    for (const auto& checker : loop.checkers())
      EXPECT_GT(checker->completed(), 0U) << checker->name() << " did nothing";
    EXPECT_GT(passerby.visits(), 0);
    report(campaign, loop);
  }

  static void report(const KillCampaign& campaign, const xs::LoadLoop& loop) {
    std::vector<std::int64_t> takeovers = campaign.takeovers();
    std::vector<std::int64_t> answers;
    for (const xs::Mark& mark : loop.marks()) {
      if (mark.answer_ns > 0) answers.push_back(mark.answer_ns);
    }
    if (takeovers.empty() || answers.empty()) return;
    std::ranges::sort(takeovers);
    std::ranges::sort(answers);
    const auto us = [](const std::vector<std::int64_t>& v, std::size_t percent) {
      return v[std::min(v.size() - 1, v.size() * percent / 100)] / 1000;
    };
    std::printf(
        "kills %d, replies %llu; to serving us: p50 %lld p99 %lld; to first answer us: p50 %lld p99 %lld max "
        "%lld\n",
        campaign.kills(), static_cast<unsigned long long>(loop.replies()),
        static_cast<long long>(us(takeovers, 50)), static_cast<long long>(us(takeovers, 99)),
        static_cast<long long>(us(answers, 50)), static_cast<long long>(us(answers, 99)),
        static_cast<long long>(us(answers, 100)));
  }

  std::unique_ptr<ComponentHost> host_;
};

TEST_F(XenstoreFault, RandomKills) {
  start();
  KillCampaign campaign(*host_, {.kills = kills_from_environment(300)});
  expect_unnoticed(campaign);
}

// A journal that wraps and snapshots that are taken all the time.
TEST_F(XenstoreFault, RandomKillsWithTheSmallestJournal) {
  start({{"journal_bytes", "4194304"}});
  KillCampaign campaign(*host_,
                        {.kills = kills_from_environment(200), .max_pause_ns = 30'000'000, .seed = 2});
  expect_unnoticed(campaign);
}

TEST_F(XenstoreFault, FrozenOwnersAreFencedAndSucceeded) {
  start();
  const auto freeze_and_fence = [](ComponentHost& host, ComponentHost::Instance& active,
                                   ComponentHost::Instance&) {
    ::kill(active.pid(), SIGSTOP);
    host.kill(active);
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 30, .strike = freeze_and_fence});
  expect_unnoticed(campaign);
}

TEST_F(XenstoreFault, PlannedHandover) {
  start();
  const auto yield = [](ComponentHost& host, ComponentHost::Instance& active, ComponentHost::Instance&) {
    contract::v1::ToInstance order;
    order.mutable_yield();
    EXPECT_TRUE(host.send(active, order).has_value());
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 50, .strike = yield});
  expect_unnoticed(campaign);
}

// Active and standby die together: the next instance starts cold, from snapshot and journal.
TEST_F(XenstoreFault, BothKilled) {
  start();
  const auto kill_both = [](ComponentHost& host, ComponentHost::Instance& active,
                            ComponentHost::Instance& standby) {
    host.kill(standby);
    host.kill(active);
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 30, .strike = kill_both});
  expect_unnoticed(campaign);
}

// The owner dies before each of its deposits, and with one under way.
TEST_F(XenstoreFault, DiesWhileCustodyIsMade) {
  start();
  EXPECT_GE(testing::die_in_deposits(*host_), 3);
  ASSERT_NE(host_->active(), nullptr);
  xs::AnomalyLog log;
  auto socket = xs::XsClient::connect(host_->socket_path());
  ASSERT_TRUE(socket.has_value());
  xs::XsClient client(std::move(*socket), "client", log);
  EXPECT_TRUE(client.call(XS_WRITE, 0, std::string("/a\0b", 4)).has_value());
  EXPECT_EQ(client.call(XS_READ, 0, std::string("/a\0", 3)), "b");
}

// A record is damaged before a standby reads it: the owner's next snapshot takes the standby past it.
TEST_F(XenstoreFault, DamagedJournalRecord) {
  start();
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  xs::AnomalyLog log;
  auto socket = xs::XsClient::connect(host_->socket_path());
  ASSERT_TRUE(socket.has_value());
  xs::XsClient client(std::move(*socket), "client", log);
  const auto path = [](int i) { return "/a/" + std::to_string(i) + std::string(1, '\0'); };
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(client.call(XS_WRITE, 0, path(i) + std::to_string(i)).has_value());
  }
  auto journal = host_->map("journal", 1 << 16);
  ASSERT_TRUE(journal.has_value());
  *journal->at<std::uint8_t>(4096 + 1000) ^= 0x10;  // in one of the first records' payloads or headers

  auto standby = host_->launch();
  ASSERT_TRUE(standby.has_value());
  ASSERT_TRUE(host_->wait_until([&] {
    host_->ping(*host_->active());  // as the core does; it would see the wish at its next request, too
    return host_->ready_standby() != nullptr;
  }));
  // By the standby, or by the owner's scrub if that was faster.
  auto findings = (*standby)->findings();
  if (findings.empty()) findings = host_->active()->findings();
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].finding(), "journal");
  host_->kill(*host_->active());
  ASSERT_TRUE(host_->wait_until([&] { return (*standby)->active(); }));
  for (int i = 0; i < 100; ++i) EXPECT_EQ(client.call(XS_READ, 0, path(i)), std::to_string(i));
  EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
}

// More than a snapshot can hold: growth is refused, everything else goes on, also after a kill; room is used
// again.
TEST_F(XenstoreFault, StateTooLargeForASnapshot) {
  start({{"journal_bytes", "4194304"}, {"snapshot_bytes", "1048576"}});
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->ready_standby() != nullptr; }));
  xs::AnomalyLog log;
  auto socket = xs::XsClient::connect(host_->socket_path());
  ASSERT_TRUE(socket.has_value());
  xs::XsClient client(std::move(*socket), "client", log);
  const auto path = [](int i) { return "/fill/" + std::to_string(i) + std::string(1, '\0'); };
  const auto write = [&](int i) { return client.call(XS_WRITE, 0, path(i) + std::string(3000, 'x')); };
  int written = 0;
  Result<std::string> last = std::string();
  while (written < 3000 && (last = write(written)).has_value()) ++written;
  ASSERT_FALSE(last.has_value());
  EXPECT_NE(last.error().message().find("ENOSPC"), std::string::npos) << last.error().message();
  EXPECT_GT(written, 300);

  host_->kill(*host_->active());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  EXPECT_FALSE(write(written).has_value());
  EXPECT_TRUE(client.call(XS_READ, 0, path(written - 1)).has_value());
  for (int i = 0; i < written; ++i) ASSERT_TRUE(client.call(XS_RM, 0, path(i)).has_value()) << i;
  const std::int64_t deadline = monotonic_ns() + 20 * kSecond;
  while (!(last = write(0)).has_value() && monotonic_ns() < deadline) std::this_thread::yield();
  EXPECT_TRUE(last.has_value()) << last.error().message();
  EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
}

// Points that a load of domain 0's old clients does not pass. Each is hit, and what was under way comes to
// its end.
TEST_F(XenstoreFault, WhereOnlyNewcomersAndGuestsPass) {
  start();
  xs::AnomalyLog log;
  std::vector<std::unique_ptr<xs::XsClient>> clients;
  const auto connect = [&]() -> xs::XsClient& {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return *clients.emplace_back(std::make_unique<xs::XsClient>(std::move(*socket), "client", log));
  };
  const auto complete = [&] {
    ASSERT_TRUE(host_->wait_until([&] {
      host_->forget_ended();
      if (host_->living() < 2 && !host_->launch()) return false;
      return host_->active() != nullptr && host_->ready_standby() != nullptr;
    }));
  };
  const auto order = [&](const std::string& kind, const std::string& argument) {
    ComponentHost::Instance& active = *host_->active();
    ASSERT_TRUE(host_->inject(active, kind, argument).has_value());
    host_->ping(active);  // answered after the order, if it lives
    ASSERT_TRUE(
        host_->wait_until([&] { return active.vitals().pong == active.vitals().ping || active.ended(); }));
  };
  // As whom a newcomer acts: only domain 0 may write here.
  const auto is_privileged = [&] {
    return connect().call(XS_WRITE, 0, std::string("/of-domain-0\0x", 14)).has_value();
  };
  const auto died = [&](pid_t owner) {
    return host_->wait_until([&] { return host_->active() != nullptr && host_->active()->pid() != owner; });
  };
  for (int round = 0; round < 3; ++round) {
    SCOPED_TRACE(round);
    complete();
    pid_t owner = host_->active()->pid();
    order("crash-at", "slot-prepared");
    EXPECT_TRUE(is_privileged()) << "a newcomer is served by the successor";
    EXPECT_TRUE(died(owner));

    complete();
    owner = host_->active()->pid();
    order("crash-at", "fault-half-set");
    order("as-guest", "5");
    EXPECT_TRUE(died(owner));
    EXPECT_TRUE(is_privileged()) << "the fault was not injected";
    order("as-guest", "5");
    EXPECT_FALSE(is_privileged());

    complete();
    owner = host_->active()->pid();
    xs::XsClient& guest = connect();
    order("crash-at", "boundary-behind");
    for (int i = 0; i < 50; ++i)  // more than its quota of replies not read
      EXPECT_EQ(guest.call(XS_GET_DOMAIN_PATH, 0, std::string("5\0", 2)),
                std::string("/local/domain/5\0", 16));
    EXPECT_TRUE(died(owner));
    ASSERT_TRUE(host_->inject(*host_->active(), "as-guest", "5", -1).has_value());  // over at once
  }
  EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
}

// Every named crash point, in the instance that passes it: each must really be hit, some at several passes.
TEST_F(XenstoreFault, EveryCrashPoint) {
  start({{"journal_bytes", "4194304"}});
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  std::vector<std::string> points(host_->active()->hello().crash_points().begin(),
                                  host_->active()->hello().crash_points().end());
  host_->kill(*host_->active());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() == nullptr; }));
  host_->forget_ended();
  std::erase(points, "custody-deposit");  // passed once in a custody's life: DiesWhileCustodyIsMade
  std::erase(points, "poison-struck");    // takes poison: XenstorePoison.DiesWhileItIsRefused
  std::erase_if(points,
                [](const std::string& point) { return point.starts_with("salvage"); });  // salvage_test.cpp
  // Passed once in a custody's life, if it began with another xenstored's: import_test.cpp.
  std::erase_if(points, [](const std::string& point) { return point.starts_with("import-"); });
  std::erase_if(points, [](const std::string& point) {
    return point.starts_with("follow-");  // before a standby hears of faults: journal_quarantine_test.cpp
  });
  for (const char* point : {"slot-prepared", "boundary-behind", "fault-half-set"})
    std::erase(points, point);  // passed by newcomers and guests only: WhereOnlyNewcomersAndGuestsPass
  // Passed for domains' rings only: xenstore_ring_test.cpp.
  std::erase_if(points, [](const std::string& point) {
    return point.starts_with("ring-") || point == "domain-settled";
  });
  // These take damage: xenstore_damage_test.cpp, commit_test.cpp.
  std::erase_if(points, [](const std::string& point) { return point.starts_with("damage-"); });
  ASSERT_GT(points.size(), 20U);
  std::size_t next = 0;
  std::map<std::string, int> struck;
  const auto strike = [&](ComponentHost& host, ComponentHost::Instance& active,
                          ComponentHost::Instance& standby) {
    const std::string& point = points[next++ % points.size()];
    ++struck[point];
    if (point.starts_with("takeover-")) {
      // The successor dies in its takeover; the campaign starts another one, cold.
      EXPECT_TRUE(host.inject(standby, "crash-at", point).has_value());
      // It answers a ping after it has read the order: not before that may the lease pass to it.
      host.ping(standby);
      EXPECT_TRUE(host.wait_until([&] { return standby.vitals().pong == standby.vitals().ping; }));
      host.kill(active);
      return &standby;
    }
    ComponentHost::Instance& victim =
        point.starts_with("snapshot-") || point == "followed" ? standby : active;
    EXPECT_TRUE(host.inject(victim, "crash-at", point).has_value());
    return &victim;
  };
  KillCampaign campaign(*host_, {.kills = static_cast<int>(points.size()) * 3, .strike = strike});
  expect_unnoticed(campaign);
  if (!campaign.error().empty()) ADD_FAILURE() << "at " << points[(next - 1) % points.size()];
  for (const auto& point : points) EXPECT_GE(struck[point], 3) << point;
}

}  // namespace
}  // namespace bulkhead
