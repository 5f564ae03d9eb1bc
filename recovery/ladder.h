// The recovery ladder: which rung to try after a failure, given what was tried before. Pure; the caller acts.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <string>
#include <string_view>

namespace bulkhead::recovery {

// From cheapest to last resort.
enum class Rung : unsigned char {
  kHandOver,    // the standby continues where the failed instance stopped
  kQuarantine,  // the request that killed two owners in a row is answered with an error
  kRebuild,     // start again from custody: snapshot and log (foreign: simply start again)
  kReconcile,   // custody is damaged: go on with what can be read; lossy
  kIsolate,     // stop trying; a person is needed
};
inline constexpr std::size_t kRungs = 5;
std::string_view name_of(Rung rung);  // "hand over", "quarantine", ...

struct RungPolicy {
  bool offered = false;      // the component has this rung
  std::uint32_t budget = 0;  // uses within the window
};

struct LadderPolicy {
  std::array<RungPolicy, kRungs> rungs{};  // kIsolate is always offered and has no budget
  std::int64_t window_ns = 0;

  RungPolicy& operator[](Rung rung) { return rungs[static_cast<std::size_t>(rung)]; }
  const RungPolicy& operator[](Rung rung) const { return rungs[static_cast<std::size_t>(rung)]; }
};

// What was tried, and when (monotonic). Grows by record(), shrinks by the window; bounded by the budgets.
class History {
 public:
  void record(Rung rung, std::int64_t now_ns, const LadderPolicy& policy);
  std::uint32_t uses(Rung rung, std::int64_t now_ns, std::int64_t window_ns) const;
  // The latest use; 0: none is remembered.
  std::int64_t last(Rung rung) const;
  void clear();

 private:
  std::array<std::deque<std::int64_t>, kRungs> uses_;
};

struct Situation {
  bool standby_present = false;  // an instance that will own the component when the failed one is gone
  bool same_request = false;     // two owners in a row died on one request
  bool deliberate = false;       // an injected fault or an operator: it costs no budget
  bool custody_damaged = false;  // an instance could not read what it was to start from
};

struct Step {
  Rung rung;
  std::string why;        // "the standby is ready; 3 of 30 used within 60 s"
  std::string if_recurs;  // for Incident.next_step: "rebuild from custody"
};

// The first rung that applies to the situation and has budget left; kIsolate when none has. Does not change
// `history`: the caller records the rung when it takes it (record_step does both).
Step next_step(const LadderPolicy& policy, const History& history, const Situation& situation,
               std::int64_t now_ns);

// next_step, recorded unless deliberate.
Step take_step(const LadderPolicy& policy, History& history, const Situation& situation, std::int64_t now_ns);

}  // namespace bulkhead::recovery
