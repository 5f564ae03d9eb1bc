// Guests at their limits: each binds while it must, nobody waits any longer than that, and the operator is
// told.
#include <gtest/gtest.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string>

#include "bulkhead/v1/bulkhead.pb.h"
#include "components/xenstore/layout.h"
#include "tests/support/component_host.h"
#include "tests/support/xs_client.h"

namespace bulkhead {
namespace {

using testing::ComponentHost;

struct Heard : xs::Listener {
  int replies = 0;
  void on_reply(const xs::Reply&) override { ++replies; }
  void on_event(xs::XsClient&, std::string_view, std::string_view) override {}
};

class XenstoreThrottle : public ::testing::Test {
 protected:
  // Clients that connect from now on act for domain 5; `toolstack_` does not.
  void start(std::map<std::string, std::string> settings = {}) {
    auto host =
        ComponentHost::create({BULKHEAD_BIN "/bulkhead-xenstored", std::move(settings), 1024, "warning"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
    ASSERT_TRUE(host_->launch().has_value());
    ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
    toolstack_ = connect("toolstack");
    ASSERT_TRUE(toolstack_->call(XS_WRITE, 0, path(std::string(4000, 'x'))).has_value());
    ASSERT_TRUE(toolstack_->call(XS_SET_PERMS, 0, path(std::string("n0\0b5\0", 6))).has_value());
    ASSERT_TRUE(host_->inject(*host_->active(), "as-guest", "5").has_value());
    host_->ping(*host_->active());  // answered after the order
    ASSERT_TRUE(
        host_->wait_until([&] { return host_->active()->vitals().pong == host_->active()->vitals().ping; }));
  }
  std::unique_ptr<xs::XsClient> connect(const std::string& name) {
    auto socket = xs::XsClient::connect(host_->socket_path());
    EXPECT_TRUE(socket.has_value());
    return std::make_unique<xs::XsClient>(std::move(*socket), name, log_);
  }
  static std::string path(const std::string& rest = "") { return "/shared" + std::string(1, '\0') + rest; }

  // By then whatever was sent before has had its turn.
  void let_time_pass(int round_trips) {
    for (int i = 0; i < round_trips; ++i) ASSERT_TRUE(toolstack_->call(XS_READ, 0, path()).has_value());
  }
  bool hears(xs::XsClient& client, Heard& heard, int replies) {
    return host_->wait_until([&] {
      client.receive(heard);
      return heard.replies == replies;
    });
  }
  // Another client of domain 5 that has asked, while its domain has too many replies to read.
  struct Waiting {
    std::unique_ptr<xs::XsClient> client;
    Heard heard;
  };
  Waiting ask_in_vain() {
    Waiting other{connect("other"), {}};
    other.client->send(XS_READ, 0, path());
    other.client->flush();
    expect_no_answer(other);
    return other;
  }
  void expect_no_answer(Waiting& other) {
    let_time_pass(50);
    other.client->receive(other.heard);
    EXPECT_EQ(other.heard.replies, 0) << "its domain has too many replies to read";
  }
  bool is_answered(Waiting& other) { return hears(*other.client, other.heard, 1); }
  // Replies that domain 5 has not read.
  int outstanding() {
    const std::string question = "quota" + std::string(1, '\0') + "5" + '\0';
    return number_behind(toolstack_->call(XS_CONTROL, 0, question).value_or(""), "outstanding");
  }
  static int number_behind(const std::string& table, const std::string& name) {
    const std::size_t row = table.find(name);
    const std::size_t number = table.find_first_of("0123456789", row);
    int value = -1;
    if (row != std::string::npos && number != std::string::npos)
      std::from_chars(table.data() + number, table.data() + table.size(), value);
    return value;
  }
  // A limit that CONTROL shows for all domains.
  int limit(const std::string& name) {
    const std::string table = toolstack_->call(XS_CONTROL, 0, std::string("quota\0", 6)).value_or("");
    return number_behind(table, name);
  }
  // As the API does it.
  void set_quota(const std::string& name, std::uint64_t value, const std::string& subject) {
    v1::SetQuotaRequest request;
    request.set_name(name);
    request.set_value(value);
    request.set_subject(subject);
    contract::v1::ToInstance order;
    order.mutable_query()->set_id(1);
    order.mutable_query()->set_what("set-quota");
    order.mutable_query()->set_body(request.SerializeAsString());
    ASSERT_TRUE(host_->send(*host_->active(), order).has_value());
  }
  // Does not read until so many replies wait in the service, behind what its socket takes.
  void ask_without_reading(xs::XsClient& deaf, int replies) {
    while (outstanding() < replies) {
      const std::uint64_t done = host_->active()->vitals().work_done;
      deaf.send(XS_READ, 0, path());
      deaf.flush();
      ASSERT_TRUE(host_->wait_until([&] { return host_->active()->vitals().work_done == done + 1; }));
    }
    ASSERT_EQ(outstanding(), replies);
  }
  std::string begin_transaction() {
    return toolstack_->call(XS_TRANSACTION_START, 0, std::string(1, '\0')).value_or("");
  }
  // Reads and writes what the guest writes all the time. True if it could be committed.
  bool change_in(const std::string& transaction) {
    const auto id = static_cast<std::uint32_t>(std::stoul(transaction));
    EXPECT_TRUE(toolstack_->call(XS_READ, id, path()).has_value());
    EXPECT_TRUE(toolstack_->call(XS_WRITE, id, path("mine")).has_value());
    return toolstack_->call(XS_TRANSACTION_END, id, std::string("T\0", 2)).has_value();
  }

  xs::AnomalyLog log_;
  std::unique_ptr<ComponentHost> host_;
  std::unique_ptr<xs::XsClient> toolstack_;
};

// A write a second, and half a minute's worth of them: nothing here takes that long.
TEST_F(XenstoreThrottle, AGuestWritesAtItsRateWhileTheToolstackHasATransaction) {
  start({{"write_rate", "1"}, {"write_burst", "3"}});
  constexpr int kWrites = 60;
  auto guest = connect("guest");
  Heard heard;
  std::string transaction = begin_transaction();
  ASSERT_NE(transaction, "");
  for (int i = 0; i < kWrites; ++i) guest->send(XS_WRITE, 0, path(std::to_string(i)));
  guest->flush();
  ASSERT_TRUE(host_->wait_until([&] {
    guest->receive(heard);
    return heard.replies >= 3;
  }));
  let_time_pass(200);
  guest->receive(heard);
  EXPECT_LT(heard.replies, kWrites / 2) << "the guest is not held back";

  int attempts = 1;
  while (!change_in(transaction) && ++attempts < 20) transaction = begin_transaction();
  EXPECT_LT(attempts, 20) << "the toolstack does not get through";
  guest->receive(heard);
  EXPECT_LT(heard.replies, kWrites) << "it got through only when the guest had ended";
  EXPECT_TRUE(hears(*guest, heard, kWrites)) << "a guest waits for a transaction that has ended";
  EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
}

// Other domains' transactions hold nobody back.
TEST_F(XenstoreThrottle, AGuestsOwnTransactionDoesNotHoldItBack) {
  start({{"write_rate", "1"}, {"write_burst", "1"}});
  auto other = connect("other");
  ASSERT_TRUE(other->call(XS_TRANSACTION_START, 0, std::string(1, '\0')).has_value());
  auto guest = connect("guest");
  Heard heard;
  for (int i = 0; i < 60; ++i) guest->send(XS_WRITE, 0, path(std::to_string(i)));
  guest->flush();
  EXPECT_TRUE(hears(*guest, heard, 60));
}

// Replies that one connection of a guest does not read hold up the guest's other ones; not for ever, in
// whatever way it ends.
TEST_F(XenstoreThrottle, AGuestGoesOnWhenItsConnectionThatDidNotReadIsGone) {
  enum class End : unsigned char { kLeaves, kLeavesWithMoreToAsk, kIsCutOff };
  start();
  for (const End end : {End::kLeaves, End::kLeavesWithMoreToAsk, End::kIsCutOff}) {
    SCOPED_TRACE(static_cast<int>(end));
    auto deaf = connect("deaf");
    ask_without_reading(*deaf, 20);
    for (int i = 0; end == End::kLeavesWithMoreToAsk && i < 50; ++i) deaf->send(XS_READ, 0, path());
    deaf->flush();
    Waiting other = ask_in_vain();
    if (end == End::kIsCutOff) {
      deaf->send(XS_WRITE, 0, std::string(5000, 'x'));  // more than the protocol allows
      deaf->flush();
    } else {
      deaf.reset();
    }
    EXPECT_TRUE(is_answered(other));
  }
  EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
}

// A limit that is raised is raised for those who wait.
TEST_F(XenstoreThrottle, AGuestGoesOnWhenItMayHaveMore) {
  start();
  auto deaf = connect("deaf");
  ask_without_reading(*deaf, 20);
  Waiting other = ask_in_vain();
  set_quota("outstanding", 30, "domain 5");
  EXPECT_TRUE(is_answered(other));
}

// A bit flips in a request that has been received and has to wait: it is not executed when its turn comes at
// last.
TEST_F(XenstoreThrottle, WhatWaitsIsNotExecutedIfItIsDamaged) {
  constexpr xenstore::Geometry kGeometry{64, 16 * 1024, 1 << 20};
  start({{"max_connections", std::to_string(kGeometry.max_connections)}});
  const auto connections = host_->map("connections", xenstore::connections_bytes(kGeometry));
  ASSERT_TRUE(connections.has_value()) << connections.error().message();
  auto deaf = connect("deaf");
  ask_without_reading(*deaf, 20);
  Waiting other = ask_in_vain();
  auto* const slots = connections->at<xenstore::Slot>(0);
  const auto* const newest =
      std::max_element(slots, slots + kGeometry.max_connections,
                       [](const auto& a, const auto& b) { return a.serial.load() < b.serial.load(); });
  ASSERT_EQ(newest->received.load() - newest->parsed.load(), sizeof(xsd_sockmsg) + path().size());
  const std::size_t after_slots = (kGeometry.max_connections * sizeof(xenstore::Slot) + 4095) / 4096 * 4096;
  const std::size_t in_path = newest->parsed.load() - newest->in_base.load() + sizeof(xsd_sockmsg) + 3;
  connections
      ->data()[after_slots + static_cast<std::size_t>(newest - slots) * kGeometry.in_bytes + in_path] ^=
      std::byte{1};
  set_quota("outstanding", 30, "domain 5");
  EXPECT_TRUE(host_->wait_until([&] {
    other.client->receive(other.heard);
    return !other.client->connected();
  }));
  EXPECT_EQ(other.heard.replies, 0);
}

// The settings are a fresh store's limits; later the state's are, whatever the next owner's settings say.
TEST_F(XenstoreThrottle, LimitsComeFromTheSettingsOnce) {
  start({{"quota-outstanding", "7"}, {"quota-watches", "33"}});
  EXPECT_EQ(limit("watches"), 33);
  EXPECT_EQ(limit("outstanding"), 7);
  auto deaf = connect("deaf");
  ask_without_reading(*deaf, 7);
  Waiting other = ask_in_vain();
  set_quota("watches", 44, "");
  expect_no_answer(other);
  ASSERT_TRUE(host_->wait_until([&] { return limit("watches") == 44; }));
  host_->kill(*host_->active());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() == nullptr; }));
  ASSERT_TRUE(host_->launch().has_value());
  ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  EXPECT_EQ(limit("watches"), 44);
  EXPECT_EQ(limit("outstanding"), 7);
}

// Once, when it comes up to it.
TEST_F(XenstoreThrottle, TheOperatorIsToldOfAGuestsMemory) {
  start({{"quota-soft-memory", "2000"}});
  auto guest = connect("guest");
  const auto watch = [&](char token) {
    return guest->call(XS_WATCH, 0, path(std::string(900, token) + '\0')).has_value();
  };
  ASSERT_TRUE(watch('a') && watch('b'));
  host_->pump(0);
  EXPECT_TRUE(host_->active()->findings().empty());
  ASSERT_TRUE(watch('c'));
  ASSERT_TRUE(host_->wait_until([&] { return !host_->active()->findings().empty(); }));
  ASSERT_TRUE(watch('d') && watch('e'));
  let_time_pass(5);
  host_->pump(0);
  ASSERT_EQ(host_->active()->findings().size(), 1U);
  EXPECT_EQ(host_->active()->findings()[0].finding(), "quota");
  EXPECT_EQ(host_->active()->findings()[0].client(), "domain 5");
}

// The same when it reads at last.
TEST_F(XenstoreThrottle, AGuestGoesOnWhenItHasRead) {
  start();
  auto slow = connect("slow");
  ask_without_reading(*slow, 20);
  Waiting other = ask_in_vain();
  Heard late;
  EXPECT_TRUE(host_->wait_until([&] {
    slow->receive(late);
    other.client->receive(other.heard);
    return other.heard.replies == 1;
  }));
  EXPECT_EQ(log_.total(), 0U) << ::testing::PrintToString(log_.described());
}

}  // namespace
}  // namespace bulkhead
