#include "supervisor/incident_log.h"

#include <spdlog/spdlog.h>

#include "runtime/clock.h"

namespace bulkhead::supervisor {

v1::Incident IncidentLog::open(v1::Incident incident) {
  if (incident.time_unix_us() == 0) incident.set_time_unix_us(wall_us());
  incident.set_id(store_.insert(incident));
  tell_trouble();
  published_.publish(incident);
  return incident;
}

void IncidentLog::update(const v1::Incident& incident) {
  // One that has been pruned meanwhile needs no update.
  (void)store_.update(incident);
  tell_trouble();
  published_.publish(incident);
}

void IncidentLog::close_orphans(const std::set<std::int64_t>& known) {
  store_.close_orphans(known);
  tell_trouble();
}

void IncidentLog::tell_trouble() {
  for (const std::string& line : store_.take_trouble()) spdlog::warn("incidents: {}", line);
}

}  // namespace bulkhead::supervisor
