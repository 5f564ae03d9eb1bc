#include "recovery/ladder.h"

#include <algorithm>

#include "runtime/clock.h"

namespace bulkhead::recovery {

namespace {

constexpr std::array<std::string_view, kRungs> kNames = {"hand over", "quarantine", "rebuild", "reconcile",
                                                         "isolate"};
constexpr std::array<std::string_view, kRungs> kMeaning = {
    "the standby continues", "the request that kills its server is refused", "start again from custody",
    "go on with what can be read of custody", "stop trying; a person is needed"};

std::size_t index(Rung rung) {
  return static_cast<std::size_t>(rung);
}

bool applies(Rung rung, const Situation& situation) {
  if (rung == Rung::kHandOver) return situation.standby_present;
  if (rung == Rung::kQuarantine) return situation.same_request;
  if (rung == Rung::kReconcile) return situation.custody_damaged;
  return true;
}

// What a failure costs on a rung: nothing if it was made on purpose.
bool affordable(const LadderPolicy& policy, const History& history, Rung rung, bool deliberate,
                std::int64_t now_ns) {
  if (rung == Rung::kIsolate) return true;
  if (!policy[rung].offered) return false;
  return deliberate || history.uses(rung, now_ns, policy.window_ns) < policy[rung].budget;
}

Rung choose(const LadderPolicy& policy, const History& history, const Situation& situation,
            std::int64_t now_ns) {
  // Two owners in a row died on one request: handing it to a third would only kill that one too.
  const bool poisoned =
      situation.same_request && affordable(policy, history, Rung::kQuarantine, situation.deliberate, now_ns);
  // A second start from the same custody, so that nothing is given up because of something that passes; a
  // third would be no different.
  if (situation.custody_damaged && history.uses(Rung::kRebuild, now_ns, policy.window_ns) > 0 &&
      affordable(policy, history, Rung::kReconcile, situation.deliberate, now_ns)) {
    return Rung::kReconcile;
  }
  for (std::size_t i = poisoned ? index(Rung::kQuarantine) : 0; i < kRungs; ++i) {
    const Rung rung = static_cast<Rung>(i);
    if (applies(rung, situation) && affordable(policy, history, rung, situation.deliberate, now_ns))
      return rung;
  }
  return Rung::kIsolate;
}

std::string explain(const LadderPolicy& policy, const History& history, const Situation& situation, Rung rung,
                    std::int64_t now_ns) {
  if (rung == Rung::kIsolate) return "every other step is used up or not available";
  const std::string meaning(kMeaning[index(rung)]);
  if (situation.deliberate) return meaning + "; deliberate, costs no budget";
  return meaning + "; " + std::to_string(history.uses(rung, now_ns, policy.window_ns) + 1) + " of " +
         std::to_string(policy[rung].budget) + " within " + std::to_string(policy.window_ns / kSecond) + " s";
}

}  // namespace

std::string_view name_of(Rung rung) {
  return kNames[index(rung)];
}

void History::record(Rung rung, std::int64_t now_ns, const LadderPolicy& policy) {
  auto& times = uses_[index(rung)];
  std::erase_if(times, [&](std::int64_t time) { return now_ns - time >= policy.window_ns; });
  times.push_back(now_ns);
  // Older ones cannot change a decision.
  while (times.size() > std::max<std::size_t>(policy[rung].budget, 1)) times.pop_front();
}

std::uint32_t History::uses(Rung rung, std::int64_t now_ns, std::int64_t window_ns) const {
  const auto& times = uses_[index(rung)];
  return static_cast<std::uint32_t>(std::count_if(
      times.begin(), times.end(), [&](std::int64_t time) { return now_ns - time < window_ns; }));
}

std::int64_t History::last(Rung rung) const {
  const auto& times = uses_[index(rung)];
  return times.empty() ? 0 : times.back();
}

void History::clear() {
  for (auto& times : uses_) times.clear();
}

Step next_step(const LadderPolicy& policy, const History& history, const Situation& situation,
               std::int64_t now_ns) {
  const Rung rung = choose(policy, history, situation, now_ns);
  Step step{rung, explain(policy, history, situation, rung, now_ns), {}};
  if (rung == Rung::kIsolate) {
    step.if_recurs = "nothing more is tried until an operator enables or restarts it";
    return step;
  }
  // The same failure again right now, with this step taken (deliberate ones leave no trace).
  History after = history;
  if (!situation.deliberate) after.record(rung, now_ns, policy);
  Situation again = situation;
  again.deliberate = false;
  const Rung next = choose(policy, after, again, now_ns);
  step.if_recurs = std::string(name_of(next)) + ": " + std::string(kMeaning[index(next)]);
  return step;
}

Step take_step(const LadderPolicy& policy, History& history, const Situation& situation,
               std::int64_t now_ns) {
  Step step = next_step(policy, history, situation, now_ns);
  if (!situation.deliberate) history.record(step.rung, now_ns, policy);
  return step;
}

}  // namespace bulkhead::recovery
