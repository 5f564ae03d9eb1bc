#include "cli/units.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <ctime>

namespace bulkhead::cli {
namespace {

constexpr double kDayMs = 24 * 3600 * 1000.0;

std::string decimal(double value, int digits) {
  std::array<char, 64> text{};
  const auto [end, error] =
      std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed, digits);
  return {text.data(), error == std::errc() ? end : text.data()};
}

std::optional<double> milliseconds_in(std::string_view unit) {
  if (unit == "ms") return 1;
  if (unit == "s") return 1000;
  if (unit == "m" || unit == "min") return 60'000;
  if (unit == "h") return 3'600'000;
  return std::nullopt;
}

enum class Part : unsigned char { kClock, kDateAndClock };

std::string local_time(std::int64_t unix_us, Part part) {
  const std::time_t seconds = unix_us / 1'000'000;
  std::tm local{};
  if (::localtime_r(&seconds, &local) == nullptr) return "?";
  std::array<char, 64> text{};
  const std::size_t length = part == Part::kClock
                                 ? std::strftime(text.data(), text.size(), "%H:%M:%S", &local)
                                 : std::strftime(text.data(), text.size(), "%Y-%m-%d %H:%M:%S", &local);
  const std::string thousandths = std::to_string(1000 + unix_us / 1000 % 1000).substr(1);
  return std::string(text.data(), length) + "." + thousandths;
}

}  // namespace

std::optional<std::chrono::milliseconds> parse_duration(std::string_view text) {
  double number = 0;
  const auto [rest, error] =
      std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
  if (error != std::errc() || !std::isfinite(number) || number < 0) return std::nullopt;
  const std::optional<double> unit =
      milliseconds_in(text.substr(static_cast<std::size_t>(rest - text.data())));
  if (!unit || number * *unit > kDayMs) return std::nullopt;
  return std::chrono::milliseconds(std::llround(number * *unit));
}

std::string latency_text(std::int64_t microseconds) {
  if (microseconds < 0) return "unknown";
  const auto us = static_cast<double>(microseconds);
  if (us < 1'000'000) return decimal(us / 1000, us < 10'000 ? 2 : 0) + " ms";
  return decimal(us / 1'000'000, 1) + " s";
}

std::string age_text(std::chrono::milliseconds age) {
  const std::int64_t seconds = std::max<std::int64_t>(age.count() / 1000, 0);
  if (seconds < 60) return std::to_string(seconds) + "s";
  if (seconds < 3600) return std::to_string(seconds / 60) + "m";
  if (seconds < std::int64_t{48} * 3600) return std::to_string(seconds / 3600) + "h";
  return std::to_string(seconds / 86400) + "d";
}

std::string bytes_text(std::uint64_t bytes) {
  if (bytes == 0) return "0";
  constexpr std::array kUnits{"B", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
  auto value = static_cast<double>(bytes);
  std::size_t unit = 0;
  while (value >= 1024 && unit + 1 < kUnits.size()) {
    value /= 1024;
    ++unit;
  }
  return decimal(value, value == std::floor(value) || value >= 100 ? 0 : 1) + " " + kUnits.at(unit);
}

std::string time_text(std::int64_t unix_us) {
  return local_time(unix_us, Part::kDateAndClock);
}

std::string clock_text(std::int64_t unix_us) {
  return local_time(unix_us, Part::kClock);
}

}  // namespace bulkhead::cli
