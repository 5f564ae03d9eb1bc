// What a checking run found, as text for people and JSON for programs.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "tests/support/load_loop.h"

namespace bulkhead::xs {

struct LoadReport {
  double seconds = 0;
  uint64_t replies = 0;
  std::map<std::string, uint64_t> completed;  // by kind of client
  double longest_silence_us = 0;
  std::vector<double> answers_us;   // one per mark, ascending; unanswered marks are left out
  std::vector<double> silences_us;  // likewise
  uint64_t marks = 0;
  AnomalyLog anomalies;
};

LoadReport make_report(const LoadLoop& loop, const AnomalyLog& log, double seconds);
std::string report_text(const LoadReport& report);
std::string report_json(const LoadReport& report);

}  // namespace bulkhead::xs
