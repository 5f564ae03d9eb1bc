// The engine against the model, and against itself: replayed from its log, restored from its snapshots.
#include "components/xenstore/engine_model.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <random>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/snapshot.h"

namespace bulkhead::xenstore::test {
namespace {

struct RandomRequest {
  ConnectionId connection = 0;
  std::uint32_t type = 0;
  std::uint32_t transaction = 0;
  std::string payload;
};

// Requests over few names, tokens and ids, so that they keep meeting each other.
class Generator {
 public:
  explicit Generator(std::uint64_t seed) : random_(seed) {}

  std::size_t pick(std::size_t range) { return static_cast<std::size_t>(random_() % range); }
  template <typename T, std::size_t N>
  T one_of(const T (&choices)[N]) {
    return choices[pick(N)];
  }

  RandomRequest next() {
    static constexpr std::uint32_t kTypes[] = {kDirectory,
                                               kRead,
                                               kRead,
                                               kGetPerms,
                                               kWatch,
                                               kUnwatch,
                                               kTransactionStart,
                                               kTransactionEnd,
                                               kTransactionEnd,
                                               kWrite,
                                               kWrite,
                                               kWrite,
                                               kWrite,
                                               kMkdir,
                                               kRm,
                                               kSetPerms,
                                               kSetPerms,
                                               kDirectoryPart};
    static constexpr std::uint32_t kRareTypes[] = {
        kIntroduce, kIntroduce, kRelease,    kSetTarget,  kSetQuota,     kSetQuota, kSetQuota, kSetQuota,
        kGetQuota,  kGetQuota,  kGetFeature, kSetFeature, kResetWatches, 20,        99};
    RandomRequest request;
    request.connection = static_cast<ConnectionId>(pick(kConnections));
    request.type = pick(20) == 0 ? one_of(kRareTypes) : one_of(kTypes);
    bool inside = pick(2) == 0 || request.type == kTransactionEnd;
    bool outside = request.type == kTransactionStart || pick(60) == 0;
    if (inside && !outside) request.transaction = transactions[request.connection];
    request.payload = payload(request.type);
    return request;
  }

  // The id each connection was last given.
  static constexpr std::size_t kConnections = 6;
  std::uint32_t transactions[kConnections] = {};

 private:
  std::string path() {
    static constexpr const char* kNames[] = {"a", "b", "a-b", "backend-vbd-1", "backend-vbd-2", "Z"};
    static constexpr const char* kBad[] = {"", "//", "/a/", "/a b", "@introduceDomain", "@releaseDomain",
                                           "/"};
    if (pick(40) == 0) return one_of(kBad);
    std::string path = pick(5) == 0 ? "" : "/";
    if (pick(5) == 0) path = "/local/domain/" + domid() + "/";
    for (std::size_t depth = 1 + pick(3); depth > 0; --depth)
      path += one_of(kNames) + std::string(depth > 1 ? "/" : "");
    return path;
  }
  std::string watch_path() {
    static constexpr const char* kSpecial[] = {"@introduceDomain", "@releaseDomain", "@releaseDomain/2",
                                               "@other"};
    return pick(4) == 0 ? one_of(kSpecial) : pick(8) == 0 ? "/" : path();
  }
  std::string domid() { return std::to_string(pick(5)); }
  std::string quota_name() {
    static constexpr const char* kNames[] = {
        "nodes",       "watches", "transactions", "transaction-nodes", "memory",
        "soft-memory", "memory",  "node-size",    "path-max",          "permissions",
        "path-depth",  "nothing", "undelivered",  "soft-memory"};
    return one_of(kNames);
  }
  std::string quota_value() {
    static constexpr const char* kValues[] = {"0",   "4",    "12",   "30",   "150",        "400", "700",
                                              "900", "1200", "1500", "4000", "2147483648", "7x"};
    return one_of(kValues);
  }
  std::string permissions() {
    static constexpr const char* kLetters[] = {"n", "r", "w", "b"};
    std::string text;
    for (std::size_t count = 1 + pick(3) + (pick(20) == 0 ? 2 : 0); count > 0; --count) {
      text += one_of(kLetters) + (pick(30) == 0 ? "32760" : domid()) + '\0';
    }
    return text;
  }
  std::string payload(std::uint32_t type) {
    static constexpr const char* kDepths[] = {"0", "1", "2", "-1"};
    std::string end(1, '\0');
    switch (type) {
      case kWrite:
        return path() + end +
               std::string(pick(6) == 0 ? pick(120) : pick(5), static_cast<char>('a' + pick(26)));
      case kSetPerms:
        return (pick(10) == 0 ? "@releaseDomain" : pick(8) == 0 ? "/" : path()) + end + permissions();
      case kWatch:
        return watch_path() + end + (pick(2) == 0 ? "t" : "u") + end +
               (pick(3) == 0 ? one_of(kDepths) + end : "");
      case kUnwatch:
        return watch_path() + end + (pick(2) == 0 ? "t" : "u") + end;
      case kTransactionStart:
        return end;
      case kTransactionEnd:
        return (pick(4) == 0 ? "F" : pick(40) == 0 ? "X" : "T") + end;
      case kIntroduce:
        return domid() + end + "12" + end + domid() + end;
      case kRelease:
        return domid() + end;
      case kSetTarget:
        return domid() + end + domid() + end;
      case kGetQuota:
        return pick(5) == 0 ? "" : (pick(2) == 0 ? domid() + end : "") + quota_name() + end;
      case kSetQuota:
        return (pick(2) == 0 ? domid() + end : "") + quota_name() + end + quota_value() + end;
      case kGetFeature:
        return pick(2) == 0 ? "" : domid() + end;
      case kSetFeature:
        return domid() + end + (pick(3) == 0 ? "8" : pick(2) == 0 ? "0" : "4") + end;
      case kDirectoryPart:
        return path() + end + std::to_string(pick(30)) + end;
      default:
        return pick(50) == 0 ? path() : path() + end;
    }
  }

