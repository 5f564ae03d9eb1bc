// Streams as engines and back: what is kept, what is noted, and that both sides agree.
#include "components/xenstore/migration.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "components/xenstore/engine_test_support.h"
#include "components/xenstore/migration_test_support.h"
#include "components/xenstore/snapshot.h"

namespace bulkhead::xenstore::migration {
namespace {

using test::Recorder;
using test::Store;
using testing::Contains;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::IsSupersetOf;

Node node(std::string path, std::string_view value, std::vector<Permission> permissions) {
  return {.path = std::move(path), .value = bytes_of(value), .permissions = std::move(permissions)};
}
Permission entry(char access, std::uint16_t domid) {
  return {.access = access, .stale = false, .domid = domid};
}

// Domain 0's ring, those of domains 1 and 2, two clients on sockets, and a few nodes.
Stream host() {
  Stream stream;
  stream.descriptors = Descriptors{.listener = 4, .event_channels = 5};
  stream.connections = {connection_to(1, Ring{.domid = 0, .target = {}, .port = 1}),
                        connection_to(2, Ring{.domid = 1, .target = {}, .port = 7}),
                        connection_to(3, Ring{.domid = 2, .target = 1, .port = 8}),
                        connection_to(4, Socket{.descriptor = 20}),
                        connection_to(5, Socket{.descriptor = 21})};
  stream.connections[1].watches = {{"device", "rel", {}}, {"/local/domain/2", "abs", {}}};
  stream.connections[3].watches = {{"@releaseDomain", "rd", {}}, {"/local", "all", {}}};
  stream.nodes = {node("@releaseDomain", "", {entry('n', 0), entry('r', 1)}),
                  node("@introduceDomain", "", {entry('n', 0)}),
                  node("/", "", {entry('n', 0)}),
                  node("/local", "", {entry('n', 0)}),
                  node("/local/domain", "", {entry('n', 0)}),
                  node("/local/domain/1", "", {entry('n', 1)}),
                  node("/local/domain/1/name", "one", {entry('n', 1), entry('r', 2)}),
                  node("/local/domain/2", "two", {entry('r', 2)}),
                  node("/tool", "", {entry('n', 0)})};
  return stream;
}

Import imported(const Stream& stream, const Limits& limits = {}) {
  auto import = import_stream(stream, limits);
  if (!import) {
    ADD_FAILURE() << import.error().message();
    return {.engine = Engine(), .descriptors = {}, .connections = {}, .notes = {}};
  }
  const Status sound = import->engine.check();
  EXPECT_TRUE(sound) << sound.error().message();
  return std::move(*import);
}

Export exported(const Engine& engine, const std::vector<Attachment>& connections,
                const Destination& destination = {}) {
  auto result = export_engine(engine, connections, destination);
  EXPECT_TRUE(result) << result.error().message();
  return result ? std::move(*result) : Export{};
}

// The engine of an import under the hands of a test; what is connected keeps its ids.
struct Taken : Store {
  explicit Taken(const Stream& stream, const Limits& limits = {}) : import(imported(stream, limits)) {
    engine = std::move(import.engine);
  }
  Import import;
};

// ---- taking over ----

TEST(MigrationImport, KeepsNodesAndPermissions) {
  Taken s(host());
  EXPECT_THAT(s.import.notes, IsEmpty());
  EXPECT_EQ(s.read(0, "/local/domain/1/name"), "one");
  EXPECT_EQ(s.call(0, kGetPerms, "/local/domain/1/name|"), "n1|r2|");
  EXPECT_EQ(s.list(0, "/"), "local|tool|");
  EXPECT_EQ(s.read(1, "name"), "one");
  EXPECT_EQ(s.write(1, "name", "mine"), "OK|");
  EXPECT_EQ(s.read(1, "/local/domain/2"), "two");
  EXPECT_EQ(s.read(1, "/tool"), "EACCES");
}

TEST(MigrationImport, KeepsPermissionsOfSpecialEvents) {
  Taken s(host());
  s.call(1, kWatch, "@releaseDomain|one|");
  s.call(2, kWatch, "@introduceDomain|two|");
  s.call(0, kIntroduce, "5|1|1|");
  EXPECT_THAT(s.events, ElementsAre("introduced:5:1:1"));
  s.call(0, kRelease, "5|");
  EXPECT_THAT(s.events, IsSupersetOf({"event:1:@releaseDomain|one|", "event:3:@releaseDomain|rd|"}));
}

TEST(MigrationImport, KnowsDomainsAndTargets) {
  Taken s(host());
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "2|"), "T|");
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "3|"), "F|");
  const auto introduced = s.engine.introduced_domains();
  ASSERT_EQ(introduced.size(), 2U);
  EXPECT_NE(introduced[0].introduction, 0U);
  EXPECT_NE(introduced[0].introduction, introduced[1].introduction);
  // Domain 2 acts for domain 1.
  EXPECT_EQ(s.write(2, "/local/domain/1/name", "other"), "OK|");
  EXPECT_EQ(s.write(1, "/local/domain/2", "other"), "EACCES");
}

