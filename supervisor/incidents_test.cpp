#include "supervisor/incidents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sqlite3.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>

namespace bulkhead::supervisor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::int64_t kNow = 1'700'000'000'000'000;
constexpr std::int64_t kDay = 86'400'000'000;
constexpr IncidentStore::Limits kRoomy{365 * kDay, 1000};

class IncidentsTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/bulkhead-incidents-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = directory_ / "incidents.db";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  IncidentStore open(IncidentStore::Limits limits = kRoomy) {
    return IncidentStore(path_.string(), limits, kNow);
  }
  static v1::Incident incident(const std::string& component, std::int64_t time = kNow) {
    v1::Incident it;
    it.set_component(component);
    it.set_time_unix_us(time);
    it.set_finding("exit");
    it.set_outcome("open");
    return it;
  }
  static std::vector<std::int64_t> ids(const v1::ListIncidentsResponse& response) {
    std::vector<std::int64_t> result;
    for (const auto& it : response.incidents()) result.push_back(it.id());
    return result;
  }

  std::filesystem::path directory_, path_;
};

TEST_F(IncidentsTest, OpenOnesThatNobodyKnowsEndAsUnknown) {
  std::int64_t known = 0, orphan = 0, over = 0;
  {
    IncidentStore store = open();
    known = store.insert(incident("xenstore"));
    orphan = store.insert(incident("xenstore"));
    v1::Incident done = incident("xenstore");
    done.set_outcome("recovered");
    over = store.insert(done);
  }
  IncidentStore store = open();
  store.close_orphans({known});
  std::map<std::int64_t, v1::Incident> now;
  const v1::ListIncidentsResponse all = store.list({});
  for (const v1::Incident& it : all.incidents()) now[it.id()] = it;
  EXPECT_EQ(now[known].outcome(), "open");
  EXPECT_EQ(now[orphan].outcome(), "unknown");
  EXPECT_THAT(now[orphan].evidence(), HasSubstr("the supervisor died"));
  EXPECT_EQ(now[over].outcome(), "recovered");
  EXPECT_THAT(store.take_trouble(), IsEmpty());
}

TEST_F(IncidentsTest, KeepsEveryFieldAcrossARestart) {
  v1::Incident full = incident("xenstore");
  full.set_incarnation(UINT64_MAX);
  full.set_evidence("killed by signal 9 (Killed)");
  full.add_steps("hand over: the standby continues");
  full.add_steps("rebuild");
  full.set_deliberate(true);
  full.set_fault("crash");
  full.set_detection_us(120);
  full.set_blackout_us(-1);
  full.set_replayed(3);
  full.set_refused(1);
  full.set_lost(0);
  full.set_blamed_client("dom7");
  full.set_next_step("rebuild: start again from custody");
  {
    auto store = open();
    EXPECT_TRUE(store.persistent());
    EXPECT_THAT(store.take_trouble(), IsEmpty());
    full.set_id(store.insert(full));
    full.set_outcome("recovered");
    full.set_blackout_us(310);
    full.add_steps("serving again");
    EXPECT_TRUE(store.update(full).has_value());
  }
  auto store = open();
  const auto listed = store.list({});
  ASSERT_EQ(listed.incidents_size(), 1);
  EXPECT_EQ(listed.incidents(0).SerializeAsString(), full.SerializeAsString());
  EXPECT_EQ(store.count("xenstore"), 1U);
}

TEST_F(IncidentsTest, ListsNewestFirstInPagesAndByComponent) {
  auto store = open();
  for (int i = 0; i < 10; ++i) store.insert(incident(i % 2 == 0 ? "even" : "odd"));
  const auto first = store.list({.component = "", .before_id = 0, .limit = 4});
  EXPECT_THAT(ids(first), ElementsAre(10, 9, 8, 7));
  EXPECT_EQ(first.next_before_id(), 7);
  const auto last = store.list({.component = "", .before_id = 4, .limit = 4});
  EXPECT_THAT(ids(last), ElementsAre(3, 2, 1));
  EXPECT_EQ(last.next_before_id(), 0);
  EXPECT_THAT(ids(store.list({.component = "odd", .before_id = 9, .limit = 2})), ElementsAre(8, 6));
  EXPECT_THAT(ids(store.list({.component = "none", .before_id = 0, .limit = 0})), IsEmpty());
  EXPECT_EQ(store.count("odd"), 5U);
  EXPECT_EQ(store.count(""), 10U);
}

TEST_F(IncidentsTest, LimitIsFiftyUnlessToldAndFiveHundredAtMost) {
  auto store = open();
  for (int i = 0; i < 600; ++i) store.insert(incident("x"));
  EXPECT_EQ(store.list({}).incidents_size(), 50);
  EXPECT_EQ(store.list({.component = "", .before_id = 0, .limit = 100000}).incidents_size(), 500);
}

TEST_F(IncidentsTest, PrunesByNumber) {
  auto store = open({365 * kDay, 3});
  for (int i = 0; i < 5; ++i) store.insert(incident(i < 2 ? "old" : "new"));
  EXPECT_THAT(ids(store.list({})), ElementsAre(5, 4, 3));
  EXPECT_EQ(store.count("old"), 0U);
  EXPECT_EQ(store.count("new"), 3U);
  v1::Incident gone = incident("old");
  gone.set_id(1);
  EXPECT_EQ(store.update(gone).error().kind(), ErrorKind::kNotFound);
}

TEST_F(IncidentsTest, PrunesByAge) {
  auto store = open({kDay, 1000});
  store.insert(incident("x", kNow));
  store.insert(incident("x", kNow + kDay));  // exactly a day: still there
  EXPECT_EQ(store.count(""), 2U);
  store.insert(incident("x", kNow + kDay + 1));
  EXPECT_THAT(ids(store.list({})), ElementsAre(3, 2));
}

