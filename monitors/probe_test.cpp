#include "monitors/probe.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>

#include <array>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <filesystem>

#include "monitors/request_probe.h"

namespace bulkhead::monitors {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using Status = ProbeStep::Status;

constexpr std::int64_t kMs = 1'000'000;
constexpr int kPatienceMs = 20000;

// ---- schedule ----

TEST(ProbeSchedule, RunsAtItsIntervalFromTheStartOfTheLast) {
  ProbeSchedule schedule({.interval_ns = 100 * kMs, .deadline_ns = 50 * kMs, .failures = 1}, 0);
  EXPECT_TRUE(schedule.due(0));
  schedule.begin(0);
  EXPECT_FALSE(schedule.due(1000 * kMs));
  EXPECT_EQ(schedule.next_ns(), 50 * kMs);
  EXPECT_FALSE(schedule.end(30 * kMs, ProbeStep::passed()));
  EXPECT_EQ(schedule.last_round_trip_ns(), 30 * kMs);
  EXPECT_TRUE(schedule.last_passed());
  EXPECT_EQ(schedule.next_ns(), 100 * kMs);
  EXPECT_FALSE(schedule.due(100 * kMs - 1));
  EXPECT_TRUE(schedule.due(100 * kMs));
  // Late: the next one is counted from the real start, there is no catching up.
  schedule.begin(350 * kMs);
  schedule.end(351 * kMs, ProbeStep::passed());
  EXPECT_EQ(schedule.next_ns(), 450 * kMs);
}

TEST(ProbeSchedule, AFindingNeedsARowOfFailures) {
  ProbeSchedule schedule({.interval_ns = 10 * kMs, .deadline_ns = 5 * kMs, .failures = 3}, 0);
  const auto fail = [&](std::int64_t at) {
    schedule.begin(at);
    return schedule.end(at + kMs, ProbeStep::failed("refused"));
  };
  EXPECT_FALSE(fail(0));
  EXPECT_FALSE(fail(10 * kMs));
  schedule.begin(20 * kMs);
  EXPECT_FALSE(schedule.end(21 * kMs, ProbeStep::passed()));
  EXPECT_FALSE(fail(30 * kMs));
  EXPECT_FALSE(fail(40 * kMs));
  EXPECT_FALSE(schedule.last_passed());
  const auto finding = fail(50 * kMs);
  ASSERT_TRUE(finding.has_value());
  EXPECT_EQ(finding->monitor, "probe");
  EXPECT_EQ(finding->evidence, "refused, 3 times in a row");
  EXPECT_EQ(finding->since_ns, 30 * kMs);
  EXPECT_EQ(finding->found_ns, 51 * kMs);
  EXPECT_FALSE(fail(60 * kMs));  // said once
  schedule.reset(70 * kMs);
  EXPECT_EQ(schedule.failures(), 0U);
  EXPECT_FALSE(fail(70 * kMs));
}

TEST(ProbeSchedule, KnowsItsDeadlineAndDiscards) {
  ProbeSchedule schedule({.interval_ns = 10 * kMs, .deadline_ns = 5 * kMs, .failures = 1}, 0);
  EXPECT_FALSE(schedule.overdue(100 * kMs));
  schedule.begin(0);
  EXPECT_FALSE(schedule.overdue(5 * kMs - 1));
  EXPECT_TRUE(schedule.overdue(5 * kMs));
  schedule.discard(7 * kMs);
  EXPECT_EQ(schedule.failures(), 0U);
  EXPECT_TRUE(schedule.due(7 * kMs));
}

// ---- probes ----

class ProbeTest : public ::testing::Test {
 protected:
  void SetUp() override {
    std::string name = "/tmp/bulkhead-probe-XXXXXX";
    ASSERT_NE(::mkdtemp(name.data()), nullptr);
    directory_ = name;
    path_ = directory_ + "/s";
  }
  void TearDown() override { std::filesystem::remove_all(directory_); }

  static UniqueFd listen_unix(const std::string& path, int backlog) {
    const int number = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (number < 0) {
      ADD_FAILURE() << "no socket";
      return {};
    }
    UniqueFd fd(number);
    sockaddr_un address{};
    address.sun_family = AF_UNIX;
    std::memcpy(address.sun_path, path.data(), path.size());
    if (!fd.valid()) {
      ADD_FAILURE() << "no socket";
      return fd;
    }
    EXPECT_EQ(::bind(number, reinterpret_cast<sockaddr*>(&address), sizeof address), 0);
    EXPECT_EQ(::listen(fd.get(), backlog), 0);
    return fd;
  }
  // Steps while the probe's descriptor is ready, until it has an outcome or waits for the peer.
  static ProbeStep run(Probe& probe, int wait_ms = kPatienceMs) {
    ProbeStep step = probe.step();
    while (step.status == Status::kPending) {
      pollfd ready{step.fd, static_cast<short>(step.events), 0};
      if (::poll(&ready, 1, wait_ms) == 0) return step;
      step = probe.step();
    }
    return step;
  }

