#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

#include "components/xenstore/migration_test_support.h"
#include "takeover/handover.h"
#include "takeover/options.h"

namespace bulkhead::takeover {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
namespace migration = xenstore::migration;

TEST(TakeoverOptions, OursAreTakenTheStockDaemonsAreKept) {
  ::setenv("XENSTORED_RUNDIR", "/somewhere", 1);
  const Options options = parse_options(
      {"--no-fork", "--api=/a.sock", "--entry-nb", "5", "--component=store", "--stock=/s", "-U", "--api="});
  EXPECT_EQ(options.api, "/a.sock");
  EXPECT_EQ(options.component, "store");
  EXPECT_EQ(options.stock, "/s");
  EXPECT_FALSE(options.check);
  EXPECT_EQ(options.state, "/somewhere/state_dump");
  EXPECT_THAT(options.arguments, ElementsAre("--no-fork", "--entry-nb", "5", "-U"));
}

class TakeoverHandover : public ::testing::Test {
 protected:
  void TearDown() override { std::filesystem::remove(path_); }
  void write(std::span<const std::byte> bytes) const {
    std::ofstream file(path_, std::ios::binary);
    file << xenstore::as_text(bytes);
  }
  const std::string path_ =
      (std::filesystem::temp_directory_path() / ("takeover-test-" + std::to_string(::getpid()))).string();
};

TEST_F(TakeoverHandover, NamesEachDescriptor) {
  const migration::Stream stream = migration::sample(migration::kVersion1);
  const auto bytes = migration::encode(stream);
  ASSERT_TRUE(bytes.has_value());
  write(*bytes);
  const auto handover = read_handover(path_);
  ASSERT_TRUE(handover.has_value()) << handover.error().message();
  const v1::ImportCustodyRequest request = request_for(*handover, "store");
  EXPECT_EQ(request.component(), "store");
  EXPECT_EQ(request.pid(), ::getpid());
  std::vector<std::string> items;
  for (const v1::ImportedItem& item : request.items())
    items.push_back(item.name() + " " + item.kind() + " " + std::to_string(item.number()));
  // There are no event channels in it.
  EXPECT_THAT(items, ElementsAre("listener socket 5", "client-14 socket 14",
                                 "import segment " + std::to_string(handover->segment.get())));
  std::vector<std::byte> copy(bytes->size());
  EXPECT_EQ(::pread(handover->segment.get(), copy.data(), copy.size(), 0), std::ssize(copy));
  EXPECT_EQ(copy, *bytes);
  EXPECT_EQ(::ftruncate(handover->segment.get(), 1), -1);
}

TEST_F(TakeoverHandover, WhatIsNoStreamIsRefused) {
  EXPECT_THAT(read_handover(path_).error().message(), HasSubstr("cannot read"));
  write(xenstore::as_bytes("xenstore, but not really"));
  EXPECT_THAT(read_handover(path_).error().message(), HasSubstr(path_));
  migration::Stream stream = migration::sample(migration::kVersion1);
  stream.descriptors.reset();
  write(*migration::encode(stream));
  EXPECT_THAT(read_handover(path_).error().message(), HasSubstr("no listening socket"));
}

}  // namespace
}  // namespace bulkhead::takeover
