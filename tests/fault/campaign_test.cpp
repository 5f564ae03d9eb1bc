// Every file of tests/fault/campaigns as a test of its own: Campaign.<name>.
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <cctype>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>
#include <set>

#include "tests/fault/campaign_run.h"

namespace bulkhead::campaign {
namespace {

std::string directory() {
  return BULKHEAD_SOURCE "/tests/fault/campaigns";
}

class CampaignOfFile : public ::testing::Test {
 public:
  explicit CampaignOfFile(std::string file) : file_(std::move(file)) {}

 protected:
  void TestBody() override {
    rlimit limit{};
    ::getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = limit.rlim_max;
    ::setrlimit(RLIMIT_NOFILE, &limit);
    auto campaign = read_campaign(file_);
    ASSERT_TRUE(campaign.has_value()) << campaign.error().message();
    CampaignRun(*campaign).run();
  }

 private:
  std::string file_;
};

// What is wrong with a file of this text; empty: nothing.
std::string complaint(const std::string& text) {
  const std::string file =
      std::filesystem::temp_directory_path() / ("campaign-" + std::to_string(::getpid()));
  std::ofstream(file) << "what = 'w'\nclasses = ['c']\n" << text;
  const auto campaign = read_campaign(file);
  std::filesystem::remove(file);
  if (campaign) return {};
  return campaign.error().message().substr(file.size());
}

TEST(CampaignFile, SaysWhereItIsWrong) {
  EXPECT_EQ(complaint(""), "");
  EXPECT_EQ(complaint("[load]\nreply = 1\n"), ":4: unknown key reply");
  EXPECT_EQ(complaint("[[attack]]\nfate = 'dead'\n"), ":4: fate cannot be dead");
  EXPECT_EQ(complaint("[[attack]]\nrepeat = ['REED /']\n"),
            ":4: \"REED /\" does not begin with a request's type");
  EXPECT_EQ(complaint("[[attack]]\nmessages = -1\n"), ":4: messages must be a whole number, not negative");
  EXPECT_EQ(complaint("[[attack]]\nbehaviour = 'resets'\n[[attack]]\n"),
            ":1: resets must be the last attack");
  EXPECT_EQ(complaint("attack = 3\n"), ":3: attack must be a table");
  EXPECT_EQ(complaint("[[attack]]\nrepeat = ['3* REED /']\n"),
            ":4: \"REED /\" does not begin with a request's type");
  EXPECT_NE(complaint("[[attack]]\nrepeat = ['0x* READ /']\n"), "");
  EXPECT_NE(complaint("[load\n").find(":3: "), std::string::npos);
}

TEST(CampaignFile, ARequestManyTimesIsWrittenOnce) {
  const std::string file =
      std::filesystem::temp_directory_path() / ("campaign-" + std::to_string(::getpid()));
  std::ofstream(file) << "what = 'w'\nclasses = ['c']\n[[attack]]\nrepeat = ['READ a', '3* WRITE 2* b']\n";
  const auto campaign = read_campaign(file);
  std::filesystem::remove(file);
  ASSERT_TRUE(campaign.has_value()) << campaign.error().message();
  EXPECT_EQ(campaign->attacks[0].script.repeat,
            (std::vector<std::string>{"READ a", "WRITE 2* b", "WRITE 2* b", "WRITE 2* b"}));
}

TEST(CampaignFile, RequestsAreSpelledOut) {
  const auto payload = [](const std::string& text) { return xs::encode_request(text, 7, 3, 0).substr(16); };
  const std::string nul(1, '\0');
  EXPECT_EQ(payload("READ a/{n}"), "a/7" + nul);
  EXPECT_EQ(payload("WRITE a v w"), "a" + nul + "v" + nul + "w");
  EXPECT_EQ(payload("WRITE a "), "a" + nul);
  EXPECT_EQ(payload("SET_PERMS {c} n5 r{x*3}"), "3" + nul + "n5" + nul + "rxxx" + nul);
  EXPECT_EQ(payload("TRANSACTION_START"), nul);
  EXPECT_EQ(xs::encode_request("tx:READ a", 0, 0, 9)[8], 9);
}

// The advisories named in the fix commits of Xen's xenstored daemons.
TEST(CampaignFile, EveryAdvisoryHasOne) {
  std::set<std::string> covered;
  for (const std::string& file : campaign_files(directory())) {
    const auto campaign = read_campaign(file);
    ASSERT_TRUE(campaign.has_value()) << campaign.error().message();
    covered.insert(campaign->classes.begin(), campaign->classes.end());
  }
  for (const int xsa : {72,  115, 206, 233, 272, 322, 323, 324, 325, 326, 330, 352, 353,
                        414, 415, 416, 417, 418, 419, 420, 421, 425, 481, 483, 484}) {
    EXPECT_TRUE(covered.contains("XSA-" + std::to_string(xsa))) << xsa;
  }
}

}  // namespace
}  // namespace bulkhead::campaign

int main(int argc, char** argv) {
  using bulkhead::campaign::CampaignOfFile;
  ::testing::InitGoogleTest(&argc, argv);
  for (const std::string& file : bulkhead::campaign::campaign_files(bulkhead::campaign::directory())) {
    const std::string name = std::filesystem::path(file).stem();
    ::testing::RegisterTest("Campaign", name.c_str(), nullptr, nullptr, file.c_str(), 1,
                            [file]() -> testing::Test* { return new CampaignOfFile(file); });
  }
  return RUN_ALL_TESTS();
}
