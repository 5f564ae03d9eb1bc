// What a checking client found wrong: counted by kind, the first few in words.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace bulkhead::xs {

enum class Anomaly : unsigned char {
  kLost,          // a reply or event that later ones overtook and that never came
  kRepeated,      // a reply or event that had come before
  kOutOfOrder,    // a reply or event that came after a later one
  kTorn,          // bytes that are no message, or a value that nobody wrote in one piece
  kWrong,         // well formed, but not what the model says
  kError,         // an error reply where success was due, or another error than due
  kDisconnected,  // the connection ended
  kNoReply,       // nothing came within the deadline
};
inline constexpr size_t kAnomalyKinds = 8;

inline constexpr std::array<std::string_view, kAnomalyKinds> kAnomalyNames{
    "lost", "repeated", "out_of_order", "torn", "wrong", "error", "disconnected", "no_reply"};

class AnomalyLog {
 public:
  void add(Anomaly kind, std::string_view who, std::string_view what) {
    ++counts_[static_cast<size_t>(kind)];
    if (++total_ > kDescribed) return;
    std::string line(kAnomalyNames[static_cast<size_t>(kind)]);
    line.append(": ").append(who).append(": ").append(what);
    described_.push_back(std::move(line));
  }

  uint64_t total() const { return total_; }
  uint64_t count(Anomaly kind) const { return counts_[static_cast<size_t>(kind)]; }
  // The first ones, in words.
  const std::vector<std::string>& described() const { return described_; }

 private:
  static constexpr uint64_t kDescribed = 20;
  std::array<uint64_t, kAnomalyKinds> counts_{};
  uint64_t total_ = 0;
  std::vector<std::string> described_;
};

}  // namespace bulkhead::xs
