// Another xenstored hands over, by a stream made by hand over the local hypervisor, with bytes under way in
// both directions: every client and every domain goes on at the exact byte, at whatever instant the one that
// takes over dies.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstring>
#include <string>
#include <thread>

#include "components/xenstore/migration_stream.h"
#include "components/xenstore/protocol.h"
#include "hypervisor/local/machine_process.h"
#include "runtime/clock.h"
#include "tests/support/component_host.h"
#include "tests/support/guest.h"

namespace bulkhead {
namespace {

namespace migration = xenstore::migration;
using testing::ComponentHost;
using testing::Guest;
using ::testing::HasSubstr;

constexpr std::uint32_t kRingBytes = 1024;
constexpr std::int32_t kNumber = 40;  // of a client's descriptor in the predecessor

std::string nul(std::string text) {
  std::ranges::replace(text, '|', '\0');
  return text;
}

std::string message(std::uint32_t type, const std::string& payload, std::uint32_t id = 1) {
  const xsd_sockmsg header{
      .type = type, .req_id = id, .tx_id = 0, .len = static_cast<std::uint32_t>(nul(payload).size())};
  return std::string(reinterpret_cast<const char*>(&header), sizeof header) + nul(payload);
}

std::vector<std::byte> bytes_of(const std::string& text) {
  const auto bytes = xenstore::as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

// A client of the predecessor, at the other end of the socket that is handed over.
struct Client {
  UniqueFd ours;
  UniqueFd theirs;

  Client() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends.data()), 0);
    ours.reset(ends[0]);
    theirs.reset(ends[1]);
    const timeval limit{20, 0};
    ::setsockopt(ours.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    ::fcntl(theirs.get(), F_SETFL, O_NONBLOCK);  // as another program may have it
  }
  void send(const std::string& bytes) const {
    EXPECT_EQ(::send(ours.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL), std::ssize(bytes));
  }
  void expect(const std::string& bytes) const {
    std::string read(bytes.size(), '\0');
    const ssize_t count = ::recv(ours.get(), read.data(), read.size(), MSG_WAITALL);
    read.resize(static_cast<std::size_t>(std::max<ssize_t>(count, 0)));
    EXPECT_EQ(read, bytes);
  }
  void expect_silence() const {
    char byte = 0;
    EXPECT_EQ(::recv(ours.get(), &byte, 1, MSG_DONTWAIT), -1);
    EXPECT_EQ(errno, EAGAIN);
  }
};

// The frontend's half of a ring without a driver: the test decides on each byte.
struct RawRing {
  Guest& guest;

