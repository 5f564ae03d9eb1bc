// Durations, sizes and times: from what people type, and to what they read.
#pragma once

#include <chrono>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace bulkhead::cli {

// "250ms", "5s", "1.5s", "10m", "2h"; a unit is required, at most 24 h. Nothing if it is not such a text.
std::optional<std::chrono::milliseconds> parse_duration(std::string_view text);

// "0.31 ms", "4.2 s"; "unknown" for negative numbers, which the API uses for that.
std::string latency_text(std::int64_t microseconds);
// "12s", "5m", "3h", "17d": how long something has lasted, in its largest unit.
std::string age_text(std::chrono::milliseconds age);
// "0", "512 B", "1.5 MiB".
std::string bytes_text(std::uint64_t bytes);
// Local time: "2026-11-23 03:12:07.123".
std::string time_text(std::int64_t unix_us);
// Local time of day: "03:12:07.123".
std::string clock_text(std::int64_t unix_us);

}  // namespace bulkhead::cli