TEST_F(IncidentsTest, ALoweredLimitHoldsFromTheNextInsert) {
  {
    auto store = open();
    for (int i = 0; i < 100; ++i) store.insert(incident("x"));
  }
  auto store = open({365 * kDay, 5});
  store.insert(incident("x"));
  EXPECT_THAT(ids(store.list({})), ElementsAre(101, 100, 99, 98, 97));
}

TEST_F(IncidentsTest, TextIsBounded) {
  auto store = open();
  v1::Incident big = incident("x");
  big.set_evidence(std::string(1 << 20, 'e'));
  for (int i = 0; i < 1000; ++i) big.add_steps("a\nb");
  store.insert(big);
  const auto listed = store.list({});
  EXPECT_EQ(listed.incidents(0).evidence().size(), 4096U);
  EXPECT_EQ(listed.incidents(0).steps_size(), 64);
  EXPECT_EQ(listed.incidents(0).steps(0), "a b");
}

TEST_F(IncidentsTest, ADamagedFileIsSetAside) {
  std::ofstream(path_) << std::string(8192, 'x');
  auto store = open();
  EXPECT_THAT(store.take_trouble(), ElementsAre(HasSubstr("file is not a database; it is now ")));
  EXPECT_THAT(store.take_trouble(), IsEmpty());
  EXPECT_TRUE(store.persistent());
  EXPECT_EQ(store.insert(incident("x")), 1);
  EXPECT_TRUE(std::filesystem::exists(path_.string() + ".damaged-1700000000"));
  EXPECT_EQ(open().count("x"), 1U);
}

TEST_F(IncidentsTest, DamageWhileRunningCostsNoNewIncident) {
  auto store = open();
  for (int i = 0; i < 200; ++i) {
    v1::Incident it = incident("x");
    it.set_evidence(std::string(2000, 'e'));
    store.insert(it);
  }
  // The pages behind the header, as a failing disk or a careless copy would; the header stays plausible.
  {
    sqlite3* other = nullptr;
    ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
    ASSERT_EQ(sqlite3_exec(other, "PRAGMA wal_checkpoint(TRUNCATE)", nullptr, nullptr, nullptr), SQLITE_OK);
    sqlite3_close(other);
    std::fstream file(path_, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(4096);
    const std::string garbage(400'000, '\xee');
    file.write(garbage.data(), static_cast<std::streamsize>(garbage.size()));
  }
  auto reopened = open();
  EXPECT_GT(reopened.insert(incident("after")), 0);
  EXPECT_EQ(reopened.count("after"), 1U);
  EXPECT_TRUE(reopened.persistent());
  EXPECT_THAT(reopened.take_trouble(), ElementsAre(HasSubstr("a new one is begun")));
}

TEST_F(IncidentsTest, AnUnwritablePlaceMeansMemory) {
  IncidentStore store("/nonexistent/directory/incidents.db", kRoomy, kNow);
  EXPECT_FALSE(store.persistent());
  EXPECT_THAT(store.take_trouble(),
              ElementsAre("incidents are kept in memory only: "
                          "/nonexistent/directory/incidents.db: cannot open: unable to open "
                          "database file"));
  EXPECT_EQ(store.insert(incident("x")), 1);
  EXPECT_EQ(store.insert(incident("x")), 2);
  EXPECT_THAT(ids(store.list({})), ElementsAre(2, 1));
}

TEST_F(IncidentsTest, AFullDiskContinuesInMemoryWithWhatIsKnown) {
  auto store = open();
  EXPECT_EQ(store.insert(incident("before")), 1);
  EXPECT_EQ(store.insert(incident("before")), 2);
  // Another program that holds the write lock for good stands for every lasting failure to write.
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "BEGIN IMMEDIATE", nullptr, nullptr, nullptr), SQLITE_OK);
  const std::int64_t id = store.insert(incident("after"));
  EXPECT_EQ(id, 3);  // ids go on
  EXPECT_FALSE(store.persistent());
  EXPECT_THAT(store.take_trouble(), ElementsAre(HasSubstr("database is locked")));
  EXPECT_THAT(ids(store.list({})), ElementsAre(3, 2, 1));
  v1::Incident earlier = incident("before");
  earlier.set_id(2);
  earlier.set_outcome("recovered");
  EXPECT_TRUE(store.update(earlier).has_value());
  sqlite3_close(other);
}

TEST_F(IncidentsTest, ASchemaFromTheFutureIsNotTouched) {
  {
    auto store = open();
  }
  sqlite3* other = nullptr;
  ASSERT_EQ(sqlite3_open(path_.c_str(), &other), SQLITE_OK);
  ASSERT_EQ(sqlite3_exec(other, "PRAGMA user_version=99", nullptr, nullptr, nullptr), SQLITE_OK);
  sqlite3_close(other);
  auto store = open();
  EXPECT_THAT(store.take_trouble(), ElementsAre(HasSubstr("has schema version 99, this program knows 1")));
  EXPECT_TRUE(std::filesystem::exists(path_.string() + ".damaged-1700000000"));
}

TEST_F(IncidentsTest, SurvivesAKillWithoutClosing) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    auto store = open();
    for (int i = 0; i < 20; ++i) store.insert(incident("x"));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  ASSERT_EQ(::waitpid(pid, &status, 0), pid);
  ASSERT_TRUE(WIFSIGNALED(status));
  auto store = open();
  EXPECT_THAT(store.take_trouble(), IsEmpty());
  EXPECT_EQ(store.count("x"), 20U);
}

}  // namespace
}  // namespace bulkhead::supervisor
