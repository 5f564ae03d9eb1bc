#include "monitors/resource.h"

#include <fcntl.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <array>
#include <cstring>
#include <vector>

#include "monitors/latency.h"
#include "runtime/clock.h"
#include "runtime/unique_fd.h"

namespace bulkhead::monitors {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr std::uint64_t kMiB = 1 << 20;

ResourceSample sample(int seconds, std::uint64_t rss, std::uint32_t fds = 10, std::int64_t cpu = 0,
                      std::uint64_t work = 0) {
  return {seconds * kSecond, rss, fds, cpu, work};
}

TEST(Resource, NoLimitNoFinding) {
  ResourceMonitor monitor({});
  for (int i = 0; i < 100; ++i)
    EXPECT_THAT(monitor.add(sample(i, static_cast<std::uint64_t>(i) << 30, 100000)), IsEmpty());
}

TEST(Resource, AboveALimitIsAFailureOnce) {
  ResourceMonitor monitor({.max_rss = 100 * kMiB});
  EXPECT_THAT(monitor.add(sample(0, 100 * kMiB)), IsEmpty());
  const auto findings = monitor.add(sample(1, 101 * kMiB));
  ASSERT_EQ(findings.size(), 1U);
  EXPECT_EQ(findings[0].severity, Severity::kFailed);
  EXPECT_EQ(findings[0].monitor, "resource");
  EXPECT_EQ(findings[0].evidence, "101 MiB resident, the limit is 100 MiB resident");
  EXPECT_THAT(monitor.add(sample(2, 102 * kMiB)), IsEmpty());
  EXPECT_THAT(monitor.add(sample(3, 50 * kMiB)), IsEmpty());
  EXPECT_EQ(monitor.add(sample(4, 101 * kMiB)).size(), 1U);
}

TEST(Resource, ALeakIsSeenComing) {
  ResourceMonitor monitor({.max_rss = 1000 * kMiB});
  int suspected_at = -1;
  int failed_at = -1;
  for (int i = 0; i < 120; ++i) {
    for (const auto& finding : monitor.add(sample(i, (100 + 10 * static_cast<std::uint64_t>(i)) * kMiB))) {
      (finding.severity == Severity::kSuspect ? suspected_at : failed_at) = i;
      if (finding.severity == Severity::kFailed) continue;
      EXPECT_THAT(finding.evidence, HasSubstr("will reach the limit of 1000 MiB resident in "));
    }
  }
  // 10 MiB/s from 100: the limit is reached at 90 s, which is within 30 s from 60 s on.
  EXPECT_EQ(suspected_at, 60);
  EXPECT_EQ(failed_at, 91);
}

TEST(Resource, DescriptorsLeakToo) {
  ResourceMonitor monitor({.max_fds = 100});
  std::vector<Finding> all;
  for (int i = 0; i < 20; ++i) {
    for (auto& finding : monitor.add(sample(i, kMiB, 10 + static_cast<std::uint32_t>(i) * 3)))
      all.push_back(finding);
  }
  ASSERT_EQ(all.size(), 1U);
  EXPECT_THAT(all[0].evidence, HasSubstr("open descriptors, will reach the limit of 100 open descriptors"));
}

TEST(Resource, NoiseIsNoTrend) {
  ResourceMonitor monitor({.max_rss = 110 * kMiB});
  for (int i = 0; i < 200; ++i) {
    EXPECT_THAT(monitor.add(sample(i, (90 + static_cast<std::uint64_t>(i * 7919 % 17)) * kMiB)), IsEmpty())
        << i;
  }
}

TEST(Resource, CpuWithoutWorkIsAFailure) {
  ResourcePolicy policy;
  policy.max_cpu = 0.5;
  policy.counts_work = true;
  ResourceMonitor monitor(policy);
  std::vector<Finding> all;
  for (int i = 0; i <= 60; ++i) {
    EXPECT_THAT(all, IsEmpty()) << "too early";
    for (auto& finding : monitor.add(sample(i, kMiB, 1, i * kSecond * 9 / 10, 5))) all.push_back(finding);
  }
  ASSERT_EQ(all.size(), 1U);
  EXPECT_EQ(all[0].evidence, "90 % of a CPU used for 60 s without any work done");
  EXPECT_NEAR(monitor.cpu_fraction(), 0.9, 0.001);

  // The same load with work done, or from a component that does not count work, is nobody's business.
  ResourceMonitor working(policy);
  for (int i = 0; i <= 200; ++i)
    EXPECT_THAT(working.add(sample(i, kMiB, 1, i * kSecond, static_cast<std::uint64_t>(i / 50))), IsEmpty());
  policy.counts_work = false;
  ResourceMonitor foreign(policy);
  for (int i = 0; i <= 200; ++i) EXPECT_THAT(foreign.add(sample(i, kMiB, 1, i * kSecond)), IsEmpty());
}

TEST(Resource, ResetForgetsTheFormerProcess) {
  ResourceMonitor monitor({.max_rss = 100 * kMiB});
  EXPECT_EQ(monitor.add(sample(0, 200 * kMiB)).size(), 1U);
  monitor.reset();
  EXPECT_EQ(monitor.latest(), nullptr);
  EXPECT_EQ(monitor.add(sample(1, 200 * kMiB)).size(), 1U);
}

TEST(TimeToLimit, Projects) {
  std::vector<std::pair<std::int64_t, double>> line;
  line.reserve(10);
  for (int i = 0; i < 10; ++i) line.emplace_back(i * kSecond, 5.0 * i);
  const auto left = time_to_limit(line, 100);
  ASSERT_TRUE(left.has_value());
  EXPECT_NEAR(static_cast<double>(*left), 11.0 * kSecond, 1e6);
  EXPECT_FALSE(time_to_limit({line.begin(), line.begin() + 7}, 100).has_value());  // too few
  for (auto& [time, value] : line) value = 50 - value;
  EXPECT_FALSE(time_to_limit(line, 100).has_value());  // falling
  for (auto& [time, value] : line) value = 50;
  EXPECT_FALSE(time_to_limit(line, 100).has_value());  // flat
}

TEST(ResourceSampler, SeesItself) {
  const auto before = read_resources(::getpid(), 1);
  ASSERT_TRUE(before.has_value());
  EXPECT_GT(before->rss_bytes, kMiB);
  EXPECT_GT(before->cpu_ns, 0);
  std::array<UniqueFd, 10> extra;
  for (auto& fd : extra) fd = UniqueFd(::open("/dev/null", O_RDONLY | O_CLOEXEC));
  std::vector<char> ballast(64 * kMiB, 'x');
  const auto after = read_resources(::getpid(), 2);
  ASSERT_TRUE(after.has_value());
  EXPECT_EQ(after->open_fds, before->open_fds + 10);
  EXPECT_GE(after->rss_bytes, before->rss_bytes + ballast.size() / 2);
  EXPECT_FALSE(read_resources(0x7ffffff0, 1).has_value());
}

// Memory that the kernel fills: a sanitizer would keep books of what this program writes, in private memory.
void* populated(std::size_t size, int sharing) {
  void* memory = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, sharing | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED || ::madvise(memory, size, MADV_POPULATE_WRITE) != 0) return nullptr;
  return memory;
}

