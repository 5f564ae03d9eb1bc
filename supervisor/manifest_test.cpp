#include "supervisor/manifest.h"

#include <gtest/gtest.h>
#include <unistd.h>

namespace bulkhead::supervisor {
namespace {

manifest::v1::Manifest numbered(std::uint64_t generation) {
  manifest::v1::Manifest manifest;
  manifest.set_generation(generation);
  manifest.add_components()->set_name("thing");
  return manifest;
}

UniqueFd copy_of(const ManifestMemory& memory) {
  return UniqueFd(::dup(memory.fd().get()));
}

TEST(Manifest, IsReadByTheSuccessorAsItWasWritten) {
  auto memory = ManifestMemory::create();
  ASSERT_TRUE(memory);
  EXPECT_EQ(memory->read().error().kind(), ErrorKind::kNotFound);
  for (std::uint64_t i = 1; i <= 5; ++i) {
    ASSERT_TRUE(memory->write(numbered(i)));
    auto successor = ManifestMemory::open(copy_of(*memory));
    ASSERT_TRUE(successor);
    auto read = successor->read();
    ASSERT_TRUE(read);
    EXPECT_EQ(read->generation(), i);
    EXPECT_EQ(read->components(0).name(), "thing");
  }
}

// Overwrites every byte of one of the two copies' contents.
void damage(const ManifestMemory& memory, std::uint64_t generation) {
  auto mapping = Mapping::map(memory.fd(), 1);
  const std::string wanted = numbered(generation).SerializeAsString();
  const std::string_view all(reinterpret_cast<const char*>(mapping->data()), mapping->size());
  const std::size_t at = all.find(wanted);
  ASSERT_NE(at, std::string_view::npos);
  mapping->data()[at + wanted.size() - 1] ^= std::byte{1};
}

TEST(Manifest, DamagedCopyGivesWayToTheFormerOne) {
  auto memory = ManifestMemory::create();
  ASSERT_TRUE(memory->write(numbered(1)));
  ASSERT_TRUE(memory->write(numbered(2)));
  damage(*memory, 2);
  EXPECT_EQ(memory->read()->generation(), 1U);
  damage(*memory, 1);
  EXPECT_EQ(memory->read().error().kind(), ErrorKind::kInvalid);
}

TEST(Manifest, TooLongIsRefusedAndTheFormerStays) {
  auto memory = ManifestMemory::create();
  ASSERT_TRUE(memory->write(numbered(1)));
  manifest::v1::Manifest huge = numbered(2);
  huge.mutable_components(0)->set_cause(std::string(ManifestMemory::kMaxBytes, 'x'));
  EXPECT_EQ(memory->write(huge).error().kind(), ErrorKind::kExhausted);
  EXPECT_EQ(memory->read()->generation(), 1U);
}

TEST(Manifest, OtherMemoryIsRefused) {
  EXPECT_FALSE(ManifestMemory::open(std::move(*create_memfd("small", 4096))));
  auto other = create_memfd("other", 4096 + 2 * (ManifestMemory::kMaxBytes + 16));
  EXPECT_EQ(ManifestMemory::open(std::move(*other)).error().kind(), ErrorKind::kInvalid);
}

TEST(Manifest, CountsTheCoresThatDiedInOneMessage) {
  auto memory = ManifestMemory::create();
  memory->begin_message(7);
  memory->end_message();
  memory->count_death();  // died elsewhere
  EXPECT_EQ(memory->deaths_of(7), 0U);
  for (std::uint32_t deaths = 1; deaths <= 3; ++deaths) {
    memory->begin_message(7);
    memory->count_death();
    // Others are handled before it is tried again.
    memory->begin_message(8);
    memory->end_message();
    EXPECT_EQ(memory->deaths_of(7), deaths);
    EXPECT_EQ(memory->deaths_of(8), 0U);
  }
  memory->begin_message(7);
  memory->end_message();
  EXPECT_EQ(memory->deaths_of(7), 0U);
}

}  // namespace
}  // namespace bulkhead::supervisor
