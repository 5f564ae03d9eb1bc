// Custody is damaged, or cannot be executed again, and nobody lives who knows better: what can be read goes
// on, the rest is said to be lost; and the core may die in the middle of it.
#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <filesystem>

#include "runtime/unique_fd.h"
#include "tests/integration/core_host.h"
#include "tests/support/xs_client.h"

namespace bulkhead::test {
namespace {

// A memfd of the process, by its name.
UniqueFd memfd_of(std::int64_t pid, const std::string& name) {
  for (const auto& entry : std::filesystem::directory_iterator("/proc/" + std::to_string(pid) + "/fd")) {
    std::error_code gone;
    const auto target = std::filesystem::read_symlink(entry.path(), gone);
    if (!gone && target.string().starts_with("/memfd:" + name)) {
      return UniqueFd(::open(entry.path().c_str(), O_RDWR | O_CLOEXEC));
    }
  }
  return {};
}

// The journal is damaged and both die before anybody wrote a snapshot past it: starting again fails for that
// reason, once more, and only then goes on with what can be read. The incident says what is lost.
TEST(XenstoreReconcile, DamagedJournalIsTheLossyStepsAndSaysSo) {
  CoreHost host(xenstore_table());
  const v1::Component before = host.wait_complete("xenstore");
  const UniqueFd journal = memfd_of(before.active_pid(), "bulkhead-journal");
  ASSERT_TRUE(journal.valid());
  // An owner that goes on would find the damage and mend it.
  ::kill(static_cast<pid_t>(before.active_pid()), SIGSTOP);
  const std::uint8_t nonsense = 0xff;
  ASSERT_EQ(::pwrite(journal.get(), &nonsense, 1, 4096 + 5), 1);  // in the first record, which is needed
  ::kill(static_cast<pid_t>(before.standby_pid()), SIGKILL);
  ::kill(static_cast<pid_t>(before.active_pid()), SIGKILL);
  const v1::Incident incident =
      host.wait_incident("xenstore", "closed with a loss",
                         [](const v1::Incident& i) { return i.outcome() == "recovered" && i.lost() > 0; });
  EXPECT_THAT(incident.evidence(), ::testing::HasSubstr("journal damaged at position 0"));
  const auto& steps = incident.steps();
  const auto step = [&](const std::string& name) {
    return std::find_if(steps.begin(), steps.end(), [&](const auto& text) { return text.starts_with(name); });
  };
  EXPECT_NE(step("rebuild"), steps.end());
  EXPECT_NE(step("reconcile"), steps.end());
  EXPECT_LT(step("rebuild") - steps.begin(), step("reconcile") - steps.begin());
  host.wait_complete("xenstore");  // a new standby can follow
}

// The owner has executed a request and dies before anybody else has; whoever executes it again dies of it,
// the standby and each owner in its take-over. One request is given up, and nothing else.
TEST(XenstoreReconcile, ARequestThatKillsWhoFollowsIsLeftOutAndSaidSo) {
  CoreHost host(xenstore_table());
  host.wait_complete("xenstore");
  const auto connect = [&](const char* name, xs::AnomalyLog& log) {
    auto socket = xs::XsClient::connect(host.path("xenstore.sock"));
    EXPECT_TRUE(socket.has_value());
    return xs::XsClient(std::move(*socket), name, log);
  };
  xs::AnomalyLog log;
  xs::XsClient sender = connect("sender", log);
  ASSERT_TRUE(sender.call(XS_WRITE, 0, std::string("/kept\0value", 11)).has_value());
  ASSERT_TRUE(host.inject("xenstore", "poison").ok());
  ASSERT_TRUE(
      host.inject("xenstore", "crash-at", "send-queued").ok());  // behind the commit, before the answer
  EXPECT_FALSE(sender.call(XS_WRITE, 0, std::string("/poison/follow\0x", 16)).has_value());
  const v1::Incident incident =
      host.wait_incident("xenstore", "closed with a loss",
                         [](const v1::Incident& i) { return i.outcome() == "recovered" && i.lost() > 0; });
  EXPECT_EQ(incident.lost(), 1U);
  EXPECT_THAT(incident.evidence(), ::testing::HasSubstr("died following the journal"));
  EXPECT_THAT(incident.evidence(), ::testing::HasSubstr("WRITE \"/poison/follow.x\" of domain 0"));
  host.wait_complete("xenstore");
  xs::XsClient after = connect("after", log);
  EXPECT_EQ(after.call(XS_READ, 0, std::string("/kept\0", 6)), "value");
  EXPECT_FALSE(after.call(XS_READ, 0, std::string("/poison/follow\0", 15)).has_value());
}

// ---- the core dies meanwhile ----

// Steps of one kind that the incident with a loss names.
std::ptrdiff_t steps(const v1::Incident& incident, const std::string& name) {
  return std::ranges::count_if(incident.steps(), [&](const auto& step) { return step.starts_with(name); });
}

class ReconcileCrashPoint : public ::testing::TestWithParam<const char*> {};

// The next core goes on where this one was: it neither tries again what has failed twice nor gives up twice.
TEST_P(ReconcileCrashPoint, TheNextCoreKnowsWhatIsNext) {
  // Without a standby, whose death the core may or may not have noticed before the owner's.
  CoreHost host(xenstore_table("", false), GetParam());
  const v1::Component before = host.wait("xenstore", "it serves", [](const v1::Component& c) {
    return c.state() == v1::STATE_SERVING && c.ready();
  });
  const UniqueFd journal = memfd_of(before.active_pid(), "bulkhead-journal");
  ASSERT_TRUE(journal.valid());
  // An owner that goes on would find the damage and mend it.
  ::kill(static_cast<pid_t>(before.active_pid()), SIGSTOP);
  const std::uint8_t nonsense = 0xff;
  ASSERT_EQ(::pwrite(journal.get(), &nonsense, 1, 4096 + 5), 1);
  ::kill(static_cast<pid_t>(before.active_pid()), SIGKILL);
  if (*GetParam() != '\0') host.wait_for_run(2);
  const v1::Incident incident =
      host.wait_incident("xenstore", "closed with a loss",
                         [](const v1::Incident& i) { return i.outcome() == "recovered" && i.lost() > 0; });
  EXPECT_EQ(steps(incident, "reconcile"), 1) << incident.DebugString();
  // Once more at the most, by a core whose predecessor died before it could say what it had heard.
  EXPECT_LE(steps(incident, "rebuild"), 2) << incident.DebugString();
  EXPECT_EQ(host.core_runs(), *GetParam() != '\0' ? 2 : 1);
}

// Owner and edge are started first, then one that finds the damage, and the one that goes on.
INSTANTIATE_TEST_SUITE_P(All, ReconcileCrashPoint,
                         ::testing::Values("", "core-damage-heard:1", "core-reconcile-decided:1",
                                           "core-launch-intent:4", "core-launch-started:4",
                                           "core-launch-recorded:4"),
                         [](const auto& instance) {
                           std::string name = instance.param;
                           std::erase_if(name, [](unsigned char c) { return std::isalnum(c) == 0; });
                           return name.empty() ? "nowhere" : name;
                         });

}  // namespace
}  // namespace bulkhead::test