TEST(MigrationImport, NamesWhatHasToBeAttached) {
  Stream stream = host();
  stream.connections[3].input = message(kRead, "/tool");
  stream.connections[4].output = bytes_of("end");
  stream.connections[4].partial = 3;
  stream.connections[2].unique_id = 99;
  Taken s(stream);
  ASSERT_EQ(s.import.connections.size(), 5U);
  for (ConnectionId id = 0; id < 5; ++id) EXPECT_EQ(s.import.connections[id].id, id);
  EXPECT_EQ(s.engine.domain_of(2), 2U);
  EXPECT_EQ(s.engine.domain_of(4), 0U);
  EXPECT_EQ(std::get<Ring>(s.import.connections[1].end).port, 7U);
  EXPECT_EQ(std::get<Socket>(s.import.connections[4].end).descriptor, 21);
  EXPECT_EQ(s.import.connections[3].input, message(kRead, "/tool"));
  EXPECT_EQ(s.import.connections[4].output, bytes_of("end"));
  EXPECT_EQ(s.import.connections[4].partial, 3);
  EXPECT_EQ(s.import.connections[2].unique_id, 99U);
  EXPECT_EQ(s.import.descriptors, (Descriptors{.listener = 4, .event_channels = 5}));
}

// As every C xenstored does it, by accident or not.
TEST(MigrationImport, TheNewestRequestComesFirstInAStream) {
  const auto both = [](std::vector<std::byte> first, const std::vector<std::byte>& second) {
    first.insert(first.end(), second.begin(), second.end());
    return first;
  };
  const auto oldest = message(kWrite, "oldest");
  const auto newest = message(kRead, "newest!");
  std::vector<std::byte> begun = message(kRead, "begun");
  begun.pop_back();
  Stream stream = host();
  stream.connections[4].input = both(both(newest, oldest), begun);
  const Import import = imported(stream);
  EXPECT_EQ(import.connections[4].input, both(both(oldest, newest), begun));
  EXPECT_EQ(exported(import.engine, import.connections).stream.connections[4].input,
            stream.connections[4].input);
}

TEST(MigrationImport, WatchesGoOn) {
  Taken s(host());
  s.write(0, "/local/domain/1/device/vif", "x");
  EXPECT_THAT(s.events, ElementsAre("event:1:device/vif|rel|", "event:3:/local/domain/1/device/vif|all|"));
  s.write(2, "/local/domain/2", "x");
  EXPECT_THAT(s.events, ElementsAre("event:1:/local/domain/2|abs|", "event:3:/local/domain/2|all|"));
  EXPECT_EQ(s.call(1, kUnwatch, "device|rel|"), "OK|");
  EXPECT_EQ(s.call(3, kWatch, "/local|all|"), "EEXIST");
  s.call(0, kRelease, "2|");
  EXPECT_THAT(s.events, Contains("event:3:@releaseDomain|rd|"));
}