  std::string directory_, path_;
};

TEST_F(ProbeTest, TcpPassesWhenSomebodyListens) {
  UniqueFd server(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  socklen_t length = sizeof address;
  ASSERT_EQ(::bind(server.get(), reinterpret_cast<sockaddr*>(&address), length), 0);
  ASSERT_EQ(::getsockname(server.get(), reinterpret_cast<sockaddr*>(&address), &length), 0);
  const std::string target = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));

  // Bound, not listening: refused.
  auto probe = make_tcp_probe(target);
  ASSERT_TRUE(probe.has_value());
  const auto refused = run(**probe);
  EXPECT_EQ(refused.status, Status::kFailed);
  EXPECT_EQ(refused.evidence, "cannot connect to " + target + ": Connection refused");

  ASSERT_EQ(::listen(server.get(), 1), 0);
  probe = make_tcp_probe(target);
  EXPECT_EQ(run(**probe).status, Status::kPassed);
}

TEST_F(ProbeTest, TcpWantsNumbers) {
  for (const char* bad : {"", ":53", "localhost:53", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0",
                          "127.0.0.1:65536", "[::1:53", "::1:53", "127.0.0.1:53x"})
    EXPECT_EQ(make_tcp_probe(bad).error().kind(), ErrorKind::kInvalid) << bad;
  EXPECT_TRUE(make_tcp_probe("[::1]:53").has_value());
}

TEST_F(ProbeTest, UnixConnectsOrSaysWhyNot) {
  auto probe = make_unix_probe(path_);
  EXPECT_EQ(run(**probe).evidence, "cannot connect to " + path_ + ": No such file or directory");
  const UniqueFd server = listen_unix(path_, 0);
  probe = make_unix_probe(path_);
  EXPECT_EQ(run(**probe).status, Status::kPassed);
  // That one still waits in the backlog, which is full now: nobody accepts.
  auto second = make_unix_probe(path_);
  const auto full = run(**second);
  EXPECT_EQ(full.status, Status::kFailed);
  EXPECT_THAT(full.evidence, HasSubstr("Resource temporarily unavailable"));
  EXPECT_FALSE(make_unix_probe(std::string(200, 'x')).has_value());
}

class ForkStarter : public ProcessStarter {
 public:
  Result<PidFd> start(const std::vector<std::string>& command) override {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::setsid();
      std::vector<char*> argv;
      argv.reserve(command.size() + 1);
      for (const auto& argument : command) argv.push_back(const_cast<char*>(argument.c_str()));
      argv.push_back(nullptr);
      ::execv(argv[0], argv.data());
      ::_exit(127);
    }
    last_pid = pid;
    return PidFd::open(pid);
  }
  pid_t last_pid = 0;
};

TEST_F(ProbeTest, ACommandPassesWithStatusZero) {
  ForkStarter starter;
  auto probe = make_command_probe({"/bin/true"}, starter);
  EXPECT_EQ(run(**probe).status, Status::kPassed);
  probe = make_command_probe({"/bin/sh", "-c", "exit 3"}, starter);
  EXPECT_EQ(run(**probe).evidence, "/bin/sh: exit status 3");
  probe = make_command_probe({"/bin/sh", "-c", "kill -9 $$"}, starter);
  EXPECT_EQ(run(**probe).evidence, "/bin/sh: killed by signal 9 (Killed)");
  EXPECT_FALSE(make_command_probe({}, starter).has_value());
}

TEST_F(ProbeTest, ACommandThatIsCancelledIsKilled) {
  ForkStarter starter;
  {
    auto probe = make_command_probe({"/bin/sleep", "1000"}, starter);
    EXPECT_EQ(run(**probe, 0).status, Status::kPending);
  }
  // Reaped, or about to be: either way the process ends.
  int status = 0;
  const pid_t reaped = ::waitpid(starter.last_pid, &status, 0);
  EXPECT_TRUE(reaped == -1 || WIFSIGNALED(status));
}