  // As it stands in the middle of its life: both directions about to wrap.
  void begin_at(std::uint32_t requests, std::uint32_t responses) const {
    Guest::word(guest.ring().connection).store(XENSTORE_CONNECTED);
    for (auto* index : {&guest.ring().req_cons, &guest.ring().req_prod}) Guest::word(*index).store(requests);
    for (auto* index : {&guest.ring().rsp_cons, &guest.ring().rsp_prod}) Guest::word(*index).store(responses);
  }
  void write(const std::string& bytes) const {
    const std::uint32_t at = Guest::word(guest.ring().req_prod).load();
    for (std::uint32_t i = 0; i < bytes.size(); ++i) guest.ring().req[(at + i) % kRingBytes] = bytes[i];
    Guest::word(guest.ring().req_prod).store(at + static_cast<std::uint32_t>(bytes.size()));
    guest.notify();
  }
  // What the predecessor did: took so many bytes, put these.
  void was_taken(std::uint32_t count) const { Guest::word(guest.ring().req_cons).fetch_add(count); }
  void was_put(const std::string& bytes) const {
    const std::uint32_t at = Guest::word(guest.ring().rsp_prod).load();
    for (std::uint32_t i = 0; i < bytes.size(); ++i) guest.ring().rsp[(at + i) % kRingBytes] = bytes[i];
    Guest::word(guest.ring().rsp_prod).store(at + static_cast<std::uint32_t>(bytes.size()));
  }
  std::uint32_t waiting() const {
    return Guest::word(guest.ring().rsp_prod).load() - Guest::word(guest.ring().rsp_cons).load();
  }
  std::string read(std::size_t most) const {
    std::string bytes;
    const std::uint32_t at = Guest::word(guest.ring().rsp_cons).load();
    const auto count = static_cast<std::uint32_t>(std::min<std::size_t>(waiting(), most));
    for (std::uint32_t i = 0; i < count; ++i) bytes += guest.ring().rsp[(at + i) % kRingBytes];
    Guest::word(guest.ring().rsp_cons).store(at + count);
    guest.notify();
    return bytes;
  }
};

class XenstoreImport : public ::testing::Test {
 protected:
  // Two clients, this host's kernel, and a guest, all of them in the middle of something.
  void hand_over() {
    auto machine = hypervisor::local::MachineProcess::start(BULKHEAD_BIN "/bulkhead-local-hypervisor");
    ASSERT_TRUE(machine.has_value()) << machine.error().message();
    machine_ = std::move(*machine);
    auto host = ComponentHost::create(
        {BULKHEAD_BIN "/bulkhead-xenstored", {{"hypervisor", machine_->spec()}}, 256, "off"});
    ASSERT_TRUE(host.has_value()) << host.error().message();
    host_ = std::move(*host);
    auto hypervisor = hypervisor::open(machine_->spec());
    ASSERT_TRUE(hypervisor.has_value());
    predecessor_ = std::move(*hypervisor);
    auto events = predecessor_->make_events();
    ASSERT_TRUE(events.has_value());
    ASSERT_TRUE(predecessor_->use_events(events->borrow()).has_value());
    kernel_ = bound_guest(0);
    guest_ = bound_guest(std::nullopt);
    clients_.clear();
    for (int i = 0; i < 2; ++i) clients_.emplace_back();
    build_stream();
    give(*events);
  }
  std::unique_ptr<Guest> bound_guest(std::optional<hypervisor::Domid> domid) {
    auto guest = Guest::create(machine_->socket(), domid);
    EXPECT_TRUE(guest.has_value()) << guest.error().message();
    auto port = predecessor_->bind((*guest)->domid(), (*guest)->port());
    EXPECT_TRUE(port.has_value()) << port.error().message();
    ports_[(*guest)->domid()] = *port;
    return std::move(*guest);
  }
  migration::Connection ring_of(std::uint32_t id, const Guest& guest) {
    migration::Connection made;
    made.id = id;
    const auto domid = static_cast<std::uint16_t>(const_cast<Guest&>(guest).domid());
    made.end = migration::Ring{.domid = domid, .target = {}, .port = ports_.at(domid)};
    return made;
  }
  static migration::Connection client(std::uint32_t id, std::int32_t number) {
    migration::Connection made;
    made.id = id;
    made.end = migration::Socket{.descriptor = number};
    return made;
  }

  void build_stream() {
    stream_ = {};
    stream_.descriptors = migration::Descriptors{.listener = 5, .event_channels = 6};
    build_kernel();
    build_guest();
    // It has sent a request and a half, and read a part of an event. (The newest request stands first.)
    migration::Connection busy = client(3, kNumber);
    busy.input = bytes_of(message(XS_READ, "/b|", 8) + message(XS_READ, "/a|", 7) + half_request());
    busy.output = bytes_of(rest_of_event() + message(XS_WATCH_EVENT, "/x|t|", 0));
    busy.partial = static_cast<std::uint16_t>(rest_of_event().size());
    migration::Connection watcher = client(4, kNumber + 1);
    watcher.watches = {{"/a", "token", {}}, {"@releaseDomain", "gone", {}}};
    stream_.connections.push_back(busy);
    stream_.connections.push_back(watcher);
    const std::string domid = std::to_string(guest_->domid());
    const migration::Permission root{'n', false, 0};
    const migration::Permission owner{'n', false, static_cast<std::uint16_t>(guest_->domid())};
    for (const char* path : {"/", "/a", "/b", "/local", "/local/domain"}) {
      stream_.nodes.push_back({.path = path,
                               .value = bytes_of(std::string("value of ") + path),
                               .permissions = {root, {'r', false, owner.domid}}});
    }
    stream_.nodes.push_back({.path = "/local/domain/" + domid, .value = {}, .permissions = {owner}});
  }
  void build_kernel() {
    const RawRing ring{*kernel_};
    ring.begin_at(0xFFFFFFF0, 77);
    ring.write(message(XS_READ, "/a|", 3));
    ring.was_taken(5);
    ring.was_put("partly read");
    migration::Connection kernel = ring_of(1, *kernel_);
    kernel.input = bytes_of(message(XS_READ, "/a|", 3).substr(0, 5));
    kernel.output = bytes_of("the rest of it");
    kernel.partial = static_cast<std::uint16_t>(kernel.output.size());
    stream_.connections.push_back(kernel);
  }
  // One request is taken whole, one in part; of a reply one part is read, one stands in the ring, one does
  // not.
  void build_guest() {
    const RawRing ring{*guest_};
    ring.begin_at(1000, 0xFFFFFFF9);
    const std::string first = message(XS_READ, "/a|", 4);
    const std::string second = message(XS_WRITE, "data|x", 5);
    ring.write(first + second);
    ring.was_taken(static_cast<std::uint32_t>(first.size()) + 9);
    ring.was_put(reply_under_way().substr(0, 30));
    EXPECT_EQ(ring.read(12), reply_under_way().substr(0, 12));
    migration::Connection guest = ring_of(2, *guest_);
    guest.input = bytes_of(first + second.substr(0, 9));
    guest.output = bytes_of(reply_under_way().substr(30) + message(XS_WATCH_EVENT, "y|t|", 0));
    guest.partial = static_cast<std::uint16_t>(reply_under_way().size() - 30);
    stream_.connections.push_back(guest);
  }
  static std::string reply_under_way() { return message(XS_READ, std::string(60, 'r'), 2); }
  static std::string half_request() { return message(XS_READ, "/a|", 9).substr(0, 17); }
  static std::string rest_of_event() { return "of an event"; }

