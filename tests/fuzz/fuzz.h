// What the fuzz targets share: reading an input piece by piece, and saying what is broken.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <source_location>
#include <span>
#include <string>
#include <string_view>

// The entry point of every target; libFuzzer or replay_main.cpp calls it. Always returns 0.
extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size);

namespace bulkhead::fuzz {

// Aborts, and so reports the input, unless `holds`.
inline void require(bool holds, std::string_view what,
                    std::source_location at = std::source_location::current()) {
  if (holds) return;
  std::fprintf(stderr, "%s:%u: broken: %.*s\n", at.file_name(), at.line(), static_cast<int>(what.size()),
               what.data());
  std::abort();
}

// Takes an input apart from its front. What is not there reads as zero, so every input means something.
class Input {
 public:
  explicit Input(std::span<const std::uint8_t> bytes) : rest_(bytes) {}
  Input(const std::uint8_t* data, std::size_t size) : rest_(data, size) {}

  bool done() const { return rest_.empty(); }
  template <typename Number>
  Number number() {
    Number value{};
    const auto from = take(sizeof value);
    if (!from.empty()) std::memcpy(&value, from.data(), from.size());
    return value;
  }
  std::uint8_t byte() { return number<std::uint8_t>(); }
  // Below `range`, which is at most 256.
  std::size_t pick(std::size_t range) { return byte() % range; }
  template <typename T, std::size_t N>
  T one_of(const T (&choices)[N]) {
    return choices[pick(N)];
  }
  // At most so many bytes.
  std::span<const std::uint8_t> take(std::size_t count) {
    const auto taken = rest_.first(std::min(count, rest_.size()));
    rest_ = rest_.subspan(taken.size());
    return taken;
  }
  std::string text(std::size_t count) {
    const auto taken = take(count);
    return {reinterpret_cast<const char*>(taken.data()), taken.size()};
  }
  std::span<const std::uint8_t> rest() const { return rest_; }

 private:
  std::span<const std::uint8_t> rest_;
};

}  // namespace bulkhead::fuzz
