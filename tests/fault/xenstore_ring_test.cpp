// Domains' rings over the local hypervisor: guests and the host's own kernel live through every death of
// their xenstore, and a domain that breaks the rules of the ring loses its own connection and nothing else.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <random>
#include <string>
#include <thread>

#include "hypervisor/local/machine_process.h"
#include "runtime/clock.h"
#include "tests/support/counter_checkers.h"
#include "tests/support/guest.h"
#include "tests/support/hostile_socket.h"
#include "tests/support/kill_campaign.h"
#include "tests/support/load_loop.h"
#include "tests/support/model_checker.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/visitor.h"
#include "tests/support/watch_checker.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;
using testing::Guest;
using testing::GuestProxy;
using ::testing::HasSubstr;
using testing::KillCampaign;

std::string nul(std::string text) {
  std::ranges::replace(text, '|', '\0');
  return text;
}

int kills_from_environment(int fallback) {
  const char* text = std::getenv("BULKHEAD_TEST_KILLS");
  return text == nullptr ? fallback : std::atoi(text);
}

class XenstoreRing : public ::testing::Test {
 protected:
  void start(std::map<std::string, std::string> settings = {}) {
    auto machine = hypervisor::local::MachineProcess::start(BULKHEAD_BIN "/bulkhead-local-hypervisor");
    ASSERT_TRUE(machine.has_value()) << machine.error().message();
    machine_ = std::move(*machine);
    settings["hypervisor"] = machine_->spec();
    // Checking clients want more than a guest gets by default.
    for (const char* quota : {"nodes", "watches", "transactions", "transaction-nodes", "outstanding"}) {
      settings.try_emplace(std::string("quota-") + quota, "100000");
    }
    auto host = ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", std::move(settings), 1024,
                                       std::getenv("BULKHEAD_TEST_LOG") == nullptr ? "off" : "info"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
  }
  void start_serving() {
    ASSERT_TRUE(host_->launch().has_value());
    ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
    complete();
    toolstack_ = connect("toolstack");
  }
  void complete() {
    ASSERT_TRUE(host_->wait_until([&] {
      host_->forget_ended();
      if (host_->living() < 2 && !host_->launch()) return false;
      return host_->active() != nullptr && host_->ready_standby() != nullptr;
    }));
  }
  std::unique_ptr<xs::XsClient> connect(const std::string& name) {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log_);
  }
  // A domain that the toolstack knows.
  std::unique_ptr<Guest> introduce(std::optional<hypervisor::Domid> domid = std::nullopt) {
    auto guest = Guest::create(machine_->socket(), domid);
    EXPECT_TRUE(guest.has_value());
    EXPECT_TRUE(toolstack_->call(XS_INTRODUCE, 0, (*guest)->introduction()).has_value());
    EXPECT_TRUE(toolstack_->call(XS_WRITE, 0, home(**guest) + nul("|")).has_value());
    EXPECT_TRUE(
        toolstack_->call(XS_SET_PERMS, 0, home(**guest) + nul("|n" + std::to_string((*guest)->domid()) + "|"))
            .has_value());
    return std::move(*guest);
  }
  std::unique_ptr<xs::XsClient> client_of(Guest& guest) {
    auto socket = guest.connect();
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), "guest " + std::to_string(guest.domid()), log_);
  }
  // '|' stands for NUL.
  static std::string message(std::uint32_t type, const std::string& payload) {
    return xs::wire_message(type, 0, nul(payload));
  }
  // Past the guest's driver; as much as there is room for.
  static std::size_t say(Guest& guest, std::string_view bytes) {
    const std::size_t put = guest.put(bytes);
    guest.notify();
    return put;
  }
  static std::string home(const Guest& guest) {
    return "/local/domain/" + std::to_string(const_cast<Guest&>(guest).domid());
  }
  bool connected(Guest& guest) {
    return host_->wait_until(
        [&] { return Guest::word(guest.ring().connection).load() == XENSTORE_CONNECTED; });
  }
  bool cut_off(Guest& guest, std::uint32_t error) {
    return host_->wait_until([&] { return Guest::word(guest.ring().error).load() == error; });
  }
  // Everything is as before for everybody else.
  void expect_others_unaffected() {
    EXPECT_TRUE(toolstack_->call(XS_WRITE, 0, nul("/others|x")).has_value());
    auto other = introduce();
    auto client = client_of(*other);
    EXPECT_TRUE(client->call(XS_WRITE, 0, nul("data|x")).has_value());
    EXPECT_EQ(client->call(XS_READ, 0, nul("data|")), "x");
    EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
  }
  std::string findings() {
    std::string all;
    if (host_->active() == nullptr) return all;
    for (const auto& finding : host_->active()->findings()) {
      all += finding.finding() + ": " + finding.evidence() + " [" + finding.client() + "]\n";
    }
    return all;
  }
  // The line of the quota table.
  std::string used(Guest& guest, const std::string& what) {
    const auto table = toolstack_->call(XS_CONTROL, 0, nul("quota|" + std::to_string(guest.domid()) + "|"));
    if (!table) return "none";
    const std::size_t at = table->find(what);
    return table->substr(at, table->find('\n', at) - at);
  }
  // Has reached the active instance when this returns, if that still lives.
  void order(const std::string& kind, const std::string& argument) {
    ComponentHost::Instance& active = *host_->active();
    ASSERT_TRUE(host_->inject(active, kind, argument).has_value());
    host_->ping(active);
    ASSERT_TRUE(
        host_->wait_until([&] { return active.vitals().pong == active.vitals().ping || active.ended(); }));
  }
  std::string list(const std::string& path) {
    auto names = toolstack_->call(XS_DIRECTORY, 0, nul(path + "|"));
    return names ? *names : names.error().message();
  }

  // Checking clients, each through a ring of its own (one has the kernel's), and kills.
  void expect_unnoticed(KillCampaign& campaign) {
    auto kernel = Guest::create(machine_->socket(), 0);
    ASSERT_TRUE(kernel.has_value()) << kernel.error().message();
    ASSERT_TRUE(campaign.begin()) << campaign.error();
    const std::string path = host_->socket_path() + ".guests";
    auto proxy = GuestProxy::listen(path, machine_->socket(), host_->socket_path());
    ASSERT_TRUE(proxy.has_value()) << proxy.error().message();
    const xs::CheckerSettings settings{path, "/test", 8};
    const xs::CheckerSettings of_kernel{(*kernel)->listen_at(host_->socket_path() + ".kernel").value(),
                                        "/test", 8};
    xs::LoadLoop loop({host_->socket_path(), "/test", 8}, log_, {});
    ASSERT_TRUE(loop.open().has_value());
    toolstack_ = connect("toolstack");
    for (const char* node : {"/test", "/test/probe"}) {
      ASSERT_TRUE(toolstack_->call(XS_SET_PERMS, 0, nul(std::string(node) + "|b0|")).has_value());
    }
    std::size_t added = 0;
    const auto add = [&](std::unique_ptr<xs::Checker> checker) {
      auto done = loop.add(std::move(checker));
      ASSERT_TRUE(done.has_value()) << done.error().message();
      ++added;
    };
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::CounterWriter>(i, settings, log_));
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::CounterReader>(i, 2, settings, log_));
    add(std::make_unique<xs::WatchChecker>(0, settings, log_));
    for (std::size_t i = 0; i < 2; ++i) add(std::make_unique<xs::TransferChecker>(i, settings, log_));
    add(std::make_unique<xs::ModelChecker>(0, of_kernel, log_));
    ASSERT_EQ(added, 8U);
    // Comes to life, asks one thing, and is gone: domains are introduced and end all the time.
    xs::Visitor mayfly(path, log_, XS_READ, nul("/test/probe|"));
    loop.run([&] {
      mayfly.step();
      const bool done = campaign.step();
      for (const std::int64_t at : campaign.take_marks()) loop.mark(at);
      return done;
    });
    EXPECT_EQ(campaign.error(), "");
    EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
    for (const auto& checker : loop.checkers())
      EXPECT_GT(checker->completed(), 0U) << checker->name() << " did nothing";
    EXPECT_GT(mayfly.visits(), 0);
    EXPECT_GT((*proxy)->guests(), 8);
    EXPECT_THAT((*proxy)->finish(), ::testing::IsEmpty());
    EXPECT_THAT((*kernel)->complaints(), ::testing::IsEmpty());
    std::printf("kills %d, replies %llu, domains %d\n", campaign.kills(),
                static_cast<unsigned long long>(loop.replies()), (*proxy)->guests());
  }

  std::unique_ptr<hypervisor::local::MachineProcess> machine_;
  std::unique_ptr<ComponentHost> host_;
  xs::AnomalyLog log_;
  std::unique_ptr<xs::XsClient> toolstack_;
};

