// Requests and connections that kill whoever serves them: the second death is the last, the sender is blamed,
// nobody else notices more than two take-overs.
#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "runtime/clock.h"
#include "tests/support/component_host.h"
#include "tests/support/xs_client.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;

std::string with_nul(std::string text) {
  return text + '\0';
}

class XenstorePoison : public ::testing::Test {
 protected:
  void SetUp() override {
    auto host = ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", {}, 1024, "off"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
    ASSERT_TRUE(host_->launch().has_value());
    restore();
    ASSERT_TRUE(host_->inject(*host_->active(), "poison", "").has_value());
    bystander_ = connect("bystander", log_);
    ASSERT_TRUE(bystander_->call(XS_WRITE, 0, with_nul("/kept") + "value").has_value());
  }

  std::unique_ptr<xs::XsClient> connect(const std::string& name, xs::AnomalyLog& log) {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log);
  }
  std::unique_ptr<xs::XsClient> sender() { return connect("sender", senders_log_); }

  // An active instance and a ready standby, however many have to be launched for it.
  void restore() {
    ASSERT_TRUE(host_->wait_until([&] {
      host_->forget_ended();
      if (host_->living() < 2 && !host_->launch().has_value()) return false;
      return host_->active() != nullptr && host_->ready_standby() != nullptr;
    }));
  }

  // Sends a request and keeps instances coming, as the core does, until `done`; what hangs is killed.
  void serve_until(const std::function<bool()>& done, bool hangs) {
    const std::int64_t deadline = monotonic_ns() + 30 * kSecond;
    while (!done() && monotonic_ns() < deadline) {
      if (ComponentHost::Instance* active = host_->active(); active != nullptr && hangs) {
        // A ping that is not answered while the process sleeps: here the test knows that it will not be.
        host_->ping(*active);
        const auto answered = [&] { return active->vitals().pong == active->vitals().ping || done(); };
        if (!host_->wait_until(answered, 500)) host_->kill(*active);
      }
      host_->pump(1);
      host_->forget_ended();
      if (host_->living() < 2) {
        ASSERT_TRUE(host_->launch().has_value());
      }
    }
    EXPECT_TRUE(done());
  }

  // What the sender of `request` hears: the reply's payload; "cut off" if it loses its connection.
  std::string answer(xs::XsClient& client, xsd_sockmsg_type type, const std::string& payload,
                     bool hangs = false) {
    Heard heard;
    client.send(type, 0, payload);
    serve_until([&] { return heard.listen(client); }, hangs);
    return heard.text;
  }

  struct Heard : xs::Listener {
    std::string text;
    bool listen(xs::XsClient& client) {
      client.flush();
      client.receive(*this);
      if (!client.connected() && text.empty()) text = "cut off";
      return !text.empty();
    }
    void on_reply(const xs::Reply& reply) override { text = std::string(reply.payload); }
    void on_event(xs::XsClient&, std::string_view, std::string_view) override {}
  };

  void expect_bystander_unharmed() {
    restore();
    EXPECT_EQ(bystander_->call(XS_READ, 0, with_nul("/kept")), "value");
    EXPECT_TRUE(bystander_->call(XS_WRITE, 0, with_nul("/kept") + "value").has_value());
    EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
  }

  xs::AnomalyLog log_;
  xs::AnomalyLog senders_log_;  // who is cut off is disconnected: no anomaly of ours
  std::unique_ptr<ComponentHost> host_;
  std::unique_ptr<xs::XsClient> bystander_;
};

TEST_F(XenstorePoison, ARequestThatKillsTwiceIsRefused) {
  for (const char* kind : {"crash", "reply"}) {
    auto poisoner = sender();
    EXPECT_EQ(answer(*poisoner, XS_WRITE, with_nul(std::string("/poison/") + kind) + "x"), "EIO") << kind;
    expect_bystander_unharmed();
    EXPECT_EQ(poisoner->call(XS_READ, 0, with_nul("/kept")), "value") << "one such request is forgiven";
    EXPECT_FALSE(
        poisoner->call(XS_READ, 0, with_nul(std::string("/poison/") + kind + "/not-made")).has_value());
    const auto& takeover = host_->active()->takeover();
    EXPECT_EQ(takeover.refused(), 1U) << kind;
    EXPECT_TRUE(takeover.blamed_client().starts_with("connection ")) << takeover.blamed_client();
    EXPECT_NE(takeover.note().find("WRITE \"/poison/"), std::string::npos) << takeover.note();
  }
}

TEST_F(XenstorePoison, ARequestThatHangsOrBlowsUpMemoryIsRefused) {
  for (const char* kind : {"hang", "memory"}) {
    auto poisoner = sender();
    EXPECT_EQ(answer(*poisoner, XS_READ, with_nul(std::string("/poison/") + kind), true), "EIO") << kind;
    expect_bystander_unharmed();
  }
}

