// The checking clients find nothing wrong with Debian's xenstored, and find every fault a proxy puts in its
// way.
#include <gtest/gtest.h>

#include <functional>
#include <memory>

#include "tests/support/counter_checkers.h"
#include "tests/support/fault_proxy.h"
#include "tests/support/load_loop.h"
#include "tests/support/load_report.h"
#include "tests/support/model_checker.h"
#include "tests/support/stock_daemon.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/watch_checker.h"

namespace bulkhead::xs {
namespace {

using MakeChecker = std::function<std::unique_ptr<Checker>(const CheckerSettings&, AnomalyLog&)>;

template <typename T>
MakeChecker make(size_t index = 0) {
  return [index](const CheckerSettings& settings, AnomalyLog& log) {
    return std::make_unique<T>(index, settings, log);
  };
}

MakeChecker make_reader() {
  return [](const CheckerSettings& settings, AnomalyLog& log) {
    return std::make_unique<CounterReader>(0, 1, settings, log);
  };
}

struct Case {
  const char* name;
  MakeChecker checker;
  FaultPlan plan;
  Anomaly found;
};

std::ostream& operator<<(std::ostream& out, const Case& tested) {
  return out << tested.name;
}

constexpr uint64_t kNth = 200;
constexpr uint64_t kRepliesAfterwards = 500;
constexpr int64_t kDeadlineNs = int64_t{20} * 1000000000;
constexpr LoadLoop::Limits kLimits{.reply_deadline_ns = 400000000, .drain_deadline_ns = 2000000000};

class StockDaemonTest : public testing::Test {
 protected:
  void SetUp() override {
    const Status started = daemon_.start();
    ASSERT_TRUE(started) << started.error().message();
  }