// ---- service ----

TEST_F(XenstoreRing, AGuestIsServedFromItsIntroductionToItsEnd) {
  start();
  start_serving();
  auto guest = introduce();
  const std::string path = home(*guest);
  ASSERT_TRUE(connected(*guest));
  EXPECT_EQ(Guest::word(guest->ring().server_features).load(), 7U);
  auto client = client_of(*guest);
  ASSERT_TRUE(client->call(XS_WRITE, 0, nul("data/x|hello")).has_value());
  EXPECT_EQ(toolstack_->call(XS_READ, 0, nul(path + "/data/x|")), "hello");
  EXPECT_EQ(client->call(XS_GET_DOMAIN_PATH, 0, nul(std::to_string(guest->domid()) + "|")), nul(path + "|"));
  EXPECT_FALSE(client->call(XS_INTRODUCE, 0, nul("77|1|1|")).has_value());
  // More than the ring holds, both ways.
  const std::string large(2000, 'x');
  ASSERT_TRUE(client->call(XS_WRITE, 0, nul("data/large|") + large).has_value());
  EXPECT_EQ(client->call(XS_READ, 0, nul("data/large|")), large);

  xs::AnomalyLog log;
  struct Events : xs::Listener {
    std::vector<std::string> paths;
    void on_reply(const xs::Reply&) override {}
    void on_event(xs::XsClient&, std::string_view at, std::string_view) override { paths.emplace_back(at); }
  } events;
  ASSERT_TRUE(toolstack_->call(XS_WATCH, 0, nul("@releaseDomain|end|"), &events).has_value());
  ASSERT_TRUE(guest->domain().shut_down().has_value());
  ASSERT_TRUE(host_->wait_until([&] {
    toolstack_->receive(events);
    return events.paths.size() == 2;
  })) << "of the watch itself, and of the shutdown";
  EXPECT_EQ(client->call(XS_READ, 0, nul("data/x|")), "hello") << "it is still there";
  guest.reset();
  ASSERT_TRUE(host_->wait_until([&] {
    toolstack_->receive(events);
    return events.paths.size() == 3;
  }));
  EXPECT_EQ(list(path), "ENOENT");
  EXPECT_EQ(toolstack_->call(XS_IS_DOMAIN_INTRODUCED, 0, nul(path.substr(path.rfind('/') + 1) + "|")),
            nul("F|"));
  expect_others_unaffected();
}

