// When a component's processes are replaced although nothing is wrong: because of their age, or because the
// active one's private memory has grown. Pure; whether it is a good time is the caller's business.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

#include "supervisor/config.h"

namespace bulkhead::supervisor {

class Rejuvenation {
 public:
  // What `growth` is multiplied with at most, after replacements that did not help.
  static constexpr std::uint32_t kMaxFactor = 64;

  // `config` outlives this.
  explicit Rejuvenation(const RejuvenateConfig& config) : config_(config) {}

  // When an active process that was started at `started_ns` is too old; unset: never. Up to a tenth later
  // than configured, by component and instance, so that what was started together is not replaced together.
  // It follows from what the manifest holds, so a core that was restarted finds the same time.
  std::optional<std::int64_t> due_ns(std::int64_t started_ns, std::string_view component,
                                     std::uint64_t instance) const;
  // Why a process that is too old is replaced, for people.
  std::string age_reason() const;

  // Why an active process is to be replaced that had `baseline` bytes of private memory when it became active
  // and has `now`; unset: it is not.
  std::optional<std::string> growth_reason(std::uint64_t baseline, std::uint64_t now) const;
  // A process that had grown from `baseline` to `size` was replaced by one of `successor` bytes. If that is
  // not at least half of the growth less, the state itself has grown: next time it may grow twice as much.
  void replaced(std::uint64_t baseline, std::uint64_t size, std::uint64_t successor);

  std::uint32_t factor() const { return factor_; }
  // A former core's.
  void restore(std::uint32_t factor);

 private:
  const RejuvenateConfig& config_;
  std::uint32_t factor_ = 1;
};

}  // namespace bulkhead::supervisor