  void give(const UniqueFd& events) {
    auto bytes = migration::encode(stream_);
    ASSERT_TRUE(bytes.has_value()) << bytes.error().message();
    put_stream(*bytes);
    host_->put("events", "other", UniqueFd(::fcntl(events.get(), F_DUPFD_CLOEXEC, 0)));
    for (std::size_t i = 0; i < clients_.size(); ++i) {
      host_->put("client-" + std::to_string(kNumber + static_cast<int>(i)), "socket",
                 UniqueFd(::fcntl(clients_[i].theirs.get(), F_DUPFD_CLOEXEC, 0)));
      clients_[i].theirs.reset();
    }
  }
  void put_stream(std::span<const std::byte> bytes) {
    auto segment = create_memfd("import", bytes.size());
    ASSERT_TRUE(segment.has_value());
    ASSERT_EQ(::pwrite(segment->get(), bytes.data(), bytes.size(), 0), std::ssize(bytes));
    host_->put("import", "segment", std::move(*segment));
  }

  void start_serving() {
    ASSERT_TRUE(host_->launch().has_value());
    ASSERT_TRUE(host_->wait_until([&] { return host_->active() != nullptr; }));
  }
  // An instance that owns custody and dies at this point of its take-over.
  void die_at(const std::string& point) {
    // Its first deposit is not answered as long as we do not pump.
    auto owner = host_->launch();
    ASSERT_TRUE(owner.has_value());
    const std::int64_t deadline = monotonic_ns() + 20 * kSecond;
    const auto spin_until = [&](const auto& condition) {
      while (!condition() && monotonic_ns() < deadline) std::this_thread::yield();
      return condition();
    };
    ASSERT_TRUE(spin_until([&] { return host_->owner() == (*owner)->pid(); }));
    auto launched = host_->launch();
    ASSERT_TRUE(launched.has_value());
    ComponentHost::Instance* heir = *launched;
    ASSERT_TRUE(host_->inject(*heir, "crash-at", point).has_value());
    host_->ping(*heir);
    ASSERT_TRUE(spin_until([&] { return heir->vitals().pong == heir->vitals().ping; }));
    host_->kill(**owner);
    ASSERT_TRUE(host_->wait_until([&] { return heir->ended() || heir->active(); }));
    ASSERT_TRUE(heir->ended());
    EXPECT_EQ(heir->exit_status().status, SIGKILL);
    host_->forget_ended();
  }
  std::string read_all(Guest& guest, std::size_t count) {
    std::string bytes;
    EXPECT_TRUE(host_->wait_until([&] {
      bytes += RawRing{guest}.read(count - bytes.size());
      return bytes.size() == count;
    })) << bytes.size()
        << " of " << count << " bytes";
    return bytes;
  }
  void expect_from(Guest& guest, const std::string& bytes) {
    EXPECT_EQ(read_all(guest, bytes.size()), bytes);
  }

  // Everybody gets the rest of what was under way, then what follows from it, and nothing else.
  void expect_everybody_goes_on() {
    expect_from(*guest_, reply_under_way().substr(12) + message(XS_WATCH_EVENT, "y|t|", 0) +
                             message(XS_READ, "value of /a", 4) + message(XS_WRITE, "OK|", 5));
    expect_from(*kernel_, "partly read");
    expect_from(*kernel_, "the rest of it" + message(XS_READ, "value of /a", 3));
    clients_[0].expect(rest_of_event() + message(XS_WATCH_EVENT, "/x|t|", 0) +
                       message(XS_READ, "value of /a", 7) + message(XS_READ, "value of /b", 8));
    clients_[0].send(message(XS_READ, "/a|", 9).substr(17));
    clients_[0].expect(message(XS_READ, "value of /a", 9));
    clients_[1].expect_silence();
    clients_[0].send(message(XS_WRITE, "/a|changed", 10));
    clients_[0].expect(message(XS_WRITE, "OK|", 10));
    clients_[1].expect(message(XS_WATCH_EVENT, "/a|token|", 0));
    EXPECT_FALSE(host_->holds("import"));
    EXPECT_FALSE(host_->holds("client-40"));
    EXPECT_FALSE(host_->holds("client-41"));
  }
  void expect_they_live_through_a_death() {
    host_->kill(*host_->active());
    ASSERT_TRUE(host_->wait_until([&] { return host_->living() == 0; }));
    host_->forget_ended();
    start_serving();
    RawRing{*guest_}.write(message(XS_READ, "data|", 6));
    expect_from(*guest_, message(XS_READ, "x", 6));
    RawRing{*kernel_}.write(message(XS_READ, "/a|", 7));
    expect_from(*kernel_, message(XS_READ, "changed", 7));
    clients_[0].send(message(XS_RM, "/a|", 11));
    clients_[0].expect(message(XS_RM, "OK|", 11));
    clients_[1].expect(message(XS_WATCH_EVENT, "/a|token|", 0));
  }