TEST_F(XenstoreRing, TheHostsKernelIsServedFromTheStart) {
  start();
  auto kernel = Guest::create(machine_->socket(), 0);
  ASSERT_TRUE(kernel.has_value());
  start_serving();
  ASSERT_TRUE(connected(**kernel));
  auto client = client_of(**kernel);
  EXPECT_TRUE(client->call(XS_WRITE, 0, nul("/by/the/kernel|x")).has_value());
  EXPECT_EQ(toolstack_->call(XS_GET_PERMS, 0, nul("/by|")), nul("n0|"));
}

TEST_F(XenstoreRing, WhatCannotBeIntroducedIsRefused) {
  start();
  start_serving();
  auto guest = Guest::create(machine_->socket());
  ASSERT_TRUE(guest.has_value());
  const std::string domid = std::to_string((*guest)->domid());
  const auto refused = [&](const std::string& payload) {
    auto answer = toolstack_->call(XS_INTRODUCE, 0, nul(payload));
    return !answer && answer.error().message().find("EINVAL") != std::string::npos;
  };
  EXPECT_TRUE(refused(domid + "|1|4711|")) << "it has no such port";
  EXPECT_TRUE(refused("4711|1|1|")) << "there is no such domain";
  EXPECT_EQ(toolstack_->call(XS_IS_DOMAIN_INTRODUCED, 0, nul(domid + "|")), nul("F|"));
  EXPECT_TRUE(toolstack_->call(XS_INTRODUCE, 0, (*guest)->introduction()).has_value());
  EXPECT_TRUE(connected(**guest));
}

