// Bits flip in what custody holds of clients, under the real service: the damage is found before anything
// wrong is executed or sent, whom it concerns is cut off and named, nobody else notices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/wait.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "components/xenstore/layout.h"
#include "runtime/clock.h"
#include "tests/support/component_host.h"
#include "tests/support/xs_client.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;
using ::testing::HasSubstr;
using ::testing::Not;
using xenstore::Slot;
using xenstore::SlotState;

constexpr std::uint32_t kConnections = 64;

std::string with_nul(std::string text) {
  return text + '\0';
}

class XenstoreDamage : public ::testing::Test {
 protected:
  void SetUp() override {
    auto host = ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored",
                                       {{"max_connections", std::to_string(kConnections)}},
                                       1024,
                                       "off"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
    ASSERT_TRUE(host_->launch().has_value());
    restore();
    bystander_ = connect("bystander", log_);
    ASSERT_TRUE(bystander_->call(XS_WRITE, 0, with_nul("/kept") + "value").has_value());
    victim_ = connect("victim", victims_log_);
    ASSERT_TRUE(victim_->call(XS_WATCH, 0, with_nul("/kept") + with_nul("token")).has_value());
    const xenstore::Geometry geometry{kConnections, 16 * 1024, 1 << 20};
    auto connections = host_->map("connections", xenstore::connections_bytes(geometry));
    ASSERT_TRUE(connections.has_value()) << connections.error().message();
    connections_ = std::move(*connections);
    auto control = host_->map("control", xenstore::control_bytes(kConnections));
    ASSERT_TRUE(control.has_value()) << control.error().message();
    control_ = std::move(*control);
  }

  std::unique_ptr<xs::XsClient> connect(const std::string& name, xs::AnomalyLog& log) {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log);
  }
  // An active instance and a ready standby, however many have to be launched for it.
  void restore() {
    ASSERT_TRUE(host_->wait_until([&] {
      host_->forget_ended();
      if (host_->living() < 2 && !host_->launch().has_value()) return false;
      return host_->active() != nullptr && host_->ready_standby() != nullptr;
    }));
  }
  // Nothing of the owner's hides the damage or is disturbed by it before it is dead.
  void take_over(const std::function<void()>& damage = {}) {
    ComponentHost::Instance* standby = host_->ready_standby();
    ASSERT_NE(standby, nullptr);
    freeze(*host_->active());
    if (damage) damage();
    host_->kill(*host_->active());
    ASSERT_TRUE(host_->wait_until([&] { return standby->active(); }));
  }

  static void freeze(const ComponentHost::Instance& instance) {
    siginfo_t info{};
    ASSERT_EQ(::kill(instance.pid(), SIGSTOP), 0);
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(instance.pid()), &info, WSTOPPED), 0);
  }

  Slot* slots() { return connections_.at<Slot>(0); }
  xenstore::Control& control() { return *control_.at<xenstore::Control>(0); }
  // The connection made last.
  Slot& victims_slot() {
    Slot* newest = slots();
    for (std::uint32_t i = 0; i < kConnections; ++i) {
      if (slots()[i].state.load() == SlotState::kOpen && slots()[i].serial.load() > newest->serial.load())
        newest = slots() + i;
    }
    return *newest;
  }

  void expect_cut_off(xs::XsClient& client) {
    struct Ears : xs::Listener {
      int heard = 0;
      void on_reply(const xs::Reply&) override { ++heard; }
      void on_event(xs::XsClient&, std::string_view, std::string_view) override {}
    } ears;
    EXPECT_TRUE(host_->wait_until([&] {
      client.receive(ears);
      return !client.connected();
    }));
    EXPECT_EQ(ears.heard, 0);
  }
  void expect_bystander_unharmed() {
    EXPECT_EQ(bystander_->call(XS_READ, 0, with_nul("/kept")), "value");
    EXPECT_TRUE(bystander_->call(XS_WRITE, 0, with_nul("/kept") + "value").has_value());
    EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
  }
  // What the active instance told the core, one line each.
  std::string findings() {
    std::string text;
    for (const auto& finding : host_->active()->findings()) {
      text += finding.finding() + ": " + finding.evidence() + " [" + finding.client() + "]\n";
    }
    return text;
  }
  std::string name_of(const Slot& slot) { return "connection " + std::to_string(slot.serial.load()); }

  xs::AnomalyLog log_;
  xs::AnomalyLog victims_log_;  // who is cut off is disconnected: no anomaly of ours
  std::unique_ptr<ComponentHost> host_;
  std::unique_ptr<xs::XsClient> bystander_;
  std::unique_ptr<xs::XsClient> victim_;
  Mapping connections_;
  Mapping control_;
};

