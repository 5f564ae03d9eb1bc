// Processes are replaced although nothing is wrong with them, when it is a good time.
#include "runtime/clock.h"
#include "supervisor/component.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kNotNow = kSecond;  // until it is asked again whether it is a good time

}  // namespace

// Whenever another process owns it.
void Component::arm_rejuvenation() {
  services_.loop.cancel(std::exchange(rejuvenation_timer_, 0));
  const Instance* owns = active();
  if (owns == nullptr) return;
  const auto due = rejuvenation_.due_ns(owns->started_ns, name(), owns->id);
  if (!due) return;
  rejuvenation_due_ns_ = *due;
  rejuvenation_timer_ = services_.loop.at(*due, [this] { on_age(); });
}

void Component::on_age() {
  rejuvenation_timer_ = services_.loop.after(kNotNow, [this] { on_age(); });
  if (may_rejuvenate()) rejuvenate(rejuvenation_.age_reason());
}

// The first sample after it became active is what it is measured against: with the same state, it shows
// whether replacing its predecessor has helped.
void Component::on_sample(Instance& instance) {
  if (instance.role != Role::kActive || !instance.ready || state_ != State::kServing) return;
  const std::uint64_t now = instance.resources->latest()->private_bytes;
  if (instance.baseline_bytes == 0) {
    instance.baseline_bytes = now;
    if (grown_) rejuvenation_.replaced(grown_->baseline, grown_->size, now);
    grown_.reset();
    return services_.changed(name());
  }
  const auto why = rejuvenation_.growth_reason(instance.baseline_bytes, now);
  if (!why || !may_rejuvenate()) return;
  grown_ = Growth{instance.baseline_bytes, now};
  rejuvenate(*why);
}

bool Component::busy() const {
  const bool changing = renewal_.has_value() || programs_.candidate() != nullptr;
  return changing || state_ == State::kStarting || state_ == State::kRecovering ||
         state_ == State::kBackoff || state_ == State::kStopping;
}

bool Component::may_rejuvenate() const {
  const Facts now = facts();
  if (state_ != State::kServing || !now.healthy || !now.standby_ready) return false;
  if (busy() || programs_.on_probation() || standby_failures_.is_open()) return false;
  // It costs nothing, but a component that has needed all its handovers is not to be played with.
  const recovery::Situation situation{true, false, false};
  const auto step = recovery::next_step(ladder_policy(), history_, situation, services_.loop.now());
  return step.rung == recovery::Rung::kHandOver && services_.others_are_calm(name());
}

void Component::rejuvenate(const std::string& why) {
  services_.events.note(v1::Event::KIND_SUPERVISOR, name(), incarnation_, "rejuvenation: " + why);
  renewal_ = Renewal{"rejuvenation", why};
  feed_standby(StandbyEvent::kRenew);
}

}  // namespace bulkhead::supervisor