// The toolstack may make a new event channel for a domain that it has introduced.
TEST_F(XenstoreRing, AnotherIntroductionBeginsAnew) {
  start();
  start_serving();
  auto guest = introduce();
  for (int round = 0; round < 3; ++round) {
    Guest::word(guest->ring().req_prod).store(77);  // in the middle of something
    Guest::word(guest->ring().connection).store(XENSTORE_RECONNECT);
    ASSERT_TRUE(toolstack_->call(XS_INTRODUCE, 0, guest->introduction()).has_value());
    ASSERT_TRUE(connected(*guest));
    EXPECT_EQ(Guest::word(guest->ring().req_prod).load(), 0U);
  }
  auto client = client_of(*guest);
  EXPECT_TRUE(client->call(XS_WRITE, 0, nul("data|x")).has_value());
}

TEST_F(XenstoreRing, ADomainThatIsReleasedIsNotServedAnyMore) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  ASSERT_TRUE(toolstack_->call(XS_RELEASE, 0, nul(std::to_string(guest->domid()) + "|")).has_value());
  EXPECT_EQ(list(home(*guest)), "ENOENT");
  // Its page is let go by both, so that its memory can be freed.
  const auto mapped = [&](pid_t pid) {
    std::FILE* file = std::fopen(("/proc/" + std::to_string(pid) + "/maps").c_str(), "re");
    bool found = false;
    char line[512];
    while (file != nullptr && std::fgets(line, sizeof line, file) != nullptr) {
      // Its grants, which are kept read-only, are the local hypervisor's affair.
      found = found || (std::strstr(line, "memfd:domain") != nullptr && std::strstr(line, "rw-s") != nullptr);
    }
    if (file != nullptr) std::fclose(file);
    return found;
  };
  EXPECT_TRUE(host_->wait_until(
      [&] { return !mapped(host_->active()->pid()) && !mapped(host_->ready_standby()->pid()); }));
  EXPECT_TRUE(toolstack_->call(XS_INTRODUCE, 0, guest->introduction()).has_value()) << "and may come back";
}

// ---- deaths ----

// The event channels' descriptor is one more thing that a first owner makes and may not have handed over.
TEST_F(XenstoreRing, DiesWhileCustodyIsMade) {
  start();
  EXPECT_GE(testing::die_in_deposits(*host_), 3);
  ASSERT_NE(host_->active(), nullptr);
  toolstack_ = connect("toolstack");
  expect_others_unaffected();
  host_->kill(*host_->active());
  complete();
  expect_others_unaffected();
}

TEST_F(XenstoreRing, RandomKills) {
  start();
  KillCampaign campaign(*host_, {.kills = kills_from_environment(150)});
  expect_unnoticed(campaign);
}

