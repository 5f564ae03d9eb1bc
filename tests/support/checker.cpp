#include "tests/support/checker.h"

#include <algorithm>
#include <charconv>

namespace bulkhead::xs {
namespace {

constexpr size_t kChecksumDigits = 16;

// The finalizer of splitmix64: every bit of the number reaches every bit of the checksum.
uint64_t checksum(uint64_t number) {
  number += 0x9e3779b97f4a7c15U;
  number = (number ^ (number >> 30U)) * 0xbf58476d1ce4e5b9U;
  number = (number ^ (number >> 27U)) * 0x94d049bb133111ebU;
  return number ^ (number >> 31U);
}

template <typename T>
bool parse(std::string_view text, T& value, int base) {
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value, base);
  return error == std::errc{} && end == text.data() + text.size();
}

}  // namespace

std::string encode_value(uint64_t number) {
  std::array<char, kChecksumDigits> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), checksum(number), 16);
  const std::string_view hex(digits.data(), static_cast<size_t>(end - digits.data()));
  return std::to_string(number).append(".").append(kChecksumDigits - hex.size(), '0').append(hex);
}

std::optional<uint64_t> decode_value(std::string_view value) {
  const size_t dot = value.find('.');
  if (dot == std::string_view::npos || value.size() - dot - 1 != kChecksumDigits) return std::nullopt;
  uint64_t number = 0;
  uint64_t sum = 0;
  if (!parse(value.substr(0, dot), number, 10) || !parse(value.substr(dot + 1), sum, 16)) return std::nullopt;
  if (sum != checksum(number)) return std::nullopt;
  return number;
}

std::string path_payload(std::string_view path) {
  return std::string(path).append(1, '\0');
}

std::string write_payload(std::string_view path, std::string_view value) {
  return std::string(path).append(1, '\0').append(value);
}

bool Checker::idle() const {
  return std::all_of(clients_.begin(), clients_.end(),
                     [](const auto& client) { return client->in_flight() == 0; });
}

void Checker::on_event(XsClient& /*client*/, std::string_view path, std::string_view token) {
  anomaly(Anomaly::kWrong,
          "an event nobody asked for: " + std::string(path) + ", token " + std::string(token));
}

Result<XsClient*> Checker::connect(const std::string& suffix) {
  Result<UniqueFd> socket = XsClient::connect(settings_.socket_path);
  if (!socket) return forward(std::move(socket), name_);
  clients_.push_back(std::make_unique<XsClient>(std::move(*socket), name_ + suffix, log_));
  return clients_.back().get();
}

bool Checker::succeeded(const Reply& reply) {
  if (!reply.error) return true;
  anomaly(Anomaly::kError,
          "request type " + std::to_string(reply.type) + " answered " + std::string(reply.payload));
  return false;
}

}  // namespace bulkhead::xs
