#include "supervisor/rejuvenation.h"

#include <algorithm>
#include <span>

#include "runtime/clock.h"
#include "runtime/crc32c.h"

namespace bulkhead::supervisor {
namespace {

std::string mebibytes(std::uint64_t bytes) {
  constexpr int kMebi = 20;
  return std::to_string(bytes >> kMebi) + " MiB";
}

// 0 to 999, the same for the same two.
std::int64_t thousandths(std::string_view component, std::uint64_t instance) {
  const std::string text = std::string(component) + "/" + std::to_string(instance);
  return crc32c(std::as_bytes(std::span(text))) % 1000;
}

}  // namespace

std::optional<std::int64_t> Rejuvenation::due_ns(std::int64_t started_ns, std::string_view component,
                                                 std::uint64_t instance) const {
  if (config_.every_ns <= 0) return std::nullopt;
  constexpr std::int64_t kTenThousandth = 10'000;
  return started_ns + config_.every_ns + config_.every_ns / kTenThousandth * thousandths(component, instance);
}

std::string Rejuvenation::age_reason() const {
  return "its process is older than " + std::to_string(config_.every_ns / kSecond) + " s";
}

std::optional<std::string> Rejuvenation::growth_reason(std::uint64_t baseline, std::uint64_t now) const {
  if (config_.growth == 0 || baseline == 0 || now <= baseline) return std::nullopt;
  if (now - baseline <= config_.growth * factor_) return std::nullopt;
  return mebibytes(now) + " of private memory, " + mebibytes(baseline) + " when it became active";
}

void Rejuvenation::replaced(std::uint64_t baseline, std::uint64_t size, std::uint64_t successor) {
  const std::uint64_t enough = size - std::min(size, (size - std::min(size, baseline)) / 2);
  factor_ = successor <= enough ? 1 : std::min(factor_ * 2, kMaxFactor);
}

void Rejuvenation::restore(std::uint32_t factor) {
  factor_ = std::clamp<std::uint32_t>(factor, 1, kMaxFactor);
}

}  // namespace bulkhead::supervisor