TEST_F(XenstoreRing, EveryCrashPoint) {
  start();
  std::vector<std::string> points;
  std::map<std::string, int> deaths;
  std::size_t next = 0;
  const auto strike = [&](ComponentHost& host, ComponentHost::Instance& active,
                          ComponentHost::Instance& standby) -> ComponentHost::Instance* {
    if (points.empty()) {
      for (const auto& point : active.hello().crash_points()) {
        // Where a hostile domain is needed: ADomainIsCutOffThoughItsOwnerDies.
        const auto begins = [&](const char* with) { return point.starts_with(with); };
        const bool passed = (begins("ring-") && point != "ring-silenced") || begins("domain-") ||
                            begins("request-") || begins("commit") || begins("input-") ||
                            point == "send-sealed" || point == "boundary-behind" ||
                            point == "close-committed" || begins("checkpoint-");
        if (passed) points.push_back(point);
      }
    }
    const std::string& point = points[next++ % points.size()];
    (void)standby;
    EXPECT_TRUE(host.inject(active, "crash-at", point).has_value());
    ++deaths[point];
    return &active;
  };
  KillCampaign campaign(*host_, {.kills = 100, .strike = strike});
  expect_unnoticed(campaign);
  EXPECT_GE(points.size(), 20U);
}

// ---- hostile domains ----

TEST_F(XenstoreRing, ImpossibleIndexesCostTheirDomainItsConnection) {
  start();
  start_serving();
  for (const std::uint32_t index : {1025U, 0x80000000U, 0xFFFFFFFFU}) {
    auto guest = introduce();
    ASSERT_TRUE(connected(*guest));
    Guest::word(guest->ring().req_prod).store(index);
    guest->notify();
    EXPECT_TRUE(cut_off(*guest, XENSTORE_ERROR_RINGIDX));
    expect_others_unaffected();
  }
  // The core is told of one a second.
  EXPECT_THAT(findings(), HasSubstr("set an impossible index of its requests: cut off [domain 1]"));
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  Guest::word(guest->ring().rsp_cons).store(5);
  ASSERT_TRUE(toolstack_->call(XS_SET_PERMS, 0, nul("/others|n0|r" + std::to_string(guest->domid()) + "|"))
                  .has_value());
  say(*guest, message(XS_READ, "/others|"));
  EXPECT_TRUE(cut_off(*guest, XENSTORE_ERROR_RINGIDX));
  expect_others_unaffected();
}

TEST_F(XenstoreRing, GarbageCostsItsDomainItsConnection) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  std::memset(guest->ring().req, 0x5A, sizeof guest->ring().req);
  Guest::word(guest->ring().req_prod).store(1024);
  guest->notify();
  EXPECT_TRUE(cut_off(*guest, XENSTORE_ERROR_PROTO));
  EXPECT_THAT(findings(), HasSubstr("domain " + std::to_string(guest->domid())));
  // Also for a successor it is cut off.
  host_->kill(*host_->active());
  complete();
  Guest::word(guest->ring().error).store(0);
  Guest::word(guest->ring().req_prod).store(2048);
  guest->notify();
  expect_others_unaffected();
  EXPECT_EQ(Guest::word(guest->ring().req_cons).load(), 1024U);
  // Until it begins anew.
  Guest::word(guest->ring().connection).store(XENSTORE_RECONNECT);
  guest->notify();
  ASSERT_TRUE(connected(*guest));
  EXPECT_EQ(Guest::word(guest->ring().error).load(), 0U);
  auto client = client_of(*guest);
  EXPECT_TRUE(client->call(XS_WRITE, 0, nul("data|x")).has_value());
}

TEST_F(XenstoreRing, ReconnectionDropsWatchesTransactionsAndHalfMessages) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  // A whole WATCH and half a message behind it.
  say(*guest, message(XS_WATCH, "data|t|") + std::string(10, '\0'));
  ASSERT_TRUE(host_->wait_until([&] { return Guest::word(guest->ring().rsp_prod).load() > 0; }));
  EXPECT_THAT(used(*guest, "watches"), HasSubstr(" 1"));
  for (int round = 0; round < 20; ++round) {
    Guest::word(guest->ring().connection).store(XENSTORE_RECONNECT);
    guest->notify();
    ASSERT_TRUE(connected(*guest)) << round;
  }
  EXPECT_THAT(used(*guest, "watches"), HasSubstr(" 0"));
  auto client = client_of(*guest);
  EXPECT_TRUE(client->call(XS_WRITE, 0, nul("data|x")).has_value());
  expect_others_unaffected();
}

