// Live updates between Debian's C xenstored and us, both ways, with the clients' connections kept: what we
// read of its stream is what its clients had, and it serves what we write.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <spawn.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <fstream>
#include <iterator>
#include <thread>

#include "components/xenstore/migration.h"
#include "components/xenstore/protocol.h"
#include "tests/support/counter_checkers.h"
#include "tests/support/load_loop.h"
#include "tests/support/load_report.h"
#include "tests/support/model_checker.h"
#include "tests/support/stock_daemon.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/watch_checker.h"

namespace bulkhead::xs {
namespace {

namespace migration = xenstore::migration;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::UnorderedElementsAre;

constexpr const char* kControl = BULKHEAD_PEERS_DIR "/usr/lib/xen-4.17/bin/xenstore-control";
constexpr const char* kOurs = BULKHEAD_LIVE_UPDATE_HOST;
constexpr int64_t kDeadlineNs = int64_t{60} * 1000000000;

std::string nul(std::string_view text) {
  std::string out(text);
  std::ranges::replace(out, '|', '\0');
  return out;
}

std::string content(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// A message as a client writes it.
std::string raw_message(std::uint32_t type, std::string_view payload) {
  const xsd_sockmsg header{
      .type = type, .req_id = 4, .tx_id = 0, .len = static_cast<uint32_t>(payload.size())};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header).append(payload);
}

struct Events : Listener {
  void on_reply(const Reply& /*reply*/) override {}
  void on_event(XsClient& /*client*/, std::string_view path, std::string_view token) override {
    seen.push_back(std::string(path) + " " + std::string(token));
  }
  std::vector<std::string> seen;
};

class LiveUpdate : public testing::Test {
 protected:
  void start() {
    const Status started = daemon_.start(3);
    ASSERT_TRUE(started) << started.error().message();
  }
  std::unique_ptr<XsClient> connect(const std::string& name) {
    auto socket = XsClient::connect(daemon_.socket_path());
    EXPECT_TRUE(socket) << socket.error().message();
    return std::make_unique<XsClient>(std::move(*socket), name, log_);
  }
  // The exit status of xenstore-control.
  int control(std::vector<std::string> words) const {
    words.insert(words.begin(), kControl);
    std::vector<char*> arguments;
    for (std::string& word : words) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    std::string path = "XENSTORED_PATH=" + daemon_.socket_path();
    char* const environment[] = {path.data(), nullptr};
    pid_t pid = -1;
    if (::posix_spawn(&pid, kControl, nullptr, nullptr, arguments.data(), environment) != 0) return -1;
    int status = 0;
    ::waitpid(pid, &status, 0);
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  std::string running() const {
    return std::filesystem::read_symlink("/proc/" + std::to_string(daemon_.pid()) + "/exe").filename();
  }
  void to_us() {
    ASSERT_EQ(control({"live-update", kOurs}), 0);
    ASSERT_EQ(running(), "live_update_host");
  }
  void to_stock() {
    ASSERT_EQ(control({"live-update", StockDaemon::program()}), 0);
    ASSERT_EQ(running(), "xenstored");
  }
  std::filesystem::path file(const std::string& name) const { return daemon_.folder() / name; }

  StockDaemon daemon_;
  AnomalyLog log_;
};

std::string call(XsClient& client, xsd_sockmsg_type type, std::string_view payload,
                 Listener* listener = nullptr, uint32_t transaction = 0) {
  const auto reply = client.call(type, transaction, payload, listener);
  return reply ? *reply : reply.error().message();
}

// Everything there is, a line per node, whatever the order of the daemon's directories.
void list(XsClient& client, const std::string& path, std::vector<std::string>& lines) {
  const std::string payload = path + '\0';
  std::string permissions = call(client, XS_GET_PERMS, payload);
  std::ranges::replace(permissions, '\0', ' ');
  lines.push_back(path + " = " + call(client, XS_READ, payload) + " (" + permissions + ")");
  std::string_view children;
  const std::string names = call(client, XS_DIRECTORY, payload);
  for (std::string_view rest = names; !rest.empty();) {
    const std::string_view name = rest.substr(0, rest.find('\0'));
    rest.remove_prefix(name.size() + 1);
    list(client, (path == "/" ? "" : path) + "/" + std::string(name), lines);
  }
}

std::vector<std::string> list(XsClient& client) {
  std::vector<std::string> lines;
  list(client, "/", lines);
  std::ranges::sort(lines);
  return lines;
}

// What each domain holds, in the words of `xenstore-control quota`, without what only we say.
std::vector<std::string> quotas(XsClient& client) {
  std::vector<std::string> all;
  for (const char* domid : {"1", "2"}) {
    const std::string text = call(client, XS_CONTROL, nul("quota|") + domid + '\0');
    all.push_back(text.substr(0, text.find("undelivered")));
    if (all.back().ends_with('\0')) all.back().pop_back();
  }
  return all;
}

bool has_much_output(const migration::Connection& connection) {
  return connection.output.size() > 10000;
}

std::vector<std::string> targets(const migration::Stream& stream) {
  std::vector<std::string> found;
  for (const migration::Connection& connection : stream.connections) {
    const auto* ring = std::get_if<migration::Ring>(&connection.end);
    if (ring == nullptr || !ring->target) continue;
    found.push_back(std::to_string(ring->domid) + " for " + std::to_string(*ring->target));
  }
  return found;
}

// Two guests, one of which acts for the other, nodes of all kinds.
void populate(XsClient& client) {
  for (const char* request : {"1|11|12|", "2|21|22|"}) {
    ASSERT_EQ(call(client, XS_INTRODUCE, nul(request)), nul("OK|"));
  }
  ASSERT_EQ(call(client, XS_SET_TARGET, nul("1|2|")), nul("OK|"));
  call(client, XS_WRITE, nul("/local/domain/1/name|one"));
  call(client, XS_SET_PERMS, nul("/local/domain/1|n1|"));
  call(client, XS_SET_PERMS, nul("/local/domain/1/name|n1|r2|b3|"));
  call(client, XS_WRITE, nul("/local/domain/2/data|"));
  call(client, XS_SET_PERMS, nul("/local/domain/2/data|w2|"));
  call(client, XS_WRITE, std::string("/binary\0\0\1\2\xFF", 12));
  call(client, XS_WRITE, nul("/big|") + std::string(2000, 'b'));
  for (int i = 0; i < 100; ++i) call(client, XS_WRITE, "/many/n" + std::to_string(i) + nul("|value"));
  call(client, XS_SET_PERMS, nul("@releaseDomain|n0|r1|"));
}

// So many requests whose answers the client does not read yet.
void ask(XsClient& client, size_t count) {
  for (size_t i = 0; i < count; ++i) client.send(XS_READ, 0, nul("/big|"));
  client.flush();
}
void read_answers(XsClient& client) {
  Events events;
  while (client.connected() && client.in_flight() > 0) client.receive(events);
}

TEST_F(LiveUpdate, WeTakeOverAndGiveBackWithoutALoss) {
  start();
  // Before the others: its requests are looked at first.
  auto halved = XsClient::connect(daemon_.socket_path());
  ASSERT_TRUE(halved);
  auto client = connect("client");
  auto watcher = connect("watcher");
  auto slow = connect("slow");
  populate(*client);
  Events events;
  for (const char* watch : {"/many|many|", "data|relative|", "@releaseDomain|gone|"}) {
    ASSERT_EQ(call(*watcher, XS_WATCH, nul(watch), &events), nul("OK|"));
  }
  call(*watcher, XS_READ, nul("/big|"), &events);
  const auto before = list(*client);
  const auto held_before = quotas(*client);
  ASSERT_GT(before.size(), 100U);

  // Half a request, and more answers than a socket takes. Once they have been looked at, they are in the
  // stream.
  const std::string request = raw_message(XS_READ, nul("/local/domain/1/name|"));
  ASSERT_EQ(::write(halved->get(), request.data(), 20), 20);
  constexpr size_t kUnread = 600;
  ask(*slow, kUnread);
  for (size_t i = 0; i < kUnread + 10; ++i) call(*client, XS_READ, nul("/big|"));
  ASSERT_NO_FATAL_FAILURE(to_us());

  // What it wrote is what we write of what we read, to the byte.
  const std::string taken = content(file("state_taken"));
  const auto stream = migration::decode(xenstore::as_bytes(taken));
  ASSERT_TRUE(stream) << stream.error().message();
  const auto encoded = migration::encode(*stream);
  ASSERT_TRUE(encoded) << encoded.error().message();
  EXPECT_EQ(xenstore::as_text(*encoded), taken);
  EXPECT_EQ(content(file("notes_taken")), "");
  const auto has_input = [](const migration::Connection& c) { return c.input.size() == 20; };
  EXPECT_EQ(std::ranges::count_if(stream->connections, has_input), 1);
  EXPECT_EQ(std::ranges::count_if(stream->connections, has_much_output), 1);

  const auto is_as_before = [&] {
    EXPECT_EQ(list(*client), before);
    EXPECT_EQ(quotas(*client), held_before);
    EXPECT_EQ(call(*client, XS_IS_DOMAIN_INTRODUCED, nul("2|")), nul("T|"));
    EXPECT_EQ(call(*client, XS_IS_DOMAIN_INTRODUCED, nul("3|")), nul("F|"));
    auto newcomer = connect("newcomer");
    EXPECT_EQ(call(*newcomer, XS_READ, nul("/local/domain/1/name|")), "one");
    events.seen.clear();
    call(*client, XS_WRITE, nul("/many/n5|value"));
    call(*client, XS_WRITE, nul("/local/domain/0/data/x|"));
    call(*client, XS_RM, nul("/local/domain/0|"));
    call(*watcher, XS_READ, nul("/big|"), &events);
    EXPECT_THAT(events.seen, ElementsAre("/many/n5 many", "data/x relative", "data relative"));
  };
  is_as_before();
  read_answers(*slow);
  ask(*slow, kUnread);
  call(*client, XS_READ, nul("/big|"));
  ASSERT_NO_FATAL_FAILURE(to_stock());

  EXPECT_EQ(content(file("notes_given")), "");
  const auto back = migration::decode(xenstore::as_bytes(content(file("state_given"))));
  ASSERT_TRUE(back) << back.error().message();
  EXPECT_EQ(std::ranges::count_if(back->connections, has_input), 1);
  EXPECT_EQ(std::ranges::count_if(back->connections, has_much_output), 1);
  is_as_before();
  read_answers(*slow);
  ASSERT_EQ(::write(halved->get(), request.data() + 20, request.size() - 20),
            static_cast<ssize_t>(request.size() - 20));
  std::array<char, 19> answer{};
  ASSERT_EQ(::recv(halved->get(), answer.data(), answer.size(), MSG_WAITALL), 19);
  EXPECT_EQ(std::string_view(answer.data() + 16, 3), "one");

  // The stock daemon found the target, though its domain is the later one: it tells us of it again.
  ASSERT_NO_FATAL_FAILURE(to_us());
  const auto again = migration::decode(xenstore::as_bytes(content(file("state_taken"))));
  ASSERT_TRUE(again) << again.error().message();
  EXPECT_THAT(targets(*again), UnorderedElementsAre("1 for 2"));
  is_as_before();
  events.seen.clear();
  call(*client, XS_RELEASE, nul("2|"));
  call(*watcher, XS_READ, nul("/big|"), &events);
  EXPECT_THAT(events.seen, ElementsAre("@releaseDomain gone"));
  EXPECT_EQ(log_.total(), 0U);
}

// Everything a connection may have on the way, as we say it and as it has to be understood.
TEST_F(LiveUpdate, TheStockDaemonContinuesOurStream) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  daemon_.socket_path().copy(address.sun_path, sizeof address.sun_path - 1);
  ASSERT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  ASSERT_EQ(::listen(listener.get(), 5), 0);
  UniqueFd events(::eventfd(0, EFD_NONBLOCK));
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  ASSERT_EQ(::fcntl(ours.get(), F_SETFD, FD_CLOEXEC), 0);

