#include "supervisor/outage.h"

#include <algorithm>

#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::size_t kMaxEvidence = 1024;

}  // namespace

void Outage::begin(const std::string& component, const Cause& cause) {
  if (open_) {
    if (incident_.evidence() != cause.evidence) add_evidence(cause.evidence);
    return;
  }
  open_ = true;
  failed_ns_ = cause.failed_ns;
  incident_.Clear();
  incident_.set_component(component);
  incident_.set_incarnation(cause.incarnation);
  incident_.set_finding(cause.finding);
  incident_.set_evidence(cause.evidence);
  incident_.set_deliberate(cause.deliberate);
  incident_.set_fault(cause.fault);
  const bool known = cause.failed_ns > 0 && cause.found_ns >= cause.failed_ns;
  incident_.set_detection_us(known ? (cause.found_ns - cause.failed_ns) / kMicrosecond : -1);
  incident_.set_blackout_us(-1);
  incident_.set_outcome("open");
  incident_ = log_->open(std::move(incident_));
}

void Outage::step(const std::string& step, const std::string& if_recurs) {
  if (!open_) return;
  incident_.add_steps(step);
  incident_.set_next_step(if_recurs);
  log_->update(incident_);
}

void Outage::set_evidence(const std::string& evidence) {
  if (incident_.id() == 0) return;
  incident_.set_evidence(evidence);
  log_->update(incident_);
}

void Outage::dark_since(std::int64_t since_ns) {
  if (open_ && since_ns > 0) failed_ns_ = since_ns;
}

void Outage::taken_over(const bulkhead::contract::v1::Active& active) {
  incident_.set_replayed(active.replayed());
  incident_.set_refused(active.refused());
  incident_.set_lost(active.lost());
  incident_.set_blamed_client(active.blamed_client());
  if (!active.note().empty()) incident_.set_evidence(incident_.evidence() + "; " + active.note());
}

void Outage::end(const std::string& outcome, std::int64_t serving_ns) {
  if (!open_) return;
  open_ = false;
  if (serving_ns > 0 && failed_ns_ > 0) {
    incident_.set_blackout_us(std::max<std::int64_t>(0, serving_ns - failed_ns_) / kMicrosecond);
  }
  last_blackout_us_ = incident_.blackout_us();
  incident_.set_outcome(outcome);
  log_->update(incident_);
}

void Outage::reopen() {
  if (open_ || incident_.id() == 0) return;
  open_ = true;
  incident_.set_outcome("open");
  incident_.set_blackout_us(-1);
  log_->update(incident_);
}

void Outage::add_evidence(const std::string& evidence) {
  if (incident_.id() == 0 || evidence.empty() || incident_.evidence().size() > kMaxEvidence) return;
  incident_.set_evidence(incident_.evidence() + "; " + evidence);
  log_->update(incident_);
}

Cause Outage::cause() const {
  Cause cause(incident_.finding(), incident_.evidence(), failed_ns_, failed_ns_);
  if (failed_ns_ > 0 && incident_.detection_us() > 0)
    cause.found_ns += incident_.detection_us() * kMicrosecond;
  cause.deliberate = incident_.deliberate();
  cause.fault = incident_.fault();
  cause.incarnation = incident_.incarnation();
  return cause;
}

manifest::v1::Outage Outage::record() const {
  manifest::v1::Outage record;
  *record.mutable_incident() = incident_;
  record.set_failed_ns(failed_ns_);
  return record;
}

void Outage::restore(const manifest::v1::Outage& record) {
  incident_ = record.incident();
  failed_ns_ = record.failed_ns();
  const auto stored = log_->store().list({incident_.component(), incident_.id() + 1, 1});
  open_ = stored.incidents_size() == 0 || stored.incidents(0).id() != incident_.id() ||
          stored.incidents(0).outcome() == "open";
}

}  // namespace bulkhead::supervisor
