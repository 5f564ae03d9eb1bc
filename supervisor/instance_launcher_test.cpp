#include "supervisor/instance_launcher.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <unistd.h>

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
  InstanceLauncher launcher(config, SupervisorConfig(), CgroupTree::detect(), false);
  ASSERT_TRUE(launcher.account());
  const std::string member = "id -G | tr ' ' '\\n' | grep -qx " + std::to_string(kStranger);
  EXPECT_EQ(status_of(launcher, member), 1);
  launcher.let_checks_join(kStranger);
  EXPECT_EQ(status_of(launcher, member), 0);
  EXPECT_EQ(status_of(launcher, "test $(id -un) = nobody"), 0);
}

}  // namespace
}  // namespace bulkhead::supervisor