  StockDaemon daemon_;
  TempFolder folder_;
  AnomalyLog log_;
};

TEST_F(StockDaemonTest, EveryCheckerAgreesWithIt) {
  const CheckerSettings settings{daemon_.socket_path(), "/check", 16};
  LoadLoop loop(settings, log_, {});
  ASSERT_TRUE(loop.open());
  std::vector<MakeChecker> makers{make<CounterWriter>(), make_reader(), make<ModelChecker>()};
  for (size_t i = 0; i < 3; ++i) {
    makers.push_back(make<TransferChecker>(i));
    makers.push_back(make<WatchChecker>(i));
  }
  for (const MakeChecker& maker : makers) ASSERT_TRUE(loop.add(maker(settings, log_)));
  loop.mark(monotonic_ns());
  const int64_t end = monotonic_ns() + kDeadlineNs;
  loop.run([&] { return loop.replies() > 100000 || monotonic_ns() > end; });

  EXPECT_GT(loop.replies(), 100000U);
  EXPECT_EQ(log_.total(), 0U) << report_text(make_report(loop, log_, 0));
  for (const auto& checker : loop.checkers()) EXPECT_GT(checker->completed(), 0U) << checker->name();
  ASSERT_EQ(loop.marks().size(), 1U);
  EXPECT_GT(loop.marks().front().answer_ns, 0);
}

TEST_F(StockDaemonTest, ConcurrentTransfersConflictAndAreAudited) {
  const CheckerSettings settings{daemon_.socket_path(), "/check", 1};
  LoadLoop loop(settings, log_, {});
  ASSERT_TRUE(loop.open());
  std::vector<TransferChecker*> movers;
  for (size_t i = 0; i < 4; ++i) {
    auto mover = std::make_unique<TransferChecker>(i, settings, log_);
    movers.push_back(mover.get());
    ASSERT_TRUE(loop.add(std::move(mover)));
  }
  const auto sum = [&](auto member) {
    uint64_t result = 0;
    for (const TransferChecker* mover : movers) result += (mover->*member)();
    return result;
  };
  const int64_t end = monotonic_ns() + kDeadlineNs;
  loop.run([&] {
    return monotonic_ns() > end ||
           (sum(&TransferChecker::conflicts) > 10 && sum(&TransferChecker::audits) > 10);
  });

  EXPECT_GT(sum(&TransferChecker::conflicts), 10U);
  EXPECT_GT(sum(&TransferChecker::audits), 10U);
  EXPECT_EQ(log_.total(), 0U) << report_text(make_report(loop, log_, 0));
}

class FaultTest : public StockDaemonTest, public testing::WithParamInterface<Case> {};

TEST_P(FaultTest, IsFound) {
  const Case& tested = GetParam();
  const CheckerSettings direct{daemon_.socket_path(), "/check", 8};
  CheckerSettings proxied = direct;
  proxied.socket_path = (folder_.path() / "proxy").string();
  const FaultProxy proxy(proxied.socket_path, daemon_.socket_path(), tested.plan);
  LoadLoop loop(direct, log_, kLimits);
  ASSERT_TRUE(loop.open());
  // Readers need somebody who writes, past the proxy.
  if (std::string_view(tested.name).starts_with("Reader")) {
    ASSERT_TRUE(loop.add(std::make_unique<CounterWriter>(0, direct, log_)));
  }
  ASSERT_TRUE(loop.add(tested.checker(proxied, log_)));

  const int64_t end = monotonic_ns() + kDeadlineNs;
  uint64_t replies_then = 0;
  loop.run([&] {
    if (monotonic_ns() > end || log_.count(tested.found) > 0) return true;
    if (proxy.struck() && replies_then == 0) replies_then = loop.replies();
    return proxy.struck() && tested.found != Anomaly::kNoReply &&
           loop.replies() > replies_then + kRepliesAfterwards;
  });

  EXPECT_TRUE(proxy.struck());
  EXPECT_GT(log_.count(tested.found), 0U) << report_text(make_report(loop, log_, 0));
}

std::vector<Case> cases() {
  return {
      {"WriterReplyLost", make<CounterWriter>(), {Fault::kDrop, XS_WRITE, kNth}, Anomaly::kLost},
      {"WriterReplyRepeated", make<CounterWriter>(), {Fault::kRepeat, XS_WRITE, kNth}, Anomaly::kRepeated},
      {"WriterReplySwapped", make<CounterWriter>(), {Fault::kSwap, XS_WRITE, kNth}, Anomaly::kOutOfOrder},
      {"WriterReplyGarbled", make<CounterWriter>(), {Fault::kGarble, XS_WRITE, kNth}, Anomaly::kTorn},
      {"WriterValueGarbled", make<CounterWriter>(), {Fault::kGarble, XS_READ, kNth}, Anomaly::kTorn},
      {"WriterHeaderGarbled", make<CounterWriter>(), {Fault::kBadHeader, XS_WRITE, kNth}, Anomaly::kTorn},
      {"WriterRefused", make<CounterWriter>(), {Fault::kRefuse, XS_WRITE, kNth}, Anomaly::kError},
      {"WriterHangs", make<CounterWriter>(), {Fault::kHang, XS_WRITE, kNth}, Anomaly::kNoReply},
      {"WriterCutOff", make<CounterWriter>(), {Fault::kClose, XS_WRITE, kNth}, Anomaly::kDisconnected},
      {"WriterWriteNotDone", make<CounterWriter>(), {Fault::kDivertRequest, XS_WRITE, 8}, Anomaly::kWrong},
      {"ReaderReplyLost", make_reader(), {Fault::kDrop, XS_READ, kNth}, Anomaly::kLost},
      {"ReaderReplyRepeated", make_reader(), {Fault::kRepeat, XS_READ, kNth}, Anomaly::kRepeated},
      {"ReaderReplySwapped", make_reader(), {Fault::kSwap, XS_READ, kNth}, Anomaly::kOutOfOrder},
      {"ReaderValueGarbled", make_reader(), {Fault::kGarble, XS_READ, kNth}, Anomaly::kTorn},
      {"ReaderValueStale", make_reader(), {Fault::kStale, XS_READ, kNth}, Anomaly::kWrong},
      {"WatcherEventLost", make<WatchChecker>(), {Fault::kDrop, XS_WATCH_EVENT, kNth}, Anomaly::kLost},
      {"WatcherEventRepeated",
       make<WatchChecker>(),
       {Fault::kRepeat, XS_WATCH_EVENT, kNth},
       Anomaly::kRepeated},
      {"WatcherEventSwapped",
       make<WatchChecker>(),
       {Fault::kSwap, XS_WATCH_EVENT, kNth},
       Anomaly::kOutOfOrder},
      {"WatcherEventOfOldWrite",
       make<WatchChecker>(),
       {Fault::kStale, XS_WATCH_EVENT, kNth},
       Anomaly::kWrong},
      {"WatcherWriteNotDone", make<WatchChecker>(), {Fault::kDivertRequest, XS_WRITE, kNth}, Anomaly::kLost},
      {"MoverWriteNotDone", make<TransferChecker>(), {Fault::kDivertRequest, XS_WRITE, 40}, Anomaly::kWrong},
      {"MoverCommitNotDone",
       make<TransferChecker>(),
       {Fault::kFlipEnd, XS_TRANSACTION_END, 40},
       Anomaly::kWrong},
      {"MoverAbortCommitted",
       make<TransferChecker>(),
       {Fault::kFlipEnd, XS_TRANSACTION_END, 23},
       Anomaly::kWrong},
      {"MoverReplyLost", make<TransferChecker>(), {Fault::kDrop, XS_WRITE, kNth}, Anomaly::kLost},
      {"ModelWriteNotDone",
       make<ModelChecker>(),
       {Fault::kDivertRequest, XS_WRITE, kNth, true},
       Anomaly::kWrong},
      {"ModelPermsNotSet",
       make<ModelChecker>(),
       {Fault::kAlterRequest, XS_SET_PERMS, kNth, true},
       Anomaly::kWrong},
      {"ModelRemovalNotDone",
       make<ModelChecker>(),
       {Fault::kDivertRequest, XS_RM, kNth, true},
       Anomaly::kWrong},
      {"ModelNamesGarbled", make<ModelChecker>(), {Fault::kGarble, XS_DIRECTORY, kNth}, Anomaly::kWrong},
      {"ModelEventLost", make<ModelChecker>(), {Fault::kDrop, XS_WATCH_EVENT, 20}, Anomaly::kLost},
      {"ModelEventRepeated", make<ModelChecker>(), {Fault::kRepeat, XS_WATCH_EVENT, 20}, Anomaly::kWrong},
  };
}

INSTANTIATE_TEST_SUITE_P(EveryKind, FaultTest, testing::ValuesIn(cases()),
                         [](const testing::TestParamInfo<Case>& tested) { return tested.param.name; });

}  // namespace
}  // namespace bulkhead::xs