// Each in turn: the victim is cut off at the take-over, and its slot serves the next client.
TEST_F(XenstoreDamage, ASlotThatCannotBeTrueCostsItsClientOnly) {
  const std::vector<std::function<void(Slot&)>> damages{
      [](Slot& slot) { slot.state.store(static_cast<SlotState>(5)); },
      [](Slot& slot) { slot.state.store(SlotState::kFree); },
      [](Slot& slot) { slot.state.store(SlotState::kClosing); },
      [](Slot& slot) { slot.domid ^= 1; },
      [](Slot& slot) { slot.serial ^= std::uint64_t{1} << 40; },
      [](Slot& slot) { slot.received ^= std::uint64_t{1} << 20; },
      [](Slot& slot) { slot.parsed ^= std::uint64_t{1} << 63; },
      [](Slot& slot) { slot.produced ^= std::uint64_t{1} << 33; },
      [](Slot& slot) { slot.sent ^= std::uint64_t{1} << 25; },
      [](Slot& slot) { slot.in_base ^= std::uint64_t{1} << 50; },
      [](Slot& slot) { slot.out_base ^= std::uint64_t{1} << 50; },
      [](Slot& slot) { slot.boundary ^= 1; },
      [](Slot& slot) { slot.overflowed ^= 16; },
      [](Slot& slot) { slot.end_of_input ^= 2; },
  };
  for (std::size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(i);
    Slot& slot = victims_slot();
    const std::string name = name_of(slot);
    take_over([&] { damages[i](slot); });
    expect_cut_off(*victim_);
    EXPECT_THAT(findings(), HasSubstr("client: connection "));
    EXPECT_THAT(findings(), HasSubstr("is damaged in custody"));
    if (i != 4) {  // whose name is what was damaged
      EXPECT_THAT(findings(), HasSubstr("[" + name));
    }
    EXPECT_EQ(host_->active()->findings().size(), 1U) << findings();
    expect_bystander_unharmed();
    EXPECT_TRUE(host_->wait_until([&] { return slot.state.load() == SlotState::kFree; }));
    restore();
    victim_ = connect("victim", victims_log_);
    ASSERT_TRUE(victim_->call(XS_WATCH, 0, with_nul("/kept") + with_nul("token")).has_value());
  }
}

// The finder dies before the damaged connection is closed.
TEST_F(XenstoreDamage, ItsFinderDies) {
  ComponentHost::Instance* finder = host_->ready_standby();
  ASSERT_TRUE(host_->inject(*finder, "crash-at", "damage-written-off").has_value());
  host_->ping(*finder);  // answered after the order
  ASSERT_TRUE(host_->wait_until([&] { return finder->vitals().pong == finder->vitals().ping; }));
  freeze(*host_->active());
  victims_slot().produced ^= std::uint64_t{1} << 33;
  host_->kill(*host_->active());
  ASSERT_TRUE(host_->wait_until([&] { return finder->ended(); }));
  restore();
  expect_cut_off(*victim_);
  EXPECT_THAT(findings(), HasSubstr("was found to be damaged"));
  expect_bystander_unharmed();
}

TEST_F(XenstoreDamage, TheNumberOfUsedSlotsIsRepaired) {
  for (const std::uint32_t wrong : {0U, 1U, 0x80000002U}) {
    take_over([&] { control().slots_used.store(wrong); });
    expect_bystander_unharmed();
    EXPECT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
    EXPECT_THAT(findings(), Not(HasSubstr("client")));
    restore();
  }
}

// What names the ring is no reason to close everybody.
TEST_F(XenstoreDamage, TheRingsGenerationIsRepaired) {
  const std::uint64_t right = control().ring_generation.load();
  take_over([&] { control().ring_generation ^= 4; });
  expect_bystander_unharmed();
  EXPECT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
  EXPECT_EQ(control().ring_generation.load(), right);
}

// Nobody can know whom the commit moved: all are cut off, the state goes on, and the core is told.
TEST_F(XenstoreDamage, ACommitThatCannotBeReadClosesEveryConnection) {
  // Of the last one's parity: what stands there is not its own.
  take_over([&] { control().committed.fetch_add(2); });
  expect_cut_off(*victim_);
  struct Deaf : xs::Listener {
    void on_reply(const xs::Reply&) override {}
    void on_event(xs::XsClient&, std::string_view, std::string_view) override {}
  } deaf;
  EXPECT_TRUE(host_->wait_until([&] {
    bystander_->receive(deaf);
    return !bystander_->connected();
  }));
  EXPECT_THAT(host_->active()->takeover().note(), HasSubstr("is damaged"));
  EXPECT_THAT(host_->active()->takeover().note(), HasSubstr("all connections were closed"));
  EXPECT_THAT(findings(), HasSubstr("was found to be damaged"));
  restore();
  xs::AnomalyLog log;
  auto next = connect("next", log);
  EXPECT_EQ(next->call(XS_READ, 0, with_nul("/kept")), "value");
  EXPECT_TRUE(next->call(XS_WRITE, 0, with_nul("/kept") + "other").has_value());
  take_over();  // and the commits after it are whole again
  EXPECT_EQ(next->call(XS_READ, 0, with_nul("/kept")), "other");
  EXPECT_EQ(log.total(), 0U) << ::testing::PrintToString(log.described());
}

}  // namespace
}  // namespace bulkhead