TEST(ResourceSampler, TellsPrivateMemoryFromShared) {
  constexpr std::size_t kSize = 32 * kMiB;
  const auto before = read_resources(::getpid(), 1);
  ASSERT_TRUE(before.has_value());
  EXPECT_LE(before->private_bytes, before->rss_bytes);
  void* shared = populated(kSize, MAP_SHARED);
  ASSERT_NE(shared, nullptr);
  const auto mapped = read_resources(::getpid(), 2);
  EXPECT_GE(mapped->rss_bytes, before->rss_bytes + kSize / 2);
  EXPECT_LT(mapped->private_bytes, before->private_bytes + kSize / 2);
  void* ballast = populated(kSize, MAP_PRIVATE);
  ASSERT_NE(ballast, nullptr);
  EXPECT_GE(read_resources(::getpid(), 3)->private_bytes, before->private_bytes + kSize / 2);
  ::munmap(shared, kSize);
  ::munmap(ballast, kSize);
}

// ---- latency ----

constexpr std::int64_t kUs = 1000;

TEST(Latency, SlowAgainstItsOwnPast) {
  LatencyMonitor monitor({.factor = 10, .floor_ns = 1000 * kUs});
  std::int64_t now = 0;
  const auto add = [&](std::int64_t us) { return monitor.add(us * kUs, now += kSecond); };
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(add(200 + i % 7));
  // One outlier is nothing, a median that is far off is.
  EXPECT_FALSE(add(50'000));
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(add(200));
  std::vector<Finding> all;
  for (int i = 0; i < 500; ++i)
    if (auto finding = add(5'000)) all.push_back(*finding);
  ASSERT_EQ(all.size(), 1U);  // said once, and not forgotten although slow has become usual
  EXPECT_EQ(all[0].severity, Severity::kSuspect);
  EXPECT_THAT(all[0].evidence, HasSubstr("slow: answers take 5000 us, usually 20"));
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(add(200));
  for (int i = 0; i < 10; ++i)
    if (auto finding = add(5'000)) all.push_back(*finding);
  EXPECT_EQ(all.size(), 2U);
}

// A thousand clients at once: the probe waits for its turn, and everybody gets his.
TEST(Latency, BusyIsNotSlow) {
  LatencyMonitor monitor({.factor = 10, .floor_ns = 1000 * kUs});
  std::int64_t now = 0;
  std::uint64_t done = 0;
  const auto add = [&](std::int64_t us, std::uint64_t requests) {
    return monitor.add(us * kUs, now += kSecond, done += requests);
  };
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(add(200, 10));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(add(6000, 150'000));
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(add(200, 10));
  // Each request takes long: that is no matter of how many there are.
  int found = 0;
  for (int i = 0; i < 20; ++i) found += add(6000, 160).has_value() ? 1 : 0;
  EXPECT_EQ(found, 1);
  // Its successor begins to count anew.
  done = 0;
  for (int i = 0; i < 10; ++i) EXPECT_FALSE(add(200, 10));
}

TEST(Latency, NeverBelowTheFloorNorWithoutAPast) {
  LatencyMonitor fast({.factor = 10, .floor_ns = 1000 * kUs});
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(fast.add(10 * kUs, i));
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(fast.add(900 * kUs, i));
  LatencyMonitor fresh({.factor = 10, .floor_ns = 1000 * kUs});
  for (int i = 0; i < 20; ++i) EXPECT_FALSE(fresh.add(1'000'000 * kUs, i));
  LatencyMonitor off({.factor = 0, .floor_ns = 0});
  for (int i = 0; i < 100; ++i) EXPECT_FALSE(off.add(i * kSecond, i));
}

}  // namespace
}  // namespace bulkhead::monitors
