// Descriptors of a process that nobody supervises become custody of a component, all or none, whenever the
// core dies; and custody is given up.
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <cstring>
#include <set>

#include "runtime/memfd.h"
#include "runtime/unix_address.h"
#include "tests/integration/core_host.h"

namespace bulkhead::test {
namespace {

using ::testing::HasSubstr;

constexpr const char* kComponents = R"(
[components.echo]
program = "@BIN@/echo_component"
enabled = false
standby = true
socket = "echo.sock"
ring_entries = 8
restart = { backoff_initial = "10ms", backoff_max = "50ms", stop_timeout = "2s" }
)";

// What another program has: its state, its listening socket and a client that waits there.
class OtherProgram {
 public:
  explicit OtherProgram(const CoreHost& host) : path_(host.path("run/echo.sock")) {
    listener_.reset(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = unix_address(path_).value();
    ::unlink(path_.c_str());
    EXPECT_EQ(::bind(listener_.get(), as_sockaddr(address), sizeof address), 0);
    EXPECT_EQ(::listen(listener_.get(), 1), 0);
    auto state = create_memfd("echo-state", 4096);
    auto mapping = Mapping::map(state->borrow(), 4096);
    mapping->at<std::atomic<std::uint64_t>>(0)->store(41);
    state_ = std::move(*state);
  }
  // A client that asks for a count, and is not answered.
  UniqueFd ask() const {
    UniqueFd client(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
    const sockaddr_un address = unix_address(path_).value();
    EXPECT_EQ(::connect(client.get(), as_sockaddr(address), sizeof address), 0);
    EXPECT_EQ(::send(client.get(), "count", 5, MSG_NOSIGNAL), 5);
    const timeval limit{20, 0};
    ::setsockopt(client.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    return client;
  }
  v1::ImportCustodyRequest request() const {
    v1::ImportCustodyRequest request;
    request.set_component("echo");
    request.set_pid(::getpid());
    add(request, "state", "segment", state_.get());
    add(request, "listener", "socket", listener_.get());
    return request;
  }
  static void add(v1::ImportCustodyRequest& request, const std::string& name, const std::string& kind,
                  int number) {
    auto& item = *request.add_items();
    item.set_name(name);
    item.set_kind(kind);
    item.set_number(number);
  }

 private:
  std::string path_;
  UniqueFd listener_;
  UniqueFd state_;
};

grpc::Status import(CoreHost& host, const v1::ImportCustodyRequest& request) {
  v1::ImportCustodyResponse response;
  return host.api().ImportCustody(CoreHost::deadline().get(), request, &response);
}

template <typename Request, typename Response>
grpc::Status call(CoreHost& host, grpc::Status (v1::Supervisor::Stub::*method)(grpc::ClientContext*,
                                                                               const Request&, Response*)) {
  Request request;
  request.set_component("echo");
  Response response;
  return (host.api().*method)(CoreHost::deadline().get(), request, &response);
}
grpc::Status disable(CoreHost& host) {
  return call(host, &v1::Supervisor::Stub::Disable);
}
grpc::Status release(CoreHost& host) {
  return call(host, &v1::Supervisor::Stub::ReleaseCustody);
}

std::string answer_to(const UniqueFd& client) {
  std::string text(64, '\0');
  const ssize_t got = ::recv(client.get(), text.data(), text.size(), 0);
  text.resize(static_cast<std::size_t>(std::max<ssize_t>(got, 0)));
  return text;
}

const std::set<std::string> kNothing{"lease"};
const std::set<std::string> kAll{"lease", "listener", "state", "ring"};

TEST(CoreImport, StartsWithWhatAnotherProgramHad) {
  CoreHost host(kComponents);
  EXPECT_EQ(host.component("echo").state(), v1::STATE_STOPPED);
  EXPECT_EQ(host.custody_of("echo"), kNothing);  // another program may listen where it will
  const OtherProgram other(host);
  const UniqueFd client = other.ask();
  const grpc::Status taken = import(host, other.request());
  ASSERT_TRUE(taken.ok()) << taken.error_message();
  EXPECT_THAT(answer_to(client), HasSubstr("42 "));
  host.wait_complete("echo");
  EXPECT_EQ(host.custody_of("echo"), kAll);
  EXPECT_EQ(host.echo_count(), 43U);
}

TEST(CoreImport, ItOutlivesProcessesAndTheCore) {
  CoreHost host(kComponents, "");
  ASSERT_TRUE(import(host, OtherProgram(host).request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
  const v1::Component before = host.wait_complete("echo");
  const pid_t former = host.core_pid();
  host.signal_core(SIGKILL);
  for (const pid_t pid : host.processes_of("echo")) ::kill(pid, SIGKILL);
  host.wait_for_successor(former);
  EXPECT_EQ(host.echo_count(), 43U);
  EXPECT_NE(host.wait_complete("echo").active_pid(), before.active_pid());
  EXPECT_EQ(host.custody_of("echo"), kAll);
}

TEST(CoreImport, AllOrNone) {
  CoreHost host(kComponents);
  const OtherProgram other(host);
  const UniqueFd event(::eventfd(0, EFD_CLOEXEC));
  const UniqueFd socket(::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  const auto expect_refused = [&](const v1::ImportCustodyRequest& request, const std::string& why) {
    const grpc::Status refused = import(host, request);
    EXPECT_FALSE(refused.ok()) << why;
    EXPECT_THAT(refused.error_message(), HasSubstr(why));
    EXPECT_EQ(host.custody_of("echo"), kNothing) << why;
    EXPECT_EQ(host.component("echo").state(), v1::STATE_STOPPED) << why;
  };
  const auto with = [&](const std::string& name, const std::string& kind, int number) {
    v1::ImportCustodyRequest request = other.request();
    OtherProgram::add(request, name, kind, number);
    return request;
  };
  expect_refused(with("more", "other", 100'000), "more");
  expect_refused(with("lease", "other", event.get()), "another descriptor");
  expect_refused(with("state", "other", event.get()), "another descriptor");
  expect_refused(with("more", "segment", event.get()), "memfd");
  expect_refused(with("more", "socket", event.get()), "not a socket");
  expect_refused(with("Bad_Name", "other", event.get()), "bad item name");
  expect_refused(with("listener", "socket", socket.get()), "does not listen at");
  v1::ImportCustodyRequest many = other.request();
  for (int i = 0; i < 2000; ++i) OtherProgram::add(many, "n" + std::to_string(i), "other", event.get());
  expect_refused(many, "too many");
  v1::ImportCustodyRequest nobody = other.request();
  nobody.set_pid(0x3FFFFFFF);
  expect_refused(nobody, "cannot open process");
  ASSERT_TRUE(import(host, other.request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
}

TEST(CoreImport, NotOverAStateOfItsOwn) {
  CoreHost host(kComponents);
  ASSERT_TRUE(import(host, OtherProgram(host).request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
  EXPECT_THAT(import(host, OtherProgram(host).request()).error_message(), HasSubstr("must be stopped"));
  EXPECT_THAT(release(host).error_message(), HasSubstr("must be stopped"));
  ASSERT_TRUE(disable(host).ok());
  const OtherProgram other(host);
  EXPECT_THAT(import(host, other.request()).error_message(), HasSubstr("state of its own"));
  EXPECT_TRUE(host.custody_of("echo").contains("state"));
  ASSERT_TRUE(release(host).ok());
  EXPECT_EQ(host.custody_of("echo"), kNothing);
  ASSERT_TRUE(import(host, other.request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
}

// What was given up is gone: it begins anew, at a socket of its own.
TEST(CoreImport, ReleasedMeansAnew) {
  CoreHost host(kComponents);
  ASSERT_TRUE(import(host, OtherProgram(host).request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
  ASSERT_TRUE(disable(host).ok());
  ASSERT_TRUE(release(host).ok());
  ::unlink(host.path("run/echo.sock").c_str());  // as the other program would at its end
  ASSERT_TRUE(call(host, &v1::Supervisor::Stub::Enable).ok());
  EXPECT_EQ(host.echo_count(), 1U);
  EXPECT_EQ(host.wait_complete("echo").incarnation(), 1U);
}

class CoreImportCrashPoint : public ::testing::TestWithParam<const char*> {};

TEST_P(CoreImportCrashPoint, LeavesNothingHalf) {
  CoreHost host(kComponents, GetParam());
  const OtherProgram other(host);
  (void)import(host, other.request());  // the answer dies with the core
  host.wait_for_run(2);
  EXPECT_EQ(host.component("echo").state(), v1::STATE_STOPPED);
  EXPECT_EQ(host.custody_of("echo"), kNothing);
  ASSERT_TRUE(import(host, other.request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
  EXPECT_EQ(host.core_runs(), 2);
}

INSTANTIATE_TEST_SUITE_P(All, CoreImportCrashPoint,
                         ::testing::Values("core-import-half:1", "core-import-half:2",
                                           "core-import-deposited:1"));

TEST(CoreImport, AReleaseGoesOnInTheNextCore) {
  CoreHost host(kComponents, "core-release-half");
  ASSERT_TRUE(import(host, OtherProgram(host).request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
  ASSERT_TRUE(disable(host).ok());
  (void)release(host);
  host.wait_for_run(2);
  EXPECT_EQ(host.custody_of("echo"), kNothing);
  ASSERT_TRUE(import(host, OtherProgram(host).request()).ok());
  EXPECT_EQ(host.echo_count(), 42U);
}

}  // namespace
}  // namespace bulkhead::test