  xenstore::Engine engine;
  engine.connect(0, 0);
  struct : xenstore::Output {
    void reply(uint32_t, std::span<const std::byte>) override {}
    void event(xenstore::ConnectionId, std::span<const std::byte>) override {}
  } ignored;
  const std::string node = nul("/a|value");
  engine.execute(
      0,
      {.header = {XS_WRITE, 1, 0, static_cast<uint32_t>(node.size())}, .payload = xenstore::as_bytes(node)},
      ignored);
  const std::string input = raw_message(XS_READ, nul("/a|")) + raw_message(XS_READ, nul("/none|")) +
                            raw_message(XS_READ, nul("/a|")).substr(0, 17);
  const std::string output = "partial" + raw_message(XS_WRITE, nul("OK|"));
  migration::Attachment attachment{.id = 0,
                                   .end = migration::Socket{.descriptor = theirs.get()},
                                   .input = {},
                                   .output = {},
                                   .partial = 7,
                                   .unique_id = {}};
  std::ranges::copy(xenstore::as_bytes(input), std::back_inserter(attachment.input));
  std::ranges::copy(xenstore::as_bytes(output), std::back_inserter(attachment.output));
  const auto given = migration::export_engine(
      engine, {attachment},
      {.version = migration::kVersion1, .descriptors = {listener.get(), events.get()}, .exists = {}});
  ASSERT_TRUE(given) << given.error().message();
  const auto bytes = migration::encode(given->stream);
  ASSERT_TRUE(bytes) << bytes.error().message();
  const Status started = daemon_.start_from(*bytes);
  ASSERT_TRUE(started) << started.error().message();
  theirs.reset();