  std::unique_ptr<hypervisor::local::MachineProcess> machine_;
  std::unique_ptr<ComponentHost> host_;
  std::unique_ptr<hypervisor::Hypervisor> predecessor_;
  std::map<hypervisor::Domid, hypervisor::Port> ports_;
  std::unique_ptr<Guest> kernel_;
  std::unique_ptr<Guest> guest_;
  std::vector<Client> clients_;
  migration::Stream stream_;
};

TEST_F(XenstoreImport, EverybodyGoesOnAtTheExactByte) {
  ASSERT_NO_FATAL_FAILURE(hand_over());
  start_serving();
  EXPECT_THAT(host_->active()->takeover().note(), HasSubstr("took over 2 clients and 2 domains' rings"));
  expect_everybody_goes_on();
  expect_they_live_through_a_death();
}

TEST_F(XenstoreImport, EveryCrashPoint) {
  for (const char* point : {"import-begun", "import-half", "import-attached", "import-published",
                            "import-committed", "import-moved", "import-half-withdrawn"}) {
    SCOPED_TRACE(point);
    ASSERT_NO_FATAL_FAILURE(hand_over());
    ASSERT_NO_FATAL_FAILURE(die_at(point));
    EXPECT_TRUE(host_->holds("import"));  // who brought it could take everything back
    clients_[0].expect_silence();
    EXPECT_EQ(RawRing{*kernel_}.waiting(), std::string("partly read").size());
    start_serving();
    expect_everybody_goes_on();
    expect_they_live_through_a_death();
  }
}

TEST_F(XenstoreImport, WhatCannotBeReadIsLeftToWhoBroughtIt) {
  ASSERT_NO_FATAL_FAILURE(hand_over());
  auto bytes = migration::encode(stream_);
  ASSERT_TRUE(bytes.has_value());
  bytes->resize(bytes->size() - 20);
  put_stream(*bytes);
  auto instance = host_->launch();
  ASSERT_TRUE(instance.has_value());
  ASSERT_TRUE(host_->wait_until([&] { return (*instance)->ended(); }));
  EXPECT_EQ((*instance)->exit_status().status, 1);
  EXPECT_TRUE(host_->holds("import"));
  EXPECT_TRUE(host_->holds("client-40"));
  clients_[0].expect_silence();
  EXPECT_EQ(RawRing{*guest_}.waiting(), 18U);
}

// A domain that begins its ring anew needs its own port, which the stream does not say.
TEST_F(XenstoreImport, AnImportedDomainBeginsAnew) {
  ASSERT_NO_FATAL_FAILURE(hand_over());
  start_serving();
  expect_everybody_goes_on();
  Guest::word(guest_->ring().connection).store(XENSTORE_RECONNECT);
  guest_->notify();
  ASSERT_TRUE(
      host_->wait_until([&] { return Guest::word(guest_->ring().connection).load() == XENSTORE_CONNECTED; }));
  RawRing{*guest_}.write(message(XS_READ, "data|", 6));
  expect_from(*guest_, message(XS_READ, "x", 6));
}

TEST_F(XenstoreImport, ADomainThatDiedMeanwhileIsGone) {
  ASSERT_NO_FATAL_FAILURE(hand_over());
  const std::string home = "/local/domain/" + std::to_string(guest_->domid());
  ASSERT_TRUE(guest_->domain().destroy().has_value());
  start_serving();
  clients_[1].expect(message(XS_WATCH_EVENT, "@releaseDomain|gone|", 0));
  clients_[1].send(message(XS_IS_DOMAIN_INTRODUCED, std::to_string(guest_->domid()) + "|", 5));
  clients_[1].expect(message(XS_IS_DOMAIN_INTRODUCED, "F|", 5));
}

}  // namespace
}  // namespace bulkhead
