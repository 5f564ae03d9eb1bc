#include "supervisor/probe_runner.h"

#include <utility>

namespace bulkhead::supervisor {
namespace {

// A timer that fires this much late tells that the core itself did not run.
constexpr std::int64_t kLate = 100'000'000;

}  // namespace

ProbeRunner::ProbeRunner(EventLoop& loop, monitors::ProbePolicy policy, Factory factory, Handler handler)
    : loop_(loop),
      policy_(policy),
      factory_(std::move(factory)),
      handler_(std::move(handler)),
      schedule_(policy, loop.now()) {}

ProbeRunner::~ProbeRunner() {
  stop();
}

void ProbeRunner::start(std::int64_t delay_ns) {
  stop();
  schedule_ = monitors::ProbeSchedule(policy_, loop_.now() + delay_ns);
  arm();
}

void ProbeRunner::stop() {
  unwatch();
  probe_.reset();
  loop_.cancel(std::exchange(timer_, 0));
}

void ProbeRunner::arm() {
  loop_.cancel(timer_);
  const std::int64_t due = schedule_.next_ns();
  timer_ = loop_.at(due, [this, due] { tick(due); });
}

void ProbeRunner::tick(std::int64_t due_ns) {
  const std::int64_t now = loop_.now();
  if (schedule_.overdue(now)) {
    unwatch();
    probe_.reset();
    if (now - due_ns > kLate) {
      schedule_.discard(now);
      return arm();
    }
    return end(monitors::ProbeStep::failed("no answer in time"));
  }
  if (!schedule_.due(now)) return arm();
  schedule_.begin(now);
  auto probe = factory_();
  if (!probe) return end(monitors::ProbeStep::failed(probe.error().message()));
  probe_ = std::move(*probe);
  advance();
}

void ProbeRunner::advance() {
  const monitors::ProbeStep step = probe_->step();
  if (step.status != monitors::ProbeStep::Status::kPending) {
    probe_.reset();
    return end(step);
  }
  auto watched = loop_.watch(BorrowedFd(step.fd), step.events, [this](std::uint32_t) {
    unwatch();
    advance();
  });
  if (!watched) {
    probe_.reset();
    return end(monitors::ProbeStep::failed(watched.error().message()));
  }
  watched_ = step.fd;
  arm();
}

void ProbeRunner::end(const monitors::ProbeStep& result) {
  Outcome outcome;
  outcome.finding = schedule_.end(loop_.now(), result);
  outcome.passed = result.status == monitors::ProbeStep::Status::kPassed;
  outcome.evidence = result.evidence;
  if (outcome.passed) outcome.round_trip_ns = schedule_.last_round_trip_ns();
  arm();
  const Handler handler = handler_;  // it may destroy this object
  handler(outcome);
}

void ProbeRunner::unwatch() {
  if (watched_ >= 0) loop_.unwatch(BorrowedFd(std::exchange(watched_, -1)));
}

}  // namespace bulkhead::supervisor
