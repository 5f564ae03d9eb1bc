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
#include <array>
#include <atomic>
#include <fstream>
#include <functional>
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

// Clients of the stock daemon that see every update: one that asks and is answered, one with watches, one
// that does not read its answers, and one that has sent half a request.
class LiveUpdateClients : public LiveUpdate {
 protected:
  static constexpr size_t kUnread = 600;  // answers of /big: more than a socket takes
  static constexpr size_t kHalf = 20;     // bytes of the request

  void SetUp() override {
    start();
    // Connected before the others, so its requests are looked at first.
    auto socket = XsClient::connect(daemon_.socket_path());
    ASSERT_TRUE(socket) << socket.error().message();
    halved_ = std::move(*socket);
    client_ = connect("client");
    watcher_ = connect("watcher");
    slow_ = connect("slow");
    populate(*client_);
    for (const char* watch : {"/many|many|", "data|relative|", "@releaseDomain|gone|"}) {
      ASSERT_EQ(call(*watcher_, XS_WATCH, nul(watch), &events_), nul("OK|"));
    }
    call(*watcher_, XS_READ, nul("/big|"), &events_);
    before_ = list(*client_);
    held_before_ = quotas(*client_);
    ASSERT_GT(before_.size(), 100U);
  }
  std::vector<std::string> events_of(const std::function<void()>& work) {
    events_.seen.clear();
    work();
    call(*watcher_, XS_READ, nul("/big|"), &events_);
    return events_.seen;
  }
  void expect_everything_as_before() {
    EXPECT_EQ(list(*client_), before_);
    EXPECT_EQ(quotas(*client_), held_before_);
    EXPECT_EQ(call(*client_, XS_IS_DOMAIN_INTRODUCED, nul("2|")), nul("T|"));
    EXPECT_EQ(call(*client_, XS_IS_DOMAIN_INTRODUCED, nul("3|")), nul("F|"));
    EXPECT_EQ(call(*connect("newcomer"), XS_READ, nul("/local/domain/1/name|")), "one");
    const auto seen = events_of([&] {
      call(*client_, XS_WRITE, nul("/many/n5|value"));
      call(*client_, XS_WRITE, nul("/local/domain/0/data/x|"));
      call(*client_, XS_RM, nul("/local/domain/0|"));
    });
    EXPECT_THAT(seen, ElementsAre("/many/n5 many", "data/x relative", "data relative"));
  }
  // A state that was left in the daemon's folder.
  migration::Stream stream(const std::string& name) const {
    auto read = migration::decode(xenstore::as_bytes(content(file(name))));
    EXPECT_TRUE(read) << read.error().message();
    return read ? std::move(*read) : migration::Stream{};
  }
  static void expect_what_is_on_the_way(const migration::Stream& stream) {
    const auto half = [](const migration::Connection& c) { return c.input.size() == kHalf; };
    const auto unread = [](const migration::Connection& c) { return c.output.size() > 10000; };
    EXPECT_EQ(std::ranges::count_if(stream.connections, half), 1);
    EXPECT_EQ(std::ranges::count_if(stream.connections, unread), 1);
  }
  void send_the_first_half() {
    ASSERT_EQ(::write(halved_.get(), request_.data(), kHalf), static_cast<ssize_t>(kHalf));
  }
  void send_the_rest_and_read_the_answer() {
    const std::string rest = request_.substr(kHalf);
    ASSERT_EQ(::write(halved_.get(), rest.data(), rest.size()), static_cast<ssize_t>(rest.size()));
    std::array<char, sizeof(xsd_sockmsg) + 3> answer{};
    ASSERT_EQ(::recv(halved_.get(), answer.data(), answer.size(), MSG_WAITALL),
              static_cast<ssize_t>(answer.size()));
    EXPECT_EQ(std::string_view(answer.data() + sizeof(xsd_sockmsg), 3), "one");
  }

  UniqueFd halved_;
  std::unique_ptr<XsClient> client_;
  std::unique_ptr<XsClient> watcher_;
  std::unique_ptr<XsClient> slow_;
  Events events_;
  std::vector<std::string> before_;
  std::vector<std::string> held_before_;
  const std::string request_ = raw_message(XS_READ, nul("/local/domain/1/name|"));
};

TEST_F(LiveUpdateClients, SeeNothingOfATakeOverAndTheWayBack) {
  send_the_first_half();
  ask(*slow_, kUnread);
  // With each of these the daemon looks at a request of the others, too.
  for (size_t i = 0; i < kUnread + 10; ++i) call(*client_, XS_READ, nul("/big|"));
  ASSERT_NO_FATAL_FAILURE(to_us());
  const migration::Stream taken = stream("state_taken");
  expect_what_is_on_the_way(taken);
  EXPECT_EQ(content(file("notes_taken")), "");
  // What it wrote is what we write of what we read, to the byte.
  const auto encoded = migration::encode(taken);
  ASSERT_TRUE(encoded) << encoded.error().message();
  EXPECT_EQ(xenstore::as_text(*encoded), content(file("state_taken")));
  expect_everything_as_before();
  read_answers(*slow_);

  ask(*slow_, kUnread);
  call(*client_, XS_READ, nul("/big|"));
  ASSERT_NO_FATAL_FAILURE(to_stock());
  expect_what_is_on_the_way(stream("state_given"));
  EXPECT_EQ(content(file("notes_given")), "");
  expect_everything_as_before();
  read_answers(*slow_);
  send_the_rest_and_read_the_answer();

  // The stock daemon found the target, though its domain is the later one: it tells us of it again.
  ASSERT_NO_FATAL_FAILURE(to_us());
  EXPECT_THAT(targets(stream("state_taken")), ElementsAre("1 for 2"));
  expect_everything_as_before();
  EXPECT_THAT(events_of([&] { call(*client_, XS_RELEASE, nul("2|")); }), ElementsAre("@releaseDomain gone"));
  EXPECT_EQ(log_.total(), 0U);
}

UniqueFd listen_at(const std::string& path) {
  UniqueFd listener(::socket(AF_UNIX, SOCK_STREAM, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  path.copy(address.sun_path, sizeof address.sun_path - 1);
  EXPECT_EQ(::bind(listener.get(), reinterpret_cast<const sockaddr*>(&address), sizeof address), 0);
  EXPECT_EQ(::listen(listener.get(), 5), 0);
  return listener;
}

// With connection 0, of domain 0.
xenstore::Engine engine_with(const std::string& path, const std::string& value) {
  struct : xenstore::Output {
    void reply(uint32_t /*type*/, std::span<const std::byte> /*payload*/) override {}
    void event(xenstore::ConnectionId /*to*/, std::span<const std::byte> /*payload*/) override {}
  } ignored;
  xenstore::Engine engine;
  engine.connect(0, 0);
  const std::string payload = path + '\0' + value;
  const xenstore::Header header{XS_WRITE, 1, 0, static_cast<uint32_t>(payload.size())};
  engine.execute(0, {.header = header, .payload = xenstore::as_bytes(payload)}, ignored);
  return engine;
}

// Everything a connection may have on the way, as we say it and as it has to be understood.
TEST_F(LiveUpdate, TheStockDaemonContinuesOurStream) {
  const UniqueFd listener = listen_at(daemon_.socket_path());
  const UniqueFd events(::eventfd(0, EFD_NONBLOCK));
  int pair[2];
  ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, pair), 0);
  const UniqueFd ours(pair[0]);
  UniqueFd theirs(pair[1]);
  ASSERT_EQ(::fcntl(ours.get(), F_SETFD, FD_CLOEXEC), 0);
  const xenstore::Engine engine = engine_with("/a", "value");
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