TEST(MigrationImport, WhatIsHeldIsCounted) {
  Taken s(host());
  EXPECT_EQ(s.used(1, "nodes"), 2U);
  EXPECT_EQ(s.used(2, "nodes"), 1U);
  EXPECT_EQ(s.used(1, "watches"), 2U);
  // The same store made by requests holds as much.
  Store made;
  made.call(0, kIntroduce, "1|1|1|");
  made.call(0, kIntroduce, "2|1|1|");
  made.write(0, "/local/domain/1", "");
  made.call(0, kSetPerms, "/local/domain/1|n1|");
  made.write(1, "/local/domain/1/name", "one");
  made.call(1, kSetPerms, "/local/domain/1/name|n1|r2|");
  made.call(1, kWatch, "device|rel|");
  made.call(1, kWatch, "/local/domain/2|abs|");
  EXPECT_EQ(s.used(1, "memory"), made.used(1, "memory"));
  s.call(0, kRelease, "1|");
  EXPECT_TRUE(s.engine.check());
}

TEST(MigrationImport, APermissionOfADomainThatIsGoneStaysStale) {
  Stream stream = host();
  stream.nodes[6].permissions = {entry('n', 1), {.access = 'r', .stale = true, .domid = 5}, entry('r', 6)};
  Taken s(stream);
  s.call(0, kIntroduce, "5|1|1|");
  s.call(0, kIntroduce, "6|1|1|");
  s.engine.connect(10, 5);
  s.engine.connect(11, 6);
  EXPECT_EQ(s.read(10, "/local/domain/1/name"), "EACCES");
  // Domain 6 existed when it was granted this, though it was not introduced yet.
  EXPECT_EQ(s.read(11, "/local/domain/1/name"), "one");
}

TEST(MigrationImport, TakesLimits) {
  Stream stream = host();
  Taken plain(stream, Limits{.nodes = 44});
  EXPECT_EQ(plain.call(0, kGetQuota, "nodes|"), "44|");
  stream.version = kVersion2;
  stream.quotas =
      GlobalQuotas{.of_domains = {{"nodes", 50}, {"node-permissions", 3}, {"soft-memory", 0xFFFFFFFF}},
                   .of_all = {{"new", 1}}};
  stream.domains = {{.domid = 1, .features = 0, .quotas = {{"nodes", 60}, {"node-permissions", 3}}},
                    {.domid = 2, .features = 0xFF, .quotas = {{"nodes", 50}}}};
  Taken s(stream, Limits{.nodes = 44});
  EXPECT_EQ(s.call(0, kGetQuota, "nodes|"), "50|");
  EXPECT_EQ(s.call(0, kGetQuota, "permissions|"), "3|");
  EXPECT_EQ(s.call(0, kGetQuota, "soft-memory|"), "2147483647|");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|"), "60|");
  EXPECT_EQ(s.call(0, kSetQuota, "nodes|70|"), "OK|");
  EXPECT_EQ(s.call(0, kGetQuota, "1|nodes|"), "60|");
  EXPECT_EQ(s.call(0, kGetQuota, "2|nodes|"), "70|");
  EXPECT_EQ(s.call(1, kGetFeature, ""), "0|");
  EXPECT_NE(s.call(2, kGetFeature, ""), "0|");
  EXPECT_THAT(s.import.notes, ElementsAre("quota new is not known here"));
}

// Nobody knows what was changed since it began: it must not commit.
TEST(MigrationImport, OpenTransactionsCanOnlyBeTriedAgain) {
  Stream stream = host();
  stream.connections[3].transactions = {7};
  stream.nodes.push_back({.connection = 4,
                          .transaction = 7,
                          .access = 2,
                          .path = "/tool",
                          .value = bytes_of("in it"),
                          .permissions = {entry('n', 0)}});
  Taken s(stream);
  EXPECT_EQ(s.read(0, "/tool"), "");
  EXPECT_EQ(s.read(3, "/tool", 7), "");
  EXPECT_EQ(s.write(3, "/tool", "more", 7), "EAGAIN");
  EXPECT_EQ(s.end(3, 7), "EAGAIN");
  EXPECT_EQ(s.end(3, 7), "ENOENT");
  EXPECT_THAT(s.import.notes, ElementsAre(HasSubstr("transaction 7 can only end with EAGAIN")));
  EXPECT_TRUE(s.engine.check());
}

