// Limits as the operator meets them: settings, the table, changes that are journalled and survive.
#include "components/xenstore/quota_service.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "components/xenstore/service_test_support.h"
#include "runtime/crash_point.h"

namespace bulkhead::xenstore::test {
namespace {

using Settings = google::protobuf::Map<std::string, std::string>;
using testing::HasSubstr;

LimitChange change(std::string_view name, std::uint32_t value,
                   std::uint32_t domid = LimitChange::kEveryDomain) {
  return {domid, static_cast<std::uint32_t>(find_quota(name).value()), value};
}

TEST(QuotaSettings, ChangeTheDefaultsByName) {
  Settings settings;
  settings["max_connections"] = "7";
  settings["quota-nodes"] = "77";
  settings["quota-soft-memory"] = "0";
  auto limits = limits_from(settings);
  ASSERT_TRUE(limits) << limits.error().message();
  Limits expected;
  expected.nodes = 77;
  expected.memory_soft = 0;
  EXPECT_EQ(*limits, expected);
}

TEST(QuotaSettings, AreRefusedWithTheirName) {
  for (const char* value : {"", "-1", "many", "7 ", "2147483648"}) {
    Settings settings;
    settings["quota-watches"] = value;
    auto limits = limits_from(settings);
    ASSERT_FALSE(limits) << value;
    EXPECT_THAT(limits.error().message(), HasSubstr("quota-watches"));
  }
  Settings settings;
  settings["quota-node"] = "7";
  auto limits = limits_from(settings);
  ASSERT_FALSE(limits);
  EXPECT_THAT(limits.error().message(), HasSubstr("quota-node: no such quota; known are nodes, watches"));
}

TEST(QuotaSettings, BecomeTheChangesThatMakeThem) {
  Limits limits;
  EXPECT_TRUE(changes_between(Limits{}, limits).empty());
  limits.nodes = 5;
  limits.undelivered = 0;
  Engine engine;
  struct Nobody : Output {
    void reply(std::uint32_t, std::span<const std::byte>) override {}
    void event(ConnectionId, std::span<const std::byte>) override {}
  } out;
  ASSERT_TRUE(engine.set_limits(changes_between(engine.limits(), limits), out));
  EXPECT_EQ(engine.limits(), limits);
}

TEST(QuotaTable, ShowsTheDefaultsAndEachDomain) {
  struct Usage : ServerUsage {
    std::uint32_t outstanding_requests(std::uint32_t domid) const override { return domid + 10; }
    std::uint64_t undelivered_bytes(std::uint32_t domid) const override { return domid + 20; }
  };
  Engine engine;
  engine.connect(1, 5);
  const auto list = list_quotas("xenstore", engine.limits(), engine.quotas(Usage{}));
  std::map<std::string, std::pair<std::uint64_t, std::uint64_t>> rows;
  for (const v1::Quota& row : list.quotas())
    rows[row.subject() + "/" + row.name()] = {row.limit(), row.used()};
  EXPECT_EQ(rows.size(), all_quotas().size() + 12);
  EXPECT_EQ(rows.at("/permissions"), std::pair(std::uint64_t{5}, std::uint64_t{0}));
  EXPECT_EQ(rows.at("domain 5/outstanding"), std::pair(std::uint64_t{20}, std::uint64_t{15}));
  EXPECT_EQ(rows.at("domain 5/undelivered"), std::pair(std::uint64_t{262144}, std::uint64_t{25}));
  EXPECT_EQ(rows.at("domain 5/nodes"), std::pair(std::uint64_t{1000}, std::uint64_t{0}));
  EXPECT_EQ(rows.at("domain 0/nodes"), std::pair(std::uint64_t{0}, std::uint64_t{3}));
}

TEST(QuotaTable, FitsOnePacketWhateverTheNumberOfDomains) {
  Engine engine;
  for (std::uint32_t domid = 1; domid < 3000; ++domid) engine.connect(domid, domid);
  const auto list = list_quotas("xenstore", engine.limits(), engine.quotas());
  EXPECT_LT(list.ByteSizeLong(), std::size_t{190} * 1024);
  EXPECT_THAT(list.quotas().rbegin()->name(), HasSubstr("lines, too many to show"));
}

TEST(QuotaChange, NamesALimitAndPerhapsADomain) {
  v1::SetQuotaRequest request;
  request.set_name("nodes");
  request.set_value(7);
  EXPECT_EQ(limit_change_of(request)->domid, LimitChange::kEveryDomain);
  request.set_subject("domain 12");
  EXPECT_EQ(limit_change_of(request)->domid, 12U);
  EXPECT_EQ(limit_change_of(request)->value, 7U);
  for (const char* wrong : {"12", "domain", "domain x", "domain 32752", "domain -1"}) {
    request.set_subject(wrong);
    EXPECT_FALSE(limit_change_of(request)) << wrong;
  }
  request.set_subject("");
  request.set_value(std::uint64_t{1} << 31);
  EXPECT_FALSE(limit_change_of(request));
  request.set_value(7);
  request.set_name("node");
  EXPECT_THAT(limit_change_of(request).error().message(), HasSubstr("known are nodes"));
}

class LimitsInCustody : public testing::Test {
 protected:
  MemoryCustody store_ = small_custody();
};

TEST_F(LimitsInCustody, AreFollowedByTheStandby) {
  Incarnation owner(store_);
  Incarnation standby(store_);
  owner.executor.connect(0, 3);
  const std::vector changes{change("nodes", 50), change("nodes", 5, 3)};
  ASSERT_TRUE(owner.executor.set_limits(changes));
  EXPECT_EQ(owner.executor.set_limits(std::vector{change("nodes", 5, 77)}).error().kind(),
            ErrorKind::kNotFound);
  standby.take_over();
  EXPECT_EQ(standby.replica.position(), owner.replica.position());
  EXPECT_EQ(standby.replica.engine().limits().nodes, 50U);
  EXPECT_EQ(standby.replica.engine().limits_of(3).nodes, 5U);
}

TEST_F(LimitsInCustody, AreBuiltUpAgainFromASnapshot) {
  Incarnation owner(store_);
  owner.executor.connect(0, 3);
  ASSERT_TRUE(owner.executor.set_limits(std::vector{change("watches", 9), change("nodes", 5, 3)}));
  owner.publish_snapshot();
  owner.custody.journal().release(owner.replica.position());
  Incarnation successor(store_);
  successor.take_over();
  EXPECT_EQ(successor.replica.loads(), 1U);
  EXPECT_EQ(successor.replica.engine().limits().watches, 9U);
  EXPECT_EQ(successor.replica.engine().limits_of(3).nodes, 5U);
}

// Killed before the commit the change never was; from the commit on it holds.
TEST_F(LimitsInCustody, AreSetOrNotWhereverTheOwnerDies) {
  struct Case {
    const char* point;
    bool happened;
  };
  for (const Case& c :
       {Case{"request-executed", false}, Case{"request-journalled", false}, Case{"commit-prepared", false},
        Case{"committed", true}, Case{"commit-applied", true}}) {
    SCOPED_TRACE(c.point);
    const MemoryCustody store = small_custody();
    ASSERT_TRUE(dies([&] {
      Incarnation owner(store);
      owner.executor.connect(0, 3);
      ASSERT_TRUE(CrashPoint::arm(c.point, 1));
      (void)owner.executor.set_limits(std::vector{change("nodes", 50), change("nodes", 5, 3)});
    }));
    Incarnation successor(store);
    successor.take_over();
    EXPECT_EQ(successor.replica.engine().limits().nodes, c.happened ? 50U : 1000U);
    EXPECT_EQ(successor.replica.engine().limits_of(3).nodes, c.happened ? 5U : 1000U);
    EXPECT_TRUE(successor.replica.engine().check());
  }
}

TEST_F(LimitsInCustody, ADamagedRecordIsRefused) {
  Incarnation owner(store_);
  const std::vector<std::byte> odd(sizeof(LimitChange) + 1);
  for (const std::size_t size : {std::size_t{0}, odd.size()}) {
    const MemoryCustody store = small_custody();
    Incarnation writer(store);
    auto& journal = writer.custody.journal();
    journal.commit(
        journal.prepare(static_cast<std::uint32_t>(InputKind::kLimits), 0, {std::span(odd).first(size)}));
    Incarnation reader(store);
    EXPECT_FALSE(reader.replica.follow(1)) << size;
  }
}

TEST_F(LimitsInCustody, WhatWaitsForADomainIsInTheTable) {
  Incarnation owner(store_);
  owner.executor.connect(0, 3);
  owner.executor.connect(1, 3);
  owner.call(0, kRead, "/nothing|");
  owner.call(0, kRead, "/nothing|");
  owner.call(1, kWatch, "/tool|token|");
  std::map<std::string, std::uint64_t> used;
  for (const QuotaRow& row : owner.executor.quotas()) {
    if (row.domid == 3) used[std::string(row.name)] = row.used;
  }
  EXPECT_EQ(used["outstanding"], 3U);  // and an event, which is no reply
  EXPECT_EQ(used["undelivered"], std::max<std::uint64_t>(2 * (16 + 7), 16 + 3 + 16 + 12));
  owner.send(0);
  owner.send(1);
  for (const QuotaRow& row : owner.executor.quotas()) {
    if (row.name == "undelivered") {
      EXPECT_EQ(row.used, 0U);
    }
  }
}

TEST_F(LimitsInCustody, TheLimitOfUndeliveredBytesIsTheDomains) {
  Incarnation owner(store_);
  owner.executor.connect(0, 0);
  owner.executor.connect(1, 3);
  owner.executor.connect(2, 4);
  ASSERT_TRUE(owner.executor.set_limits(std::vector{change("undelivered", 300, 3)}));
  owner.call(0, kSetPerms, "@introduceDomain|r0|");
  owner.call(1, kWatch, "@introduceDomain|token|");
  owner.call(2, kWatch, "@introduceDomain|token|");
  for (int domid = 10; domid < 20; ++domid) owner.call(0, kIntroduce, std::to_string(domid) + "|1|1|");
  const auto cut = owner.executor.take_overflowed();
  EXPECT_FALSE(cut.empty());
  for (const std::uint32_t slot : cut) EXPECT_EQ(slot, 1U);
}

TEST_F(LimitsInCustody, WarningsReachWhoeverServes) {
  Incarnation owner(store_);
  owner.executor.connect(0, 0);
  owner.executor.connect(1, 3);
  ASSERT_TRUE(owner.executor.set_limits(std::vector{change("soft-memory", 100)}));
  owner.call(0, kWrite, "/d|");
  owner.call(0, kSetPerms, "/d|b3|");
  owner.call(1, kWrite, "/d|" + std::string(100, 'x'));
  const auto warnings = owner.executor.take_quota_warnings();
  ASSERT_EQ(warnings.size(), 1U);
  EXPECT_EQ(describe(warnings[0]), "domain 3 uses 134 of memory, its soft limit is 100");
  EXPECT_TRUE(owner.executor.take_quota_warnings().empty());
}

}  // namespace
}  // namespace bulkhead::xenstore::test