TEST_F(XenstorePoison, WhoSendsItAgainAndAgainIsCutOff) {
  auto poisoner = sender();
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(answer(*poisoner, XS_READ, with_nul("/poison/crash")), "EIO") << i;
    expect_bystander_unharmed();
  }
  EXPECT_EQ(answer(*poisoner, XS_READ, with_nul("/poison/crash")), "cut off");
  expect_bystander_unharmed();
  EXPECT_NE(host_->active()->takeover().note().find("which is cut off"), std::string::npos);
}

TEST_F(XenstorePoison, AConnectionThatKillsThreeTimesIsCutOff) {
  auto poisoner = sender();
  EXPECT_EQ(answer(*poisoner, XS_READ, with_nul("/poison/connection")), "cut off");
  expect_bystander_unharmed();
  EXPECT_NE(host_->active()->takeover().note().find("was cut off"), std::string::npos)
      << host_->active()->takeover().note();
}

// It holds the core's whole pair, again and again, while others go on: only the poison's own requests fail.
TEST_F(XenstorePoison, OthersGoOnWhilePoisonKeepsComing) {
  for (int i = 0; i < 5; ++i) {
    auto poisoner = sender();
    EXPECT_EQ(answer(*poisoner, XS_WRITE, with_nul("/poison/crash") + "x"), "EIO");
    expect_bystander_unharmed();
  }
}

// The owner executes it well; each standby dies of it in the journal. The third is taken past it.
TEST_F(XenstorePoison, ARequestThatKillsWhoFollowsIsNotFollowedAThirdTime) {
  ASSERT_TRUE(bystander_->call(XS_MKDIR, 0, with_nul("/poison")).has_value());
  ASSERT_TRUE(bystander_->call(XS_SET_PERMS, 0, with_nul("/poison") + with_nul("n5")).has_value());
  ComponentHost::Instance& owner = *host_->active();
  ASSERT_TRUE(host_->inject(owner, "as-guest", "5").has_value());
  host_->ping(owner);  // answered after the order
  ASSERT_TRUE(host_->wait_until([&] { return owner.vitals().pong == owner.vitals().ping; }));
  auto guest = sender();
  const pid_t first = host_->ready_standby()->pid();
  ASSERT_TRUE(guest->call(XS_WRITE, 0, with_nul("/poison/follow") + "x").has_value());
  int launched = 0;
  ASSERT_TRUE(host_->wait_until(
      [&] {
        host_->forget_ended();
        if (host_->living() < 2) {
          ++launched;
          if (!host_->launch()) return false;
        }
        host_->ping(owner);  // as the core does; its next request would wake it, too
        const auto* standby = host_->ready_standby();
        return standby != nullptr && standby->pid() != first;
      },
      30'000));
  EXPECT_EQ(launched, 2) << "the second one dies, the third one does not";
  ASSERT_EQ(host_->active(), &owner) << "its owner is not to suffer";
  const auto& findings = host_->ready_standby()->findings();
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].finding(), "poison");
  EXPECT_NE(findings[0].evidence().find("WRITE \"/poison/follow.x\" of domain 5"), std::string::npos)
      << findings[0].evidence();
  const pid_t heir = host_->ready_standby()->pid();
  host_->kill(owner);
  ASSERT_TRUE(
      host_->wait_until([&] { return host_->active() != nullptr && host_->active()->pid() == heir; }));
  EXPECT_EQ(guest->call(XS_READ, 0, with_nul("/poison/follow")), "x");
  expect_bystander_unharmed();
}

// The owner dies between counting it against the sender and refusing it: its successor counts it no second
// time.
TEST_F(XenstorePoison, DiesWhileItIsRefused) {
  auto poisoner = sender();
  for (int i = 0; i < 2; ++i) {
    // Two die of it, the third one while it refuses it; the fourth refuses it.
    restore();
    std::vector<ComponentHost::Instance*> standbys{host_->ready_standby()};
    while (host_->living() < 4) standbys.push_back(*host_->launch());
    for (ComponentHost::Instance* standby : standbys) {
      ASSERT_TRUE(host_->wait_until([&] { return standby->ready(); }));
      // One that has just died of the last round's poison may not be known to have ended: nothing to arm.
      if (!host_->inject(*standby, "crash-at", "poison-struck")) continue;
      host_->ping(*standby);  // answered after the order
      ASSERT_TRUE(host_->wait_until(
          [&] { return standby->vitals().pong == standby->vitals().ping || standby->ended(); }));
    }
    EXPECT_EQ(answer(*poisoner, XS_READ, with_nul("/poison/crash")), "EIO") << i;
    expect_bystander_unharmed();
  }
}

}  // namespace
}  // namespace bulkhead