// A client that was not told of the end of its transaction must not get into another one's.
TEST(MigrationImport, NewTransactionsHaveIdsNobodyHas) {
  Taken s(host());
  EXPECT_GT(s.begin(3), 1'000'000U);
}

TEST(MigrationImport, WhatCannotBeTakenIsLeftOutAndSaid) {
  Stream stream = host();
  std::get<Ring>(stream.connections[2].end).target = 9;
  std::get<Socket>(stream.connections[3].end).descriptor = -1;
  stream.connections[4].output = bytes_of("no message");
  stream.connections.push_back(connection_to(6, Ring{.domid = 1, .target = {}, .port = 3}));
  stream.connections.push_back(connection_to(7, Ring{.domid = 0x7FF1, .target = {}, .port = 3}));
  stream.connections.push_back(connection_to(8, Socket{.descriptor = 30}));
  stream.connections.back().input = message(kWrite, std::string(kMaxPayload + 1, 'x'));
  stream.connections[1].watches.push_back({"/bad//path", "t", {}});
  stream.connections[1].watches.push_back({"device", "rel", {}});
  stream.nodes.push_back(node("/bad path", "", {entry('n', 0)}));
  stream.nodes.push_back(node("/no/parent", "", {entry('n', 0)}));
  stream.nodes.push_back(node("/long", std::string(kMaxPayload + 1, 'x'), {entry('n', 0)}));
  stream.nodes.push_back(node("/tool", "latter", {entry('n', 0)}));
  stream.nodes.push_back(node("/odd", "", {entry('n', 0x7FF2)}));
  stream.nodes.push_back(node("@other", "", {entry('n', 0)}));
  Taken s(stream);
  EXPECT_THAT(s.import.notes,
              testing::UnorderedElementsAre(
                  "domain 2 acts for domain 9, which is gone: not any more",
                  "the client on descriptor -1 is left out: it has no descriptor",
                  "the client on descriptor 21 is left out: its output is not whole messages",
                  "the ring of domain 1 is left out: it is there twice",
                  "the ring of domain 32753 is left out: no domain has this id",
                  "the client on descriptor 30 is left out: its input has a message that is too long",
                  "a watch of domain 1 is left out, its path is impossible: /bad//path",
                  "a watch of domain 1 is left out, its path is watched already: device",
                  "node /bad path is left out: its path is impossible",
                  "node /no/parent is left out: it has no parent",
                  "node /long is left out: its value is longer than a message",
                  "node /tool is there twice: the latter counts",
                  "/odd belongs to domain 32754, which is impossible: now to domain 0",
                  "special event @other is not known here"));
  EXPECT_EQ(s.import.connections.size(), 3U);
  EXPECT_EQ(s.read(0, "/tool"), "latter");
  EXPECT_EQ(s.call(0, kGetPerms, "/odd|"), "n0|");
  EXPECT_EQ(s.write(2, "/local/domain/1/name", "x"), "EACCES");
}

TEST(MigrationImport, NotesAreBounded) {
  Stream stream = host();
  for (int i = 0; i < 1000; ++i) stream.nodes.push_back(node("/x/" + std::to_string(i), "", {entry('n', 0)}));
  const Import import = imported(stream);
  ASSERT_EQ(import.notes.size(), 101U);
  EXPECT_EQ(import.notes.back(), "and 900 more");
}

TEST(MigrationImport, IsDeterministicAndCanBeASnapshot) {
  const Import one = imported(sample(kVersion2));
  const Import other = imported(sample(kVersion2));
  const auto bytes = write_snapshot(one.engine);
  EXPECT_EQ(write_snapshot(other.engine), bytes);
  EXPECT_EQ(one.notes, other.notes);
  auto restored = read_snapshot(bytes);
  ASSERT_TRUE(restored) << restored.error().message();
  EXPECT_TRUE(restored->check());
  EXPECT_EQ(write_snapshot(*restored), bytes);
}

