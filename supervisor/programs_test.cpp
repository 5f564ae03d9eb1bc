#include "supervisor/programs.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <poll.h>
#include <sys/stat.h>

#include <csignal>
#include <filesystem>
#include <fstream>

#include "supervisor/launch.h"
#include "supervisor/notify_receiver_test.h"

namespace bulkhead::supervisor {
namespace {

using ::testing::HasSubstr;

class ProgramsTest : public ::testing::Test {
 protected:
  ProgramsTest()
      : folder_(std::filesystem::temp_directory_path() / ("programs-" + std::to_string(::getpid()))),
        store_(FdStore::from_environment()),
        programs_("thing", store_) {
    std::filesystem::create_directory(folder_);
  }
  ~ProgramsTest() override { std::filesystem::remove_all(folder_); }

  std::string write(const std::string& name, const std::string& content) {
    std::ofstream(folder_ / name) << content;
    ::chmod((folder_ / name).c_str(), 0755);
    return folder_ / name;
  }
  Program made(std::uint64_t number) {
    auto program = open_program(write(std::to_string(number), "program " + std::to_string(number)));
    EXPECT_TRUE(program) << program.error().message();
    program->number = number;
    return std::move(*program);
  }
  static std::uint64_t number_of(const Program* program) { return program == nullptr ? 0 : program->number; }
  void expect(std::uint64_t in_use, std::uint64_t kept, std::uint64_t candidate) {
    EXPECT_EQ(number_of(programs_.in_use()), in_use);
    EXPECT_EQ(number_of(programs_.kept()), kept);
    EXPECT_EQ(number_of(programs_.candidate()), candidate);
  }