// Marked as cut off, and then its owner dies: so it is for the successor, watches and all.
TEST_F(XenstoreRing, ADomainIsCutOffThoughItsOwnerDies) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  say(*guest, message(XS_WATCH, "data|t|"));
  ASSERT_TRUE(host_->wait_until([&] { return Guest::word(guest->ring().rsp_prod).load() > 0; }));
  const pid_t owner = host_->active()->pid();
  order("crash-at", "ring-silenced");
  Guest::word(guest->ring().req_prod).store(5000);
  guest->notify();
  ASSERT_TRUE(
      host_->wait_until([&] { return host_->active() != nullptr && host_->active()->pid() != owner; }));
  complete();
  EXPECT_NE(Guest::word(guest->ring().error).load(), 0U);
  EXPECT_THAT(used(*guest, "watches"), HasSubstr(" 0"));
  expect_others_unaffected();
}

// A request that kills its owners: refused, its domain is named, and after three of them cut off for good.
TEST_F(XenstoreRing, PoisonIsBlamedOnItsDomain) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  const std::string name = "domain " + std::to_string(guest->domid());
  for (int strike = 1; strike <= 3; ++strike) {
    SCOPED_TRACE(strike);
    const pid_t owner = host_->active()->pid();
    order("poison", "");
    // A whole message behind what was asked before.
    say(*guest, message(XS_WRITE, "/poison/crash|x"));
    ASSERT_TRUE(host_->wait_until([&] {
      host_->forget_ended();
      if (host_->living() < 2 && !host_->launch()) return false;
      const auto* active = host_->active();
      return active != nullptr && active->pid() != owner && active->takeover().refused() == 1;
    }));
    EXPECT_EQ(host_->active()->takeover().blamed_client(), name);
    complete();
  }
  EXPECT_TRUE(cut_off(*guest, XENSTORE_ERROR_COMM));
  Guest::word(guest->ring().connection).store(XENSTORE_RECONNECT);
  guest->notify();
  expect_others_unaffected();
  EXPECT_EQ(Guest::word(guest->ring().connection).load(), XENSTORE_RECONNECT) << "it has no second chance";
  ASSERT_TRUE(toolstack_->call(XS_INTRODUCE, 0, guest->introduction()).has_value());
  EXPECT_TRUE(connected(*guest)) << "but the toolstack can give it one";
}

// What custody holds of its connection is damaged: the domain is not told anything wrong, and goes on.
TEST_F(XenstoreRing, ADamagedConnectionBeginsAnew) {
  start();
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  auto client = client_of(*guest);
  ASSERT_TRUE(client->call(XS_WRITE, 0, nul("data|x")).has_value());
  order("corrupt", "slot");
  client->send(XS_READ, 0, nul("data|"));
  client->flush();
  ASSERT_TRUE(host_->wait_until([&] {
    host_->ping(*host_->active());
    return findings().find("begins anew") != std::string::npos;
  }));
  EXPECT_THAT(findings(), HasSubstr("[domain " + std::to_string(guest->domid()) + "]"));
  client.reset();
  ASSERT_TRUE(host_->wait_until([&] { return guest->ended(); }));
  EXPECT_EQ(list(home(*guest)), nul("data|"));
  expect_others_unaffected();
}