TEST(MigrationImport, AnEmptyStreamIsAnEmptyStore) {
  Taken s(Stream{});
  EXPECT_THAT(s.import.notes, IsEmpty());
  s.engine.connect(0, 0);
  EXPECT_EQ(s.list(0, "/"), "");
  EXPECT_EQ(s.call(0, kIsDomainIntroduced, "0|"), "T|");
}

TEST(MigrationImport, WhoeverIsBeyondAWarningLevelIsNamed) {
  Stream stream = host();
  stream.quotas = GlobalQuotas{.of_domains = {{"soft-memory", 100}}, .of_all = {}};
  const Import import = imported(stream);
  EXPECT_THAT(import.notes, ElementsAre("domain 1 is beyond its soft limit of memory"));
}

// ---- handing over ----

TEST(MigrationExport, GivesBackWhatWasTaken) {
  for (std::uint32_t version : {kVersion1, kVersion2}) {
    Stream stream = host();
    stream.version = version;
    stream.connections[3].input = message(kRead, "/tool");
    stream.connections[4].output = message(kWrite, "OK");
    if (version == kVersion2) stream.connections[3].watches[1].depth = 2;
    const Import import = imported(stream);
    Export back = exported(import.engine, import.connections,
                           {.version = version, .descriptors = *stream.descriptors, .exists = {}});
    EXPECT_THAT(back.notes, IsEmpty());
    ASSERT_TRUE(back.stream.quotas);
    back.stream.quotas.reset();
    EXPECT_EQ(back.stream, stream);
    EXPECT_TRUE(encode(back.stream));
  }
}

// Through a second engine: nothing is lost on the way that anybody could see.
TEST(MigrationExport, TwiceThereIsOnceThere) {
  Store s;
  s.call(0, kIntroduce, "1|11|12|");
  s.call(0, kIntroduce, "2|21|22|");
  s.call(0, kSetTarget, "1|2|");
  s.call(0, kControl, "quota|set|nodes|77|");
  s.call(0, kSetQuota, "2|nodes|5|");
  s.call(0, kSetFeature, "2|0|");
  s.write(0, "/a/b/c", "value");
  s.call(0, kSetPerms, "/a/b|n1|r2|w3|");
  s.call(0, kSetPerms, "/a|b2|");
  s.call(1, kWatch, "/a|w|2|");
  s.call(0, kWatch, "device|relative|");
  const std::vector<Attachment> connections = {
      {.id = 0, .end = Socket{.descriptor = 10}, .input = {}, .output = {}, .unique_id = {}},
      {.id = 1, .end = Ring{.domid = 1, .target = {}, .port = 5}, .input = {}, .output = {}, .unique_id = {}},
      {.id = 2,
       .end = Ring{.domid = 2, .target = {}, .port = 6},
       .input = {},
       .output = {},
       .unique_id = {}}};
  const Destination destination{.version = kVersion2, .descriptors = {}, .exists = {}};
  const Export first = exported(s.engine, connections, destination);
  EXPECT_THAT(first.notes, ElementsAre("the ring of domain 0 is not served, and will not be"));

  Taken other(first.stream);
  EXPECT_THAT(other.import.notes, IsEmpty());
  const Export second = exported(other.engine, other.import.connections, destination);
  EXPECT_EQ(second.stream, first.stream);
  EXPECT_EQ(other.engine.digest(), s.engine.digest());
  EXPECT_EQ(other.call(0, kGetQuota, "2|nodes|"), "5|");
  EXPECT_EQ(other.call(0, kGetQuota, "1|nodes|"), "77|");
  EXPECT_EQ(other.call(0, kGetFeature, "2|"), s.call(0, kGetFeature, "2|"));
  for (std::string_view name : {"nodes", "watches", "memory"}) {
    for (std::uint32_t domid : {0U, 1U, 2U}) EXPECT_EQ(other.used(domid, name), s.used(domid, name)) << name;
  }
}

