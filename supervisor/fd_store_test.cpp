#include "supervisor/fd_store.h"

#include <gtest/gtest.h>

#include "runtime/memfd.h"
#include "supervisor/adoption.h"
#include "supervisor/notify_receiver_test.h"

namespace bulkhead::supervisor {
namespace {

TEST(FdStore, WithoutServiceManagerParkingIsNothing) {
  ::unsetenv("NOTIFY_SOCKET");
  FdStore store = FdStore::from_environment();
  EXPECT_FALSE(store.durable());
  const UniqueFd fd = std::move(*create_memfd("x", 4096));
  EXPECT_TRUE(store.park("x", fd.borrow()));
  EXPECT_TRUE(store.take_inherited().empty());
}

TEST(FdStore, ParksAndTakesTheSocketOutOfTheEnvironment) {
  const NotifyReceiver receiver;
  const FdStore store = receiver.connect();
  EXPECT_TRUE(store.durable());
  EXPECT_EQ(::getenv("NOTIFY_SOCKET"), nullptr);
  const UniqueFd fd = std::move(*create_memfd("x", 4096));
  ASSERT_TRUE(store.park("some/name", fd.borrow()));
  const auto message = receiver.next();
  ASSERT_TRUE(message);
  EXPECT_EQ(message->text, "FDSTORE=1\nFDPOLL=0\nFDNAME=some/name");
  ASSERT_EQ(message->fds.size(), 1U);
  EXPECT_EQ(*file_size(message->fds[0].borrow()), 4096U);
  EXPECT_EQ(::getenv("NOTIFY_SOCKET"), nullptr);
}

TEST(FdStore, RefusesNamesTheStoreWouldNotKeep) {
  const NotifyReceiver receiver;
  const FdStore store = receiver.connect();
  const UniqueFd fd = std::move(*create_memfd("x", 4096));
  for (const std::string& name :
       {std::string(), std::string("a:b"), std::string("a\nb"), std::string(256, 'a')}) {
    EXPECT_EQ(store.park(name, fd.borrow()).error().kind(), ErrorKind::kInvalid);
  }
  EXPECT_FALSE(receiver.next());
}

TEST(FdStore, SplitsNames) {
  EXPECT_EQ(split_name("a/b//c"), (std::vector<std::string_view>{"a", "b", "", "c"}));
  EXPECT_EQ(split_name(""), (std::vector<std::string_view>{""}));
}

UniqueFd something() {
  return std::move(*create_memfd("x", 4096));
}

TEST(Adoption, SortsWhatWasInherited) {
  auto memory = ManifestMemory::create();
  manifest::v1::Manifest manifest;
  manifest.set_generation(5);
  ASSERT_TRUE(memory->write(manifest));
  std::vector<FdStore::Entry> entries;
  entries.push_back({"i/a/3/wake", something()});
  entries.push_back({"i/a/3/contract", something()});
  entries.push_back({"c/a/segment/1/1/log", something()});
  entries.push_back({kManifestName, UniqueFd(::dup(memory->fd().get()))});
  entries.push_back({"i/a/x/wake", something()});
  entries.push_back({"stored", something()});
  const Inheritance sorted = sort_inheritance(std::move(entries));
  EXPECT_EQ(sorted.manifest.generation(), 5U);
  EXPECT_TRUE(sorted.memory);
  EXPECT_EQ(sorted.items.at("a").size(), 1U);
  EXPECT_EQ(sorted.instances.at({"a", 3}).size(), 2U);
  EXPECT_EQ(sorted.unknown, (std::vector<std::string>{"i/a/x/wake", "stored"}));
}

TEST(Adoption, ManifestThatCannotBeReadIsSaidSoAndTheNamesStillCount) {
  std::vector<FdStore::Entry> entries;
  entries.push_back({kManifestName, something()});
  entries.push_back({kManifestName, UniqueFd(::dup(ManifestMemory::create()->fd().get()))});
  entries.push_back({"i/echo/7/process", something()});
  entries.push_back({"c/echo/segment/1234/9/state", something()});
  const Inheritance sorted = sort_inheritance(std::move(entries));
  EXPECT_FALSE(sorted.memory);
  EXPECT_TRUE(sorted.unreadable_manifest);
  EXPECT_TRUE(sorted.unknown.empty());
  EXPECT_FALSE(sorted.empty());
  EXPECT_EQ(sorted.newest_instance(), 9U);
  EXPECT_TRUE(sort_inheritance({}).empty());
}

}  // namespace
}  // namespace bulkhead::supervisor
