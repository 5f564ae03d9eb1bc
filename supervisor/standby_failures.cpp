#include "supervisor/standby_failures.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::size_t kMaxEvidence = 1024;

std::string counted(const std::string& evidence, std::uint64_t times) {
  return times > 1 ? evidence + " (" + std::to_string(times) + " times)" : evidence;
}

}  // namespace

bool StandbyFailures::failed(const std::string& component, const Cause& cause, std::int64_t now_ns) {
  const bool same = cause.evidence == newest_ && now_ns - last_ns_ < window_ns_;
  last_ns_ = now_ns;
  if (outage_.is_open() || same) {
    outage_.reopen();
    count(cause.evidence);
    return false;
  }
  begin(component, cause);
  return true;
}

void StandbyFailures::begin(const std::string& component, const Cause& cause) {
  first_failed_ns_ = cause.failed_ns;
  earlier_.clear();
  newest_ = cause.evidence;
  times_ = 1;
  outage_.begin(component, cause);
  outage_.step("renew the standby", "renew the standby, with back-off");
}

void StandbyFailures::count(const std::string& evidence) {
  if (evidence != newest_) {
    if (!newest_.empty() && earlier_.size() < kMaxEvidence) earlier_ += counted(newest_, times_) + "; ";
    newest_ = evidence;
    times_ = 0;
  }
  outage_.set_evidence(earlier_ + counted(newest_, ++times_));
}

// Nobody was without service: the black-out is none, unless even the beginning is unknown.
void StandbyFailures::end(const std::string& outcome) {
  outage_.end(outcome, first_failed_ns_);
}

void StandbyFailures::restore(const manifest::v1::Outage& record) {
  outage_.restore(record);
  first_failed_ns_ = record.failed_ns();
  newest_ = record.incident().evidence();
  times_ = 1;
}

}  // namespace bulkhead::supervisor