TEST_F(ProbeTest, TheGrpcHelperIsToldAddressServiceAndDeadline) {
  ForkStarter starter;
  const std::string helper = directory_ + "/helper";
  UniqueFd file(::open(helper.c_str(), O_CREAT | O_WRONLY | O_CLOEXEC, 0755));
  const std::string script = "#!/bin/sh\n[ \"$1\" = unix:/x ] && [ \"$2\" = svc ] && [ \"$3\" = 1500 ]\n";
  ASSERT_EQ(::write(file.get(), script.data(), script.size()), static_cast<ssize_t>(script.size()));
  file.reset();
  auto probe = make_grpc_probe(helper, "unix:/x", "svc", 1500 * kMs, starter);
  EXPECT_EQ(run(**probe).status, Status::kPassed);
}

// ---- the xenstore probe, against a server that answers as the test says ----

struct Header {
  std::uint32_t type, request_id, transaction_id, length;
};

class XenstoreProbeTest : public ProbeTest {
 protected:
  void SetUp() override {
    ProbeTest::SetUp();
    listener_ = listen_unix(path_, 5);
    probe_ = std::move(*make_request_probe("xenstore", path_, 77));
    EXPECT_EQ(probe_->step().status, Status::kPending);
    peer_ = UniqueFd(::accept4(listener_.get(), nullptr, nullptr, SOCK_CLOEXEC));
  }
  std::string request(std::uint32_t type) {
    Header header{};
    EXPECT_EQ(::recv(peer_.get(), &header, sizeof header, MSG_WAITALL), ssize_t{sizeof header});
    EXPECT_EQ(header.type, type);
    request_id_ = header.request_id;
    std::string payload(header.length, '\0');
    EXPECT_EQ(::recv(peer_.get(), payload.data(), payload.size(), MSG_WAITALL),
              static_cast<ssize_t>(payload.size()));
    return payload;
  }
  ProbeStep answer(std::uint32_t type, const std::string& payload, std::uint32_t length_off = 0) {
    const Header header{type, request_id_, 0, static_cast<std::uint32_t>(payload.size()) + length_off};
    std::string bytes(reinterpret_cast<const char*>(&header), sizeof header);
    bytes += payload;
    // Byte by byte: no message arrives whole by promise.
    ProbeStep step;
    for (const char byte : bytes) {
      EXPECT_EQ(::send(peer_.get(), &byte, 1, MSG_NOSIGNAL), 1);
      step = probe_->step();
      if (step.status != Status::kPending) return step;
    }
    return step;
  }

  UniqueFd listener_, peer_;
  std::unique_ptr<Probe> probe_;
  std::uint32_t request_id_ = 0;
};

TEST_F(XenstoreProbeTest, WritesThenReadsTheSameValue) {
  EXPECT_EQ(request(11), std::string("/tool/bulkhead/probe\0", 21) + "77");
  EXPECT_EQ(answer(11, std::string("OK\0", 3)).status, Status::kPending);
  EXPECT_EQ(request(2), std::string("/tool/bulkhead/probe\0", 21));
  EXPECT_EQ(answer(2, "77").status, Status::kPassed);
}

TEST_F(XenstoreProbeTest, AWrongValueIsAFailure) {
  request(11);
  answer(11, std::string("OK\0", 3));
  request(2);
  EXPECT_EQ(answer(2, "76").evidence, "read back another value than was written");
}

TEST_F(XenstoreProbeTest, AnErrorIsNamed) {
  request(11);
  EXPECT_EQ(answer(16, std::string("EACCES\0", 7)).evidence, "answered WRITE with EACCES");
}

TEST_F(XenstoreProbeTest, NonsenseIsAFailure) {
  request(11);
  EXPECT_EQ(answer(4, "x").evidence, "answered WRITE with another type");
}

TEST_F(XenstoreProbeTest, AnAnswerToSomethingElseIsAFailure) {
  request(11);
  request_id_ = 99;
  EXPECT_EQ(answer(11, "x").evidence, "answered another request than WRITE");
}

TEST_F(XenstoreProbeTest, AnOversizedAnswerIsNotWaitedFor) {
  request(11);
  EXPECT_EQ(answer(11, "", 4097).evidence, "answered WRITE with an oversized message");
}

TEST_F(XenstoreProbeTest, AClosedConnectionIsAFailure) {
  request(11);
  peer_.reset();
  EXPECT_EQ(probe_->step().evidence, path_ + " closed the connection instead of answering WRITE");
}

TEST_F(ProbeTest, RequestProtocolsAreListed) {
  EXPECT_THAT(request_protocols(), ElementsAre("xenstore"));
  EXPECT_EQ(make_request_probe("nonsense", path_, 1).error().kind(), ErrorKind::kNotFound);
  auto probe = make_request_probe("xenstore", path_, 1);
  EXPECT_EQ(run(**probe).evidence, "cannot connect to " + path_ + ": No such file or directory");
}

}  // namespace
}  // namespace bulkhead::monitors