// Pages that change under our eyes: indexes, connection state, requests, whatever. A quiet guest works
// meanwhile, and the service lives.
TEST_F(XenstoreRing, DomainsThatWriteAnythingAnywhereHurtNobody) {
  start();
  start_serving();
  const pid_t owner = host_->active()->pid();
  const pid_t standby = host_->ready_standby()->pid();
  std::vector<std::unique_ptr<Guest>> abusers;
  for (int i = 0; i < 3; ++i) {
    abusers.push_back(introduce());
    ASSERT_TRUE(connected(*abusers.back()));
  }
  std::atomic<bool> enough = false;
  std::thread abuse([&] {
    std::mt19937 random(7);
    const auto below = [&](std::uint32_t bound) { return static_cast<std::uint32_t>(random() % bound); };
    // A message whose header is sometimes true.
    const auto write_message = [&](xenstore_domain_interface& ring, std::uint32_t at) {
      const xsd_sockmsg header{below(30), below(3), below(3), below(4) == 0 ? below(6000) : below(60)};
      for (std::uint32_t i = 0; i < sizeof header; ++i) {
        ring.req[MASK_XENSTORE_IDX(at + i)] = reinterpret_cast<const char*>(&header)[i];
      }
      for (std::uint32_t i = sizeof header; i < 100; ++i) {
        ring.req[MASK_XENSTORE_IDX(at + i)] = "/a\0b@1x\0"[below(9)];
      }
    };
    while (!enough) {
      Guest& guest = *abusers[below(3)];
      xenstore_domain_interface& ring = guest.ring();
      const std::uint32_t consumed = Guest::word(ring.req_cons).load();
      switch (below(8)) {
        case 0:
          Guest::word(ring.req_prod)
              .store(below(2) == 0 ? consumed + below(1100) : static_cast<std::uint32_t>(random()));
          break;
        case 1:
          Guest::word(ring.rsp_cons).store(Guest::word(ring.rsp_prod).load() - below(1100));
          break;
        case 2:
          Guest::word(ring.req_cons).store(static_cast<std::uint32_t>(random()));
          Guest::word(ring.rsp_prod).store(static_cast<std::uint32_t>(random()));
          break;
        case 3:
          Guest::word(ring.connection).store(below(3));
          break;
        default:
          write_message(ring, consumed);
          Guest::word(ring.req_prod).store(consumed + 16 + below(60));
          Guest::word(ring.rsp_cons).store(Guest::word(ring.rsp_prod).load());
      }
      guest.notify();
    }
  });
  auto quiet = introduce();
  auto client = client_of(*quiet);
  const std::int64_t until = monotonic_ns() + 2 * kSecond;
  int asked = 0;
  for (; monotonic_ns() < until; ++asked) {
    const std::string value = std::to_string(asked);
    ASSERT_TRUE(client->call(XS_WRITE, 0, nul("data|" + value)).has_value());
    ASSERT_EQ(client->call(XS_READ, 0, nul("data|")), value);
  }
  enough = true;
  abuse.join();
  host_->pump(0);
  EXPECT_EQ(host_->active()->pid(), owner);
  EXPECT_EQ(host_->ready_standby()->pid(), standby);
  expect_others_unaffected();
  std::printf("requests of the quiet guest: %d\n", asked);
}

// A domain that never reads waits; its memory is bounded, and nobody waits with it.
TEST_F(XenstoreRing, ADomainThatNeverReadsIsNotWaitedFor) {
  start({{"quota-outstanding", "20"}});
  start_serving();
  auto guest = introduce();
  ASSERT_TRUE(connected(*guest));
  ASSERT_TRUE(toolstack_->call(XS_WRITE, 0, nul(home(*guest) + "/v|") + std::string(2000, 'v')).has_value());
  const std::string request = message(XS_READ, "v|");
  std::string requests;
  for (int i = 0; i < 500; ++i) requests += request;
  std::string_view rest = requests;
  ASSERT_TRUE(host_->wait_until([&] {
    rest.remove_prefix(say(*guest, rest));
    return rest.empty();
  }));
  EXPECT_EQ(Guest::word(guest->ring().rsp_prod).load(), 1024U);
  expect_others_unaffected();
  host_->kill(*host_->active());
  complete();
  // It begins to read: every answer is there once.
  auto client = client_of(*guest);
  std::string heard;
  const std::size_t expected = 500 * (sizeof(xsd_sockmsg) + 2000);
  ASSERT_TRUE(host_->wait_until([&] {
    char buffer[65536];
    const ssize_t n = ::recv(client->socket().get(), buffer, sizeof buffer, MSG_DONTWAIT);
    if (n > 0) heard.append(buffer, static_cast<std::size_t>(n));
    return heard.size() >= expected;
  }));
  EXPECT_EQ(heard.size(), expected);
}

}  // namespace
}  // namespace bulkhead
