// What a monitor says: what it found and why it thinks so. Monitors find, they never act.
#pragma once

#include <cstdint>
#include <string>

namespace bulkhead::monitors {

enum class Severity : unsigned char {
  kWarning,  // an operator should know; nothing has failed yet
  kSuspect,  // it still works, but a planned hand over is advised
  kFailed,   // it must be replaced
};

struct Finding {
  std::string monitor;  // "exit", "progress", "probe", "resource", "latency": Incident.finding
  Severity severity = Severity::kFailed;
  std::string evidence;  // one line: Incident.evidence
  // When the failure began as far as is known, and when it was found (monotonic ns): Incident.detection_us is
  // the difference.
  std::int64_t since_ns = 0;
  std::int64_t found_ns = 0;
};

}  // namespace bulkhead::monitors
