// One failure of a component from the first sign of it to the first right answer afterwards, as an incident.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "bulkhead/contract/v1/contract.pb.h"
#include "bulkhead/manifest/v1/manifest.pb.h"
#include "supervisor/incident_log.h"

namespace bulkhead::supervisor {

// Why something is being replaced.
struct Cause {
  Cause() = default;
  Cause(std::string what, std::string why, std::int64_t failed, std::int64_t found)
      : finding(std::move(what)), evidence(std::move(why)), failed_ns(failed), found_ns(found) {}

  std::string finding;   // exit, progress, probe, ...: Incident.finding
  std::string evidence;  // Incident.evidence
  bool deliberate = false;
  std::string fault;           // the injected fault, if one explains it
  std::int64_t failed_ns = 0;  // when it began, as far as is known (monotonic); 0: unknown
  std::int64_t found_ns = 0;
  std::uint64_t incarnation = 0;  // of the owner that failed
};

class Outage {
 public:
  explicit Outage(IncidentLog& log) : log_(&log) {}

  bool is_open() const { return open_; }
  const v1::Incident& incident() const { return incident_; }

  // Opens an incident; if one is open, `cause` becomes part of its evidence.
  void begin(const std::string& component, const Cause& cause);
  void step(const std::string& step, const std::string& if_recurs);
  // Replaces what is known about it.
  void set_evidence(const std::string& evidence);
  // Service ended at another time than when the failure began: a planned hand over, or one from a slow owner,
  // which answered until it yielded. 0: unknown, nothing changes.
  void dark_since(std::int64_t since_ns);
  // The successor's figures; to be told before end().
  void taken_over(const bulkhead::contract::v1::Active& active);
  // `serving_ns`: when it could answer again (monotonic); 0: it does not. `outcome`: recovered, isolated, ...
  void end(const std::string& outcome, std::int64_t serving_ns);
  // It was not over after all.
  void reopen();

  // Adds to an incident that has ended what became known later (an exit status).
  void add_evidence(const std::string& evidence);
  std::int64_t last_blackout_us() const { return last_blackout_us_; }

  // What opened it.
  Cause cause() const;
  manifest::v1::Outage record() const;
  // Stays closed if the incident is closed: a former core died before it could write so to the manifest.
  void restore(const manifest::v1::Outage& record);

 private:
  IncidentLog* log_;
  bool open_ = false;
  v1::Incident incident_;
  std::int64_t failed_ns_ = 0;
  std::int64_t last_blackout_us_ = -1;
};

}  // namespace bulkhead::supervisor
