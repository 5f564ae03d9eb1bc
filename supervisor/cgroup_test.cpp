#include "supervisor/cgroup.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <csignal>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <sstream>

#include "supervisor/launch.h"

namespace bulkhead::supervisor {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(Cgroup, WithoutDelegationItIsANoteAndARefusal) {
  // Test runs are not in a delegated group; should one be, there is nothing to see here.
  const CgroupTree tree = CgroupTree::detect();
  if (tree.usable()) GTEST_SKIP() << "this process runs in a delegated group";
  EXPECT_THAT(tree.note(), HasSubstr("no control groups: "));
  EXPECT_EQ(tree.group("x", {}).error().kind(), ErrorKind::kRefused);
  EXPECT_FALSE(tree.remove("x").has_value());
}

// The files a kernel would show, as plain files: what is written where, and what becomes of missing ones.
TEST(Cgroup, WritesLimitsAndReportsMissingOnes) {
  std::string directory = "/tmp/bulkhead-cgroup-XXXXXX";
  ASSERT_NE(::mkdtemp(directory.data()), nullptr);
  const std::filesystem::path root(directory);
  std::ofstream(root / "cgroup.controllers") << "cpu memory\n";
  std::ofstream(root / "cgroup.subtree_control") << "";
  std::filesystem::create_directory(root / "component-db");
  std::ofstream(root / "component-db" / "memory.max") << "";
  std::ofstream(root / "component-db" / "cpu.weight") << "";
  std::ofstream(root / "component-db" / "memory.current") << "12345\n";

  const CgroupTree tree = CgroupTree::at(directory, false);
  ASSERT_TRUE(tree.usable());
  EXPECT_EQ(tree.note(), "no control group limits for pids: not delegated");
  auto group = tree.group("db", {UINT64_MAX, 100, 200});
  ASSERT_TRUE(group.has_value()) << group.error().message();
  EXPECT_EQ(read_file(root / "component-db" / "memory.max"), "max");
  EXPECT_EQ(read_file(root / "component-db" / "cpu.weight"), "200");
  EXPECT_THAT(group->notes, ElementsAre(HasSubstr("runs without its limit: cannot open")));
  EXPECT_EQ(tree.memory_current("db"), 12345U);
  EXPECT_FALSE(tree.memory_current("other").has_value());
  std::filesystem::remove_all(root);
}

// The real thing, where this machine lets us: a group in the cgroup v2 hierarchy, and a process born in it.
class RealCgroup : public ::testing::Test {
 protected:
  void SetUp() override {
    for (const char* mount : {"/sys/fs/cgroup", "/sys/fs/cgroup/unified"}) {
      const std::string path = std::string(mount) + "/bulkhead-test-" + std::to_string(::getpid());
      if (std::filesystem::exists(std::string(mount) + "/cgroup.procs") && ::mkdir(path.c_str(), 0755) == 0) {
        path_ = path;
        return;
      }
    }
    GTEST_SKIP() << "no writable cgroup v2 hierarchy";
  }
  void TearDown() override {
    if (!path_.empty()) ::rmdir(path_.c_str());
  }
  std::string path_;
};

TEST_F(RealCgroup, AProcessIsBornInItsGroup) {
  const CgroupTree tree = CgroupTree::at(path_, false);
  ASSERT_TRUE(tree.usable()) << tree.note();
  auto group = tree.group("sleeper", {});
  ASSERT_TRUE(group.has_value()) << group.error().message();
  LaunchRequest request;
  request.program = "/bin/sleep";
  request.args = {"1000"};
  request.cgroup = group->directory.borrow();
  auto launched = launch(request);
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  EXPECT_THAT(launched->notes, ElementsAre());
  const std::string membership = read_file("/proc/" + std::to_string(launched->process.pid()) + "/cgroup");
  EXPECT_THAT(membership, HasSubstr("bulkhead-test-" + std::to_string(::getpid()) + "/component-sleeper"));
  EXPECT_FALSE(tree.remove("sleeper").has_value()) << "removed with a process in it";

  ASSERT_TRUE(launched->process.signal(SIGKILL).has_value());
  pollfd ended{launched->process.fd().get(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 20000), 1);
  launched->process.reap();
  EXPECT_TRUE(tree.remove("sleeper").has_value());
  EXPECT_TRUE(tree.remove("sleeper").has_value());  // gone already: as wished
}

TEST_F(RealCgroup, AGroupThatVanishedIsANote) {
  const CgroupTree tree = CgroupTree::at(path_, false);
  auto group = tree.group("gone", {});
  ASSERT_TRUE(group.has_value());
  ASSERT_TRUE(tree.remove("gone").has_value());
  LaunchRequest request;
  request.program = "/bin/true";
  request.cgroup = group->directory.borrow();
  auto launched = launch(request);
  ASSERT_TRUE(launched.has_value()) << launched.error().message();
  EXPECT_THAT(launched->notes, ElementsAre(HasSubstr("runs outside its control group")));
  pollfd ended{launched->process.fd().get(), POLLIN, 0};
  ASSERT_EQ(::poll(&ended, 1, 20000), 1);
  launched->process.reap();
}

}  // namespace
}  // namespace bulkhead::supervisor
