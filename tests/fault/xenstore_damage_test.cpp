// Bits flip in what custody holds of clients, under the real service: the damage is found before anything
// wrong is executed or sent, whom it concerns is cut off and named, nobody else notices.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/socket.h>
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
constexpr xenstore::Geometry kGeometry{kConnections, 16 * 1024, 1 << 20};

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
    auto connections = host_->map("connections", xenstore::connections_bytes(kGeometry));
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
    ASSERT_TRUE(host_->wait_until([&] { return host_->active() == standby; }));
  }

  static void freeze(const ComponentHost::Instance& instance) {
    siginfo_t info{};
    ASSERT_EQ(::kill(instance.pid(), SIGSTOP), 0);
    ASSERT_EQ(::waitid(P_PID, static_cast<id_t>(instance.pid()), &info, WSTOPPED), 0);
  }

  Slot* slots() { return connections_.at<Slot>(0); }
  // Where the bytes of a stream's offset stand.
  std::byte& input_byte(Slot& slot, std::uint64_t offset) {
    const std::size_t at = (offset - slot.in_base.load()) & (kGeometry.in_bytes - 1);
    return buffers()[index_of(slot) * kGeometry.in_bytes + at];
  }
  std::byte& output_byte(Slot& slot, std::uint64_t offset) {
    const std::size_t at = (offset - slot.out_base.load()) & (kGeometry.out_bytes - 1);
    return buffers()[kConnections * std::size_t{kGeometry.in_bytes} + index_of(slot) * kGeometry.out_bytes +
                     at];
  }
  std::size_t index_of(Slot& slot) { return static_cast<std::size_t>(&slot - slots()); }
  std::byte* buffers() { return connections_.data() + (kConnections * sizeof(Slot) + 4095) / 4096 * 4096; }

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
  // What the living instances told the core, one line each.
  std::string findings() {
    std::string text;
    for (const auto* instance : {host_->active(), host_->ready_standby()}) {
      if (instance == nullptr) continue;
      for (const auto& finding : instance->findings()) {
        text += finding.finding() + ": " + finding.evidence() + " [" + finding.client() + "]\n";
      }
    }
    return text;
  }
  // It may be told after the client is cut off.
  void expect_found(const std::string& text) {
    EXPECT_TRUE(host_->wait_until([&] { return findings().find(text) != std::string::npos; }))
        << text << " is not in:\n"
        << findings();
  }
  // Asks for a large value again and again and reads nothing, until replies wait in the service.
  void let_replies_wait(xs::XsClient& client, const Slot& slot) {
    ASSERT_TRUE(bystander_->call(XS_WRITE, 0, with_nul("/big") + std::string(4000, 'x')).has_value());
    for (int i = 0; i < 2000; ++i) client.send(XS_READ, 0, with_nul("/big"));
    ASSERT_TRUE(host_->wait_until([&] {
      client.flush();
      return slot.produced.load() - slot.sent.load() > 200'000;
    }));
    for (int i = 0; i < 20; ++i) ASSERT_TRUE(bystander_->call(XS_READ, 0, with_nul("/big")).has_value());
  }
  // Reads all there is, until the client is cut off; nothing of it may be wrong.
  void expect_only_right_replies(xs::XsClient& client) {
    struct Ears : xs::Listener {
      int heard = 0;
      int wrong = 0;
      void on_reply(const xs::Reply& reply) override {
        ++heard;
        wrong += reply.payload == std::string(4000, 'x') ? 0 : 1;
      }
      void on_event(xs::XsClient&, std::string_view, std::string_view) override {}
    } ears;
    EXPECT_TRUE(host_->wait_until([&] {
      client.receive(ears);
      return !client.connected();
    }));
    EXPECT_GT(ears.heard, 0);
    EXPECT_EQ(ears.wrong, 0);
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
    expect_found("client: connection ");
    expect_found("is damaged in custody");
    if (i != 4) {  // whose name is what was damaged
      expect_found("[" + name);
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
  expect_found("was found to be damaged");
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

// The bit flips while the owner serves, or just before it dies.
TEST_F(XenstoreDamage, WaitingOutputIsNotSentIfItIsDamaged) {
  for (const bool of_the_dead : {false, true}) {
    SCOPED_TRACE(of_the_dead);
    victim_ = connect("victim", victims_log_);
    ASSERT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
    Slot& slot = victims_slot();
    const std::string name = name_of(slot);
    let_replies_wait(*victim_, slot);
    const auto flip = [&] {
      output_byte(slot, (slot.sent.load() + slot.produced.load()) / 2) ^= std::byte{32};
    };
    of_the_dead ? take_over(flip) : flip();
    expect_only_right_replies(*victim_);
    EXPECT_TRUE(host_->wait_until([&] { return !host_->active()->findings().empty(); }));
    expect_found("its output): cut off [" + name + "]");
    expect_bystander_unharmed();
    restore();
  }
}

TEST_F(XenstoreDamage, WaitingInputIsNotExecutedIfItIsDamaged) {
  for (const bool of_the_dead : {false, true}) {
    SCOPED_TRACE(of_the_dead);
    auto socket = xs::XsClient::connect(host_->socket_path());
    ASSERT_TRUE(socket.has_value());
    const std::string payload = with_nul("/wrong") + std::string(100, 'w');
    const xsd_sockmsg header{XS_WRITE, 1, 0, static_cast<std::uint32_t>(payload.size())};
    const std::string request = std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
    ASSERT_EQ(::send(socket->get(), request.data(), 60, 0), 60);
    Slot* slot = nullptr;
    ASSERT_TRUE(host_->wait_until([&] {
      slot = &victims_slot();
      return slot->received.load() == 60 && slot->parsed.load() == 0 && slot->rest_seal.load() != 0;
    }));
    const std::string name = name_of(*slot);
    const auto flip = [&] { input_byte(*slot, 20) ^= std::byte{1}; };  // in the path
    of_the_dead ? take_over(flip) : flip();
    (void)::send(socket->get(), request.data() + 60, request.size() - 60, MSG_NOSIGNAL);
    // The end, not an answer. (A reset, if the service had not read all of it.)
    char byte = 0;
    EXPECT_LE(::recv(socket->get(), &byte, 1, 0), 0);
    EXPECT_TRUE(host_->wait_until([&] { return !host_->active()->findings().empty(); }));
    expect_found("its input): cut off [" + name + "]");
    expect_bystander_unharmed();
    EXPECT_THAT(bystander_->call(XS_DIRECTORY, 0, with_nul("/")).value_or("rong"), Not(HasSubstr("rong")));
    restore();
  }
}

// Positions of a client that just waits for an event: found when it speaks again, before old bytes become a
// request once more.
TEST_F(XenstoreDamage, PositionsOfAnIdleClientAreChecked) {
  Slot& slot = victims_slot();
  ASSERT_TRUE(host_->wait_until([&] { return slot.rest_seal.load() != 0; }));
  slot.parsed.fetch_sub(20);
  victim_->send(XS_READ, 0, with_nul("/kept"));
  victim_->flush();
  expect_cut_off(*victim_);
  expect_bystander_unharmed();
}

// Nobody has to speak or die for it to be found.
TEST_F(XenstoreDamage, IsFoundOfAnIdleClient) {
  const std::vector<std::function<void(Slot&)>> damages{
      [](Slot& slot) { slot.parsed ^= 16; }, [](Slot& slot) { slot.received ^= 4; },
      [](Slot& slot) { slot.sent ^= 1; }, [](Slot& slot) { slot.produced ^= 32; },
      [](Slot& slot) { slot.rest_seal ^= 1; }};
  for (std::size_t i = 0; i < damages.size(); ++i) {
    SCOPED_TRACE(i);
    Slot& slot = victims_slot();
    const std::string name = name_of(slot);
    ASSERT_TRUE(host_->wait_until([&] { return slot.rest_seal.load() != 0; }));
    damages[i](slot);
    expect_cut_off(*victim_);
    expect_found("cut off [" + name + "]");
    EXPECT_TRUE(host_->wait_until([&] { return slot.state.load() == SlotState::kFree; }));
    expect_bystander_unharmed();
    victim_ = connect("victim", victims_log_);
    ASSERT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
  }
}

// A record of the journal, then the published snapshot: the owner knows what they said and replaces them,
// before anybody has to start from them.
TEST_F(XenstoreDamage, OfJournalAndSnapshotIsMendedInTime) {
  const auto journal = host_->map("journal", 1 << 16);
  ASSERT_TRUE(journal.has_value());
  const auto expect_mended = [&](const std::string& what, const std::function<void()>& damage) {
    const std::uint64_t published = control().published.load();
    damage();
    ASSERT_TRUE(host_->wait_until([&] { return control().published.load() != published; })) << what;
    expect_found(what);  // by the owner, or by a standby that was just reading it
    expect_bystander_unharmed();
    // Everybody dies: what is in custody can be read.
    host_->kill(*host_->ready_standby());
    host_->kill(*host_->active());
    ASSERT_TRUE(host_->wait_until([&] { return host_->living() == 0; }));
    restore();
    expect_bystander_unharmed();
    EXPECT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
  };
  expect_mended("journal: journal damaged at position 0",
                [&] { journal->data()[4096 + 10] ^= std::byte{1}; });
  const std::size_t slot = control().published.load() & 3;
  const auto snapshot = host_->map("snapshot-" + std::to_string(slot), 1 << 16);
  ASSERT_TRUE(snapshot.has_value());
  expect_mended("snapshot: the published snapshot is damaged",
                [&] { snapshot->data()[xenstore::kSnapshotData + 30] ^= std::byte{1}; });
}

TEST_F(XenstoreDamage, CheckSaysWhatWasChecked) {
  std::string said;
  ASSERT_TRUE(host_->wait_until([&] {
    said = bystander_->call(XS_CONTROL, 0, with_nul("check")).value_or("failed");
    return said.find("not yet complete") == std::string::npos;
  }));
  EXPECT_THAT(said, ::testing::StartsWith("OK\ncustody: 2 connections checked, last pass "));
  EXPECT_THAT(said, HasSubstr("damages found: 0"));
  victims_slot().parsed.fetch_sub(20);
  expect_cut_off(*victim_);
  EXPECT_THAT(bystander_->call(XS_CONTROL, 0, with_nul("check")).value_or("failed"),
              HasSubstr("damages found: 1"));
}

// What an operator can rehearse: bulkhead inject xenstore corrupt PLACE.
TEST_F(XenstoreDamage, CanBeRehearsed) {
  const auto corrupt = [&](const char* place) {
    ASSERT_TRUE(host_->inject(*host_->active(), "corrupt", place).has_value());
    host_->ping(*host_->active());  // answered after the order
    ASSERT_TRUE(
        host_->wait_until([&] { return host_->active()->vitals().pong == host_->active()->vitals().ping; }));
  };
  corrupt("slot");
  victim_->send(XS_READ, 0, with_nul("/kept"));
  victim_->flush();
  expect_cut_off(*victim_);
  expect_found("its output): cut off");
  expect_bystander_unharmed();

  victim_ = connect("victim", victims_log_);
  ASSERT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
  let_replies_wait(*victim_, victims_slot());
  corrupt("output");
  expect_only_right_replies(*victim_);
  expect_bystander_unharmed();

  victim_ = connect("victim", victims_log_);
  ASSERT_TRUE(victim_->call(XS_READ, 0, with_nul("/kept")).has_value());
  ASSERT_EQ(::send(victim_->socket().get(), "half a header", 13, 0), 13);
  ASSERT_TRUE(host_->wait_until([&] {
    const Slot& slot = victims_slot();
    return slot.received.load() - slot.parsed.load() == 13 && slot.rest_seal.load() != 0;
  }));
  corrupt("input");
  (void)::send(victim_->socket().get(), "the rest of it, and more", 24, MSG_NOSIGNAL);  // cut off already?
  expect_cut_off(*victim_);
  expect_found("its input): cut off");
  expect_bystander_unharmed();
}

TEST_F(XenstoreDamage, ADamagedCommitCanBeRehearsed) {
  ComponentHost::Instance* standby = host_->ready_standby();
  ASSERT_TRUE(host_->inject(*host_->active(), "corrupt", "commit").has_value());
  victim_->send(XS_WRITE, 0, with_nul("/kept") + "other");
  victim_->flush();
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() == standby; }));
  expect_cut_off(*victim_);
  EXPECT_THAT(host_->active()->takeover().note(), HasSubstr("is damaged"));
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
  expect_found("was found to be damaged");
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