// The C xenstored looks a ring's target up when it reads the ring.
TEST(MigrationExport, ATargetStandsBeforeWhoActsForIt) {
  Store s;
  for (const char* domid : {"1", "2", "3"}) s.call(0, kIntroduce, std::string(domid) + "|1|1|");
  s.call(0, kSetTarget, "1|3|");
  s.call(0, kSetTarget, "3|2|");
  std::vector<std::uint16_t> order;
  for (const Connection& connection : exported(s.engine, {}).stream.connections) {
    order.push_back(std::get<Ring>(connection.end).domid);
  }
  EXPECT_THAT(order, ElementsAre(0, 2, 3, 1));
  s.call(0, kSetTarget, "2|1|");
  const Export circle = exported(s.engine, {});
  EXPECT_EQ(circle.stream.connections.size(), 4U);
  EXPECT_THAT(circle.notes, Contains("domain 2 acts for domain 1, which acts for it: this may be lost"));
}

// The C xenstored does not start with a node of a domain that is not introduced.
TEST(MigrationExport, NodesOfDomainsThatAreNotIntroducedBecomeDomainZeros) {
  Store s;
  s.write(0, "/of5", "x");
  s.call(0, kSetPerms, "/of5|n5|r6|r7|");
  const auto knows = [](std::uint32_t domid) { return domid != 7; };
  Export back = exported(s.engine, {}, {.version = kVersion1, .descriptors = {}, .exists = knows});
  EXPECT_THAT(back.notes, Contains("/of5 belongs to domain 5, which is not introduced: to domain 0 instead"));
  const Permission stale{.access = 'r', .stale = true, .domid = 7};
  EXPECT_THAT(back.stream.nodes.at(3).permissions, ElementsAre(entry('n', 0), entry('r', 6), stale));
  s.call(0, kIntroduce, "5|1|1|");
  back = exported(s.engine, {}, {.version = kVersion1, .descriptors = {}, .exists = knows});
  EXPECT_THAT(back.stream.nodes.at(3).permissions, ElementsAre(entry('n', 5), entry('r', 6), stale));
}

TEST(MigrationExport, GrantsOfEarlierDomainsAreStale) {
  Store s;
  s.call(0, kIntroduce, "5|1|1|");
  s.write(0, "/granted", "x");
  s.call(0, kSetPerms, "/granted|n0|r5|");
  s.call(0, kRelease, "5|");
  s.call(0, kIntroduce, "5|1|1|");
  Taken other(exported(s.engine, {}).stream);
  other.engine.connect(10, 5);
  EXPECT_EQ(other.read(10, "/granted"), "EACCES");
}

TEST(MigrationExport, WhatVersion1HasNoWordForIsSaid) {
  Store s;
  s.call(0, kWatch, "/a|t|2|");
  s.call(0, kSetPerms, "/|n0|r70000|");
  s.begin(0);
  const std::vector<Attachment> connections = {{.id = 0,
                                                .end = Socket{.descriptor = 10},
                                                .input = std::vector<std::byte>(70000),
                                                .output = {},
                                                .unique_id = {}}};
  const Export back = exported(s.engine, connections);
  EXPECT_THAT(back.notes,
              IsSupersetOf({"the watch of domain 0 on /a loses its depth",
                            "/: the permission for domain 70000 is left out",
                            "the client on descriptor 10: transaction 1 is open, and lost",
                            "the client on descriptor 10: its input cannot be handed over, and is lost"}));
  EXPECT_TRUE(encode(back.stream));
}

TEST(MigrationExport, DamageIsNotHandedOn) {
  Store s;
  s.write(0, "/a", "x");
  s.engine.flip_bit();
  EXPECT_THAT(export_engine(s.engine, {}, {}).error().message(),
              HasSubstr("damaged value or permissions of /a"));
  Store sound;
  const std::vector<Attachment> unknown = {
      {.id = 9, .end = Socket{.descriptor = 10}, .input = {}, .output = {}, .unique_id = {}}};
  EXPECT_THAT(export_engine(sound.engine, unknown, {}).error().message(),
              HasSubstr("connection 9 is unknown"));
  const std::vector<Attachment> torn = {
      {.id = 0, .end = Socket{.descriptor = 10}, .input = {}, .output = bytes_of("torn"), .unique_id = {}}};
  EXPECT_THAT(export_engine(sound.engine, torn, {}).error().message(), HasSubstr("not whole messages"));
}

}  // namespace
}  // namespace bulkhead::xenstore::migration
