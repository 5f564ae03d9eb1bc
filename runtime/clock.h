// The two clocks: deadlines use the monotonic one; the wall clock only stamps records meant for people.
#pragma once

#include <cstdint>
#include <ctime>

namespace bulkhead {

inline constexpr std::int64_t kMicrosecond = 1'000;
inline constexpr std::int64_t kMillisecond = 1'000'000;
inline constexpr std::int64_t kSecond = 1'000'000'000;

// CLOCK_MONOTONIC in nanoseconds: comparable between processes of one boot.
inline std::int64_t monotonic_ns() {
  timespec t{};
  ::clock_gettime(CLOCK_MONOTONIC, &t);
  return t.tv_sec * kSecond + t.tv_nsec;
}

// Microseconds since the Unix epoch.
inline std::int64_t wall_us() {
  timespec t{};
  ::clock_gettime(CLOCK_REALTIME, &t);
  return t.tv_sec * 1'000'000 + t.tv_nsec / 1'000;
}

}  // namespace bulkhead