  const auto expect = [&](const std::string& text) {
    std::string read(text.size(), '\0');
    ASSERT_EQ(::recv(ours.get(), read.data(), read.size(), MSG_WAITALL), static_cast<ssize_t>(read.size()));
    EXPECT_EQ(read, text);
  };
  expect(output);
  expect(raw_message(XS_READ, "value"));
  expect(raw_message(XS_ERROR, nul("ENOENT|")));
  const std::string rest = raw_message(XS_READ, nul("/a|")).substr(17);
  ASSERT_EQ(::write(ours.get(), rest.data(), rest.size()), static_cast<ssize_t>(rest.size()));
  expect(raw_message(XS_READ, "value"));
  EXPECT_EQ(call(*connect("newcomer"), XS_READ, nul("/a|")), "value");
}

// The stock daemon waits for transactions to end, and when forced does not, without a word in its stream.
TEST_F(LiveUpdate, TransactionsLostByForceAreOverForTheirClients) {
  start();
  auto client = connect("client");
  const std::string begun = call(*client, XS_TRANSACTION_START, nul("|"));
  const auto id = static_cast<uint32_t>(std::stoul(begun));
  ASSERT_EQ(call(*client, XS_WRITE, nul("/in|it"), nullptr, id), nul("OK|"));
  // What xenstore-control says, but that it does not try at all when it must not wait.
  auto admin = connect("admin");
  const std::string program = std::string("live-update|-f|") + kOurs + "|";
  ASSERT_EQ(call(*admin, XS_CONTROL, nul(program)), nul("OK|"));
  EXPECT_THAT(call(*admin, XS_CONTROL, nul("live-update|-s|-t|0|")), HasSubstr("Domain 0"));
  EXPECT_EQ(running(), "xenstored");
  ASSERT_EQ(call(*admin, XS_CONTROL, nul(program)), nul("OK|"));
  ASSERT_EQ(call(*admin, XS_CONTROL, nul("live-update|-s|-t|0|-F|")), nul("OK|"));
  EXPECT_EQ(running(), "live_update_host");
  EXPECT_EQ(call(*client, XS_READ, nul("/in|")), "ENOENT");
  EXPECT_NE(std::stoul(call(*client, XS_TRANSACTION_START, nul("|"))), id);
  EXPECT_EQ(call(*client, XS_WRITE, nul("/in|it"), nullptr, id), "ENOENT");
  EXPECT_EQ(call(*client, XS_TRANSACTION_END, nul("T|"), nullptr, id), "ENOENT");
}

// A guest that is being made: its nodes exist, it is not introduced. The stock daemon cannot read its own
// stream then.
TEST_F(LiveUpdate, NodesOfADomainThatIsNotIntroducedYetAreKept) {
  start();
  auto client = connect("client");
  call(*client, XS_WRITE, nul("/local/domain/3|"));
  ASSERT_EQ(call(*client, XS_SET_PERMS, nul("/local/domain/3|n3|r2|")), nul("OK|"));
  ASSERT_NO_FATAL_FAILURE(to_us());
  EXPECT_EQ(call(*client, XS_GET_PERMS, nul("/local/domain/3|")), nul("n3|r2|"));
  EXPECT_EQ(content(file("notes_taken")), "");
  ASSERT_EQ(call(*client, XS_INTRODUCE, nul("3|1|1|")), nul("OK|"));
  ASSERT_EQ(call(*client, XS_INTRODUCE, nul("2|1|1|")), nul("OK|"));
  ASSERT_NO_FATAL_FAILURE(to_stock());
  EXPECT_EQ(call(*client, XS_GET_PERMS, nul("/local/domain/3|")), nul("n3|r2|"));
}

// Back and forth while clients work: they notice nothing.
TEST_F(LiveUpdate, ClientsAtWorkNoticeNothing) {
  start();
  const CheckerSettings settings{daemon_.socket_path(), "/check", 4};
  LoadLoop loop(settings, log_, {});
  ASSERT_TRUE(loop.open());
  ASSERT_TRUE(loop.add(std::make_unique<CounterWriter>(0, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<CounterReader>(0, 1, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<WatchChecker>(0, settings, log_)));
  ASSERT_TRUE(loop.add(std::make_unique<TransferChecker>(0, settings, log_)));
  // Each update comes when there was work to do since the last one.
  constexpr uint64_t kBetween = 2000;
  std::atomic<uint64_t> replies = 0;
  std::atomic<bool> over = false;
  std::vector<int> results;
  std::thread updates([&] {
    for (uint64_t i = 1; i <= 6; ++i) {
      for (uint64_t now = replies; now < i * kBetween && !over; now = replies) replies.wait(now);
      results.push_back(control({"live-update", i % 2 == 1 ? kOurs : StockDaemon::program()}));
    }
    over = true;
  });
  const int64_t end = monotonic_ns() + kDeadlineNs;
  loop.run([&] {
    if (monotonic_ns() > end) over = true;
    replies = over ? UINT64_MAX : loop.replies();
    replies.notify_all();
    return over.load();
  });
  updates.join();
  EXPECT_GT(loop.replies(), 6 * kBetween);
  EXPECT_EQ(results.size(), 6U);
  EXPECT_THAT(results, testing::Each(0));
  EXPECT_EQ(log_.total(), 0U) << report_text(make_report(loop, log_, 0));
  for (const auto& checker : loop.checkers()) EXPECT_GT(checker->completed(), 0U) << checker->name();
}

}  // namespace
}  // namespace bulkhead::xs
