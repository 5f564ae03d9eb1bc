// Incidents as the core writes them: stored, and told to whoever watches.
#pragma once

#include "supervisor/incidents.h"
#include "supervisor/publisher.h"

namespace bulkhead::supervisor {

class IncidentLog {
 public:
  explicit IncidentLog(IncidentStore store) : store_(std::move(store)) {}

  // Stamps it with the time unless it has one, stores it; returns it with its id.
  v1::Incident open(v1::Incident incident);
  void update(const v1::Incident& incident);

  // At start: see IncidentStore.
  void close_orphans(const std::set<std::int64_t>& known);

  IncidentStore& store() { return store_; }
  // An incident when it is opened and again at each change.
  Publisher<v1::Incident>& published() { return published_; }

 private:
  void tell_trouble();

  IncidentStore store_;
  Publisher<v1::Incident> published_;
};

}  // namespace bulkhead::supervisor
