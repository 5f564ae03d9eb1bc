// The 64-bit hash behind the tree's digest. Not cryptographic: it finds corruption and divergence, not
// attackers.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>

namespace bulkhead::xenstore::core {

// Feeds spans and numbers; every span's length goes in too, so that neighbouring spans cannot trade bytes.
class Hasher {
 public:
  void add(std::uint64_t word) {
    state_ = (std::rotl(state_, 23) ^ word) * kOdd;
    state_ ^= state_ >> 32;
  }
  void add(std::span<const std::byte> bytes) {
    add(bytes.size());
    std::uint64_t word;
    for (; bytes.size() >= sizeof word; bytes = bytes.subspan(sizeof word)) {
      std::memcpy(&word, bytes.data(), sizeof word);
      add(word);
    }
    if (bytes.empty()) return;
    word = 0;
    std::memcpy(&word, bytes.data(), bytes.size());
    add(word);
  }
  std::uint64_t finish() const {  // MurmurHash3's 64-bit finaliser
    std::uint64_t h = state_;
    h = (h ^ (h >> 33)) * 0xff51afd7ed558ccdULL;
    h = (h ^ (h >> 33)) * 0xc4ceb9fe1a85ec53ULL;
    return h ^ (h >> 33);
  }

 private:
  static constexpr std::uint64_t kOdd = 0x9fb21c651e98df25ULL;
  std::uint64_t state_ = 0x243f6a8885a308d3ULL;
};

}  // namespace bulkhead::xenstore::core
