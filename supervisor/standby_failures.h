// The failures of a component's standby, which nobody but the next failure would notice: one incident for as
// long as no standby is ready, or the same failure comes again and again.
#pragma once

#include <cstdint>
#include <string>

#include "supervisor/outage.h"

namespace bulkhead::supervisor {

class StandbyFailures {
 public:
  // A failure that is the same as the last one and comes within `window_ns` of it belongs to its incident,
  // even if a standby was ready between them. `log` outlives this.
  StandbyFailures(IncidentLog& log, std::int64_t window_ns) : outage_(log), window_ns_(window_ns) {}

  // Whether this began a new incident.
  bool failed(const std::string& component, const Cause& cause, std::int64_t now_ns);
  // A standby is ready.
  void ready() { end("recovered"); }
  // None is wanted any more; `outcome` says why.
  void given_up(const std::string& outcome) { end(outcome); }

  bool is_open() const { return outage_.is_open(); }
  const v1::Incident& incident() const { return outage_.incident(); }
  manifest::v1::Outage record() const { return outage_.record(); }
  void restore(const manifest::v1::Outage& record);

 private:
  void end(const std::string& outcome);
  void begin(const std::string& component, const Cause& cause);
  void count(const std::string& evidence);

  Outage outage_;
  std::int64_t window_ns_;
  std::int64_t last_ns_ = 0;
  std::int64_t first_failed_ns_ = 0;
  std::string earlier_;  // evidence of other failures of the same incident
  std::string newest_;   // of the last failure
  std::uint64_t times_ = 0;
};

}  // namespace bulkhead::supervisor