  std::filesystem::path folder_;
  FdStore store_;
  Programs programs_;
};

TEST_F(ProgramsTest, AreKnownByTheirContent) {
  const auto one = open_program(write("one", "#!/bin/sh\n"));
  const auto same = open_program(write("same", "#!/bin/sh\n"));
  const auto other = open_program(write("other",
                                        "\x7f"
                                        "ELF and more"));
  ASSERT_TRUE(one && same && other);
  EXPECT_EQ(one->id, same->id);
  EXPECT_NE(one->id, other->id);
  EXPECT_TRUE(one->is_script);
  EXPECT_FALSE(other->is_script);
  EXPECT_EQ(open_program(folder_ / "none").error().kind(), ErrorKind::kNotFound);
  EXPECT_EQ(open_program(folder_).error().kind(), ErrorKind::kInvalid);
  EXPECT_EQ(open_program("/etc/passwd").error().kind(), ErrorKind::kInvalid);
}

TEST_F(ProgramsTest, WhoElseMayWriteToThemIsNotTrusted) {
  const std::string path = write("program", "x");
  EXPECT_TRUE(check_trusted(*open_program(path)));
  ::chmod(path.c_str(), 0775);
  EXPECT_EQ(check_trusted(*open_program(path)).error().kind(), ErrorKind::kRefused);
  if (::geteuid() != 0) return;
  ::chmod(path.c_str(), 0755);
  ASSERT_EQ(::chown(path.c_str(), 65534, 65534), 0);
  EXPECT_THAT(check_trusted(*open_program(path)).error().message(), HasSubstr("belongs neither"));
}

TEST_F(ProgramsTest, OneThatRunsIsFoundEvenIfItIsGone) {
  std::filesystem::copy_file("/bin/sleep", folder_ / "sleep");
  const auto on_disk = open_program(folder_ / "sleep");
  LaunchRequest request;
  request.program = folder_ / "sleep";
  request.args = {"1000"};
  auto launched = launch(request);
  ASSERT_TRUE(launched) << launched.error().message();
  std::filesystem::remove(folder_ / "sleep");
  const auto running = program_of_process(launched->process.pid(), request.program);
  ASSERT_TRUE(running) << running.error().message();
  EXPECT_EQ(running->id, on_disk->id);
  EXPECT_EQ(running->path, request.program);
  EXPECT_FALSE(program_of_process(launched->process.pid(), "/bin/sleep"));
  EXPECT_TRUE(launched->process.signal(SIGKILL));
  pollfd ended{launched->process.fd().get(), POLLIN, 0};
  EXPECT_EQ(::poll(&ended, 1, 20'000), 1);
}

TEST_F(ProgramsTest, AnUpgradeAndTheWayBack) {
  ASSERT_TRUE(programs_.begin(made(1)));
  expect(1, 0, 0);
  ASSERT_TRUE(programs_.propose(made(2)));
  expect(1, 0, 2);
  EXPECT_FALSE(programs_.returning());
  programs_.commit(500);
  expect(2, 1, 0);
  EXPECT_TRUE(programs_.on_probation());
  EXPECT_FALSE(programs_.given_up());
  programs_.propose_kept();
  EXPECT_TRUE(programs_.returning());
  programs_.commit(500);
  expect(1, 2, 0);
  EXPECT_FALSE(programs_.on_probation()) << "it has proved itself before";
  // A third one: of two older ones, the older is given up.
  ASSERT_TRUE(programs_.propose(made(3)));
  programs_.commit(500);
  expect(3, 1, 0);
  EXPECT_EQ(programs_.find(2), nullptr);
  EXPECT_TRUE(programs_.given_up());
  programs_.sweep();
  EXPECT_FALSE(programs_.given_up());
}

TEST_F(ProgramsTest, WhatFailsIsGivenUp) {
  ASSERT_TRUE(programs_.begin(made(1)));
  ASSERT_TRUE(programs_.propose(made(2)));
  programs_.abandon();
  expect(1, 0, 0);
  EXPECT_EQ(programs_.find(2), nullptr);
  ASSERT_TRUE(programs_.propose(made(3)));
  programs_.commit(500);
  // A return that fails gives up nothing.
  programs_.propose_kept();
  programs_.abandon();
  expect(3, 1, 0);
  EXPECT_TRUE(programs_.on_probation());
  programs_.propose_kept();
  programs_.go_back();
  expect(1, 0, 0);
  EXPECT_EQ(programs_.find(3), nullptr);
  EXPECT_FALSE(programs_.on_probation());
}

TEST_F(ProgramsTest, WithoutProbationTheFormerOneIsKeptAllTheSame) {
  ASSERT_TRUE(programs_.begin(made(1)));
  ASSERT_TRUE(programs_.propose(made(2)));
  programs_.commit(0);
  expect(2, 1, 0);
  EXPECT_FALSE(programs_.on_probation());
}

TEST_F(ProgramsTest, ThatWasNotToBlameIsTriedAgain) {
  ASSERT_TRUE(programs_.begin(made(1)));
  ASSERT_TRUE(programs_.propose(made(2)));
  programs_.commit(500);
  programs_.try_again();
  expect(1, 0, 2);
  programs_.commit(900);
  expect(2, 1, 0);
  EXPECT_EQ(programs_.probation_ends_ns(), 900);
}

// What is kept in the store: no more than is named.
TEST_F(ProgramsTest, WhatIsGivenUpLeavesTheStore) {
  const NotifyReceiver receiver;
  const FdStore store = receiver.connect();
  Programs programs("thing", store);
  ASSERT_TRUE(programs.begin(made(1)));
  ASSERT_TRUE(programs.propose(made(2)));
  programs.commit(0);
  ASSERT_TRUE(programs.propose(made(3)));
  programs.commit(0);
  for (const char* number : {"1", "2", "3"})
    EXPECT_EQ(receiver.next()->text, std::string("FDSTORE=1\nFDPOLL=0\nFDNAME=p/thing/") + number);
  EXPECT_FALSE(receiver.next()) << "the manifest still names it";
  programs.sweep();
  EXPECT_EQ(receiver.next()->text, "FDSTOREREMOVE=1\nFDNAME=p/thing/1");
  EXPECT_FALSE(receiver.next());
}

TEST_F(ProgramsTest, TheNextCoreKnowsThemAll) {
  ASSERT_TRUE(programs_.begin(made(1)));
  ASSERT_TRUE(programs_.propose(made(2)));
  programs_.commit(500);
  programs_.learn_version(2, "two");
  manifest::v1::Component record;
  programs_.record(record);
  std::map<std::uint64_t, UniqueFd> parked;
  for (const std::uint64_t number : {1U, 2U, 7U}) parked[number] = UniqueFd(::open("/dev/null", O_RDONLY));
  Programs next("thing", store_);
  next.adopt(record, parked);
  EXPECT_EQ(number_of(next.in_use()), 2U);
  EXPECT_EQ(next.in_use()->version, "two");
  EXPECT_EQ(next.in_use()->id, programs_.in_use()->id);
  EXPECT_EQ(number_of(next.kept()), 1U);
  EXPECT_EQ(next.probation_ends_ns(), 500);
  EXPECT_EQ(parked.size(), 1U) << "nobody named it";
  // A store that lost one: what is not there is not counted on.
  std::map<std::uint64_t, UniqueFd> less;
  less[2] = UniqueFd(::open("/dev/null", O_RDONLY));
  Programs poorer("thing", store_);
  poorer.adopt(record, less);
  EXPECT_EQ(number_of(poorer.in_use()), 2U);
  EXPECT_EQ(poorer.kept(), nullptr);
  EXPECT_FALSE(poorer.on_probation());
}

}  // namespace
}  // namespace bulkhead::supervisor