  std::mt19937_64 random_;
};

constexpr std::uint32_t kDomainOf[Generator::kConnections] = {0, 0, 1, 2, 3, 3};

Limits tight_limits() {
  Limits limits;
  limits.nodes = 12;
  limits.watches = 5;
  limits.transactions = 2;
  limits.transaction_nodes = 9;
  limits.memory = 1500;
  limits.node_size = 150;
  limits.permissions = 3;
  return limits;
}

std::vector<std::string> execute(Engine& engine, const RandomRequest& request, bool* mutated = nullptr) {
  Recorder out;
  Outcome outcome = run(engine, out, request.connection, request.type, request.payload, request.transaction);
  if (mutated != nullptr) *mutated = outcome.mutated;
  return out.said;
}

std::string describe(const RandomRequest& r) {
  return "connection " + std::to_string(r.connection) + " type " + std::to_string(r.type) + " transaction " +
         std::to_string(r.transaction) + " payload " + bar(r.payload);
}

// Lets the generator use the transaction ids that are given out.
void learn(Generator& generator, const RandomRequest& request, const std::vector<std::string>& said) {
  if (request.type != kTransactionStart || !said.front().starts_with("reply:6:")) return;
  generator.transactions[request.connection] =
      static_cast<std::uint32_t>(leading_number(said.front().substr(8)));
}

void expect_same_contents(const Engine& engine, const Model& model) {
  EXPECT_EQ(engine.node_count(), model.tree().size());
  std::size_t known = 0;
  for (const QuotaRow& row : engine.quotas()) {
    ASSERT_TRUE(model.knows(row.domid)) << row.domid;
    if (row.name == "nodes") {
      EXPECT_EQ(row.used, static_cast<std::uint64_t>(model.nodes_of(row.domid)));
    }
    if (row.name == "memory") {
      EXPECT_EQ(row.used, static_cast<std::uint64_t>(model.memory_of(row.domid)));
    }
    if (row.name == "watches") {
      EXPECT_EQ(row.used, model.watches_of(row.domid));
    }
    if (row.name == "transactions") {
      EXPECT_EQ(row.used, model.transactions_of(row.domid));
    }
    EXPECT_EQ(row.limit, row.domid == 0 ? 0U : model.limit(row.domid, std::string(row.name)));
    known += row.name == "nodes" ? 1U : 0U;
  }
  for (std::uint32_t domid = 0; domid < 10; ++domid) known -= model.knows(domid) ? 1U : 0U;
  EXPECT_EQ(known, 0U);
}

void connect_all(auto& engine) {
  for (ConnectionId id = 0; id < Generator::kConnections; ++id) engine.connect(id, kDomainOf[id]);
}

class ModelRun : public testing::TestWithParam<int> {};

TEST_P(ModelRun, RepliesEventsAndErrorsAreTheModels) {
  Generator generator(static_cast<std::uint64_t>(GetParam()));
  Limits limits = GetParam() % 2 == 0 ? Limits{} : tight_limits();
  Engine engine(limits);
  Model model(limits);
  connect_all(engine);
  connect_all(model);
  std::map<std::string, int> errors;
  std::map<std::string, int> warnings;
  int events = 0;
  for (int step = 0; step < 6000; ++step) {
    if (generator.pick(500) == 0) {
      auto id = static_cast<ConnectionId>(generator.pick(Generator::kConnections));
      Recorder out;
      engine.disconnect(id, out);
      Recorder expected;
      model.disconnect(id, expected);
      ASSERT_EQ(out.said, expected.said);
      engine.connect(id, kDomainOf[id]);
      model.connect(id, kDomainOf[id]);
    }
    RandomRequest request = generator.next();
    std::vector<std::string> said = execute(engine, request);
    Recorder expected;
    model.execute(request.connection, request.type, request.payload, request.transaction, expected);
    ASSERT_EQ(said, expected.said) << "step " << step << ": " << describe(request);
    learn(generator, request, said);
    events += static_cast<int>(said.size()) - 1;
    for (const std::string& line : said) {
      if (line.starts_with("reply:16:")) ++errors[bar(line.substr(9))];
      if (line.starts_with("warning:")) ++warnings[line.substr(line.rfind(':'))];
    }
    if (step % 250 != 0) continue;
    Status sound = engine.check();
    ASSERT_TRUE(sound) << "step " << step << ": " << sound.error().message();
    ASSERT_NO_FATAL_FAILURE(expect_same_contents(engine, model));
  }
  EXPECT_GT(events, 300);
  for (const char* error : {"EAGAIN|", "EACCES|", "ENOENT|", "EINVAL|", "EEXIST|", "EPERM|", "ENOSYS|"}) {
    EXPECT_GT(errors[error], 0) << error;
  }
  if (limits == tight_limits()) {
    for (const char* error : {"ENOSPC|", "E2BIG|", "ENOMEM|"}) EXPECT_GT(errors[error], 0) << error;
    for (const char* level : {":soft", ":hard"}) EXPECT_GT(warnings[level], 0) << level;
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, ModelRun, testing::Range(1, 13));

// What every domain may use and uses, in words.
std::string usage_of(const Engine& engine) {
  std::string text;
  for (const QuotaRow& row : engine.quotas()) {
    text += std::to_string(row.domid) + " " + std::string(row.name) + " " + std::to_string(row.used) + "/" +
            std::to_string(row.limit) + "\n";
  }
  return text;
}

class SelfRun : public testing::TestWithParam<int> {};

// An engine that is given only what the other says must be logged ends as the same engine, byte by byte.
TEST_P(SelfRun, ReplayOfTheLogGivesTheSameEngine) {
  Generator generator(1000 + static_cast<std::uint64_t>(GetParam()));
  Engine active(tight_limits());
  Engine standby(tight_limits());
  connect_all(active);
  connect_all(standby);
  int skipped = 0;
  for (int step = 0; step < 20000; ++step) {
    RandomRequest request = generator.next();
    std::uint64_t digest = active.digest();
    bool mutated = false;
    std::vector<std::string> said = execute(active, request, &mutated);
    learn(generator, request, said);
    if (mutated) {
      ASSERT_EQ(execute(standby, request), said) << describe(request);
    } else {
      ++skipped;
      ASSERT_EQ(active.digest(), digest) << describe(request);
    }
    ASSERT_EQ(active.digest(), standby.digest());
    ASSERT_EQ(usage_of(active), usage_of(standby)) << step;
    ASSERT_EQ(active.fingerprint(), standby.fingerprint()) << step;
    if (step % 2000 == 0) {
      ASSERT_EQ(write_snapshot(active), write_snapshot(standby)) << step;
    }
  }
  EXPECT_EQ(write_snapshot(active), write_snapshot(standby));
  EXPECT_GT(skipped, 2000);
}

// An engine read from a snapshot goes on exactly as the one it was taken of, which the slices do not disturb.
TEST_P(SelfRun, RestoredEnginesGoOnIdentically) {
  Generator generator(2000 + static_cast<std::uint64_t>(GetParam()));
  Engine engine(tight_limits());
  connect_all(engine);
  for (int round = 0; round < 20; ++round) {
    std::vector<std::byte> at_once = write_snapshot(engine);
    SnapshotWriter writer(engine);
    std::vector<std::byte> sliced;
    auto restored = read_snapshot(at_once);
    ASSERT_TRUE(restored) << restored.error().message();
    Status sound = restored->check();
    ASSERT_TRUE(sound) << sound.error().message();
    ASSERT_EQ(restored->digest(), engine.digest());
    ASSERT_EQ(usage_of(*restored), usage_of(engine));
    ASSERT_EQ(restored->fingerprint(), engine.fingerprint());
    ASSERT_EQ(write_snapshot(*restored), at_once);
    for (int step = 0; step < 500; ++step) {
      RandomRequest request = generator.next();
      std::vector<std::string> said = execute(engine, request);
      ASSERT_EQ(execute(*restored, request), said) << describe(request);
      ASSERT_EQ(usage_of(*restored), usage_of(engine)) << describe(request);
      learn(generator, request, said);
      writer.step(64, sliced);
    }
    while (writer.step(64, sliced)) {
    }
    ASSERT_EQ(sliced, at_once);
    ASSERT_EQ(write_snapshot(*restored), write_snapshot(engine));
    if (round % 2 == 0) engine = std::move(*restored);
  }
}

INSTANTIATE_TEST_SUITE_P(Seeds, SelfRun, testing::Range(1, 5));

}  // namespace
}  // namespace bulkhead::xenstore::test
