#include "supervisor/instance_launcher.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

#include <csignal>
#include <map>

namespace bulkhead::supervisor {
namespace {

constexpr gid_t kStranger = 64321;

int status_of(const InstanceLauncher& launcher, const std::string& script) {
  auto process = launcher.run_command({"/bin/sh", "-c", script});
  if (!process) return -1;
  pollfd ended{process->fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
  return process->reap().value_or(ExitStatus{}).status;
}

// The edge's account is not in the group that may connect to its socket.
TEST(InstanceLauncher, ChecksMayJoinAGroupThatTheComponentIsNotIn) {
  if (::geteuid() != 0) GTEST_SKIP() << "changing the account needs root";
  ComponentConfig config;
  config.name = "thing";
  config.program = "/bin/true";
  config.user = "nobody";
  InstanceLauncher launcher(config, SupervisorConfig(), CgroupTree::detect(), "id", false);
  ASSERT_TRUE(launcher.account());
  const std::string member = "id -G | tr ' ' '\\n' | grep -qx " + std::to_string(kStranger);
  EXPECT_EQ(status_of(launcher, member), 1);
  launcher.let_checks_join(kStranger);
  EXPECT_EQ(status_of(launcher, member), 0);
  EXPECT_EQ(status_of(launcher, "test $(id -un) = nobody"), 0);
}

// Two supervisors on one host may call their components the same, and number them alike.
TEST(InstanceLauncher, AnOrphanBelongsToOneCustody) {
  ComponentConfig config;
  config.name = "orphan";
  config.program = "/bin/sleep";
  config.args = {"1000"};
  std::map<std::string, PidFd> started;
  for (const char* id : {"one", "other"}) {
    auto launched =
        InstanceLauncher(config, SupervisorConfig(), CgroupTree(), id, true).launch(7, {}, nullptr);
    ASSERT_TRUE(launched);
    started.emplace(id, std::move(launched->process));
  }
  for (const auto& [id, process] : started) {
    const std::vector<PidFd> found = find_orphans(id, "orphan", 7);
    ASSERT_EQ(found.size(), 1U) << id;
    EXPECT_EQ(found[0].pid(), process.pid());
    EXPECT_TRUE(find_orphans(id, "orphan", 8).empty());
  }
  for (auto& [id, process] : started) {
    ASSERT_TRUE(process.signal(SIGKILL));
    pollfd ended{process.fd().get(), POLLIN, 0};
    EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
    EXPECT_TRUE(process.reap());
  }
}

}  // namespace
}  // namespace bulkhead::supervisor
