#include "tests/support/load_report.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace bulkhead::xs {
namespace {

// Nearest rank.
double quantile(const std::vector<double>& ascending, double q) {
  if (ascending.empty()) return 0;
  const auto rank = static_cast<size_t>(std::ceil(q * static_cast<double>(ascending.size())));
  return ascending[std::clamp<size_t>(rank, 1, ascending.size()) - 1];
}

std::string number(double value) {
  std::array<char, 64> text{};
  std::snprintf(text.data(), text.size(), "%.1f", value);
  return text.data();
}

std::string quoted(std::string_view text) {
  std::string result = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') result.push_back('\\');
    if (static_cast<unsigned char>(c) < 0x20) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x",
                    static_cast<unsigned>(static_cast<unsigned char>(c)));
      result.append(escape.data());
    } else {
      result.push_back(c);
    }
  }
  return result + "\"";
}

std::string distribution_json(const std::vector<double>& ascending) {
  return "{\"p50\": " + number(quantile(ascending, 0.5)) + ", \"p99\": " + number(quantile(ascending, 0.99)) +
         ", \"max\": " + number(quantile(ascending, 1)) + "}";
}

}  // namespace

LoadReport make_report(const LoadLoop& loop, const AnomalyLog& log, double seconds) {
  LoadReport report;
  report.seconds = seconds;
  report.replies = loop.replies();
  for (const auto& checker : loop.checkers()) {
    report.completed[checker->name().substr(0, checker->name().find(' '))] += checker->completed();
  }
  report.longest_silence_us = static_cast<double>(loop.longest_silence_ns()) / 1e3;
  report.marks = loop.marks().size();
  for (const Mark& mark : loop.marks()) {
    if (mark.answer_ns < 0) continue;
    report.answers_us.push_back(static_cast<double>(mark.answer_ns) / 1e3);
    report.silences_us.push_back(static_cast<double>(mark.silence_ns) / 1e3);
  }
  std::sort(report.answers_us.begin(), report.answers_us.end());
  std::sort(report.silences_us.begin(), report.silences_us.end());
  report.anomalies = log;
  return report;
}

std::string report_text(const LoadReport& report) {
  std::string text = std::to_string(report.replies) + " replies in " + number(report.seconds) + " s";
  for (const auto& [kind, count] : report.completed) text += ", " + kind + "s " + std::to_string(count);
  text += "\nlongest silence " + number(report.longest_silence_us / 1e3) + " ms\n";
  if (report.marks > 0) {
    text += "outages marked " + std::to_string(report.marks) + ", answered " +
            std::to_string(report.answers_us.size()) + ", to the next right answer (us): p50 " +
            number(quantile(report.answers_us, 0.5)) + ", p99 " + number(quantile(report.answers_us, 0.99)) +
            ", max " + number(quantile(report.answers_us, 1)) + "\n";
  }
  text += "anomalies " + std::to_string(report.anomalies.total());
  for (size_t kind = 0; kind < kAnomalyKinds; ++kind) {
    text += (kind == 0 ? ": " : ", ") + std::string(kAnomalyNames[kind]) + " " +
            std::to_string(report.anomalies.count(static_cast<Anomaly>(kind)));
  }
  text += "\n";
  for (const std::string& line : report.anomalies.described()) text += "  " + line + "\n";
  return text;
}

std::string report_json(const LoadReport& report) {
  std::string json = "{\"seconds\": " + number(report.seconds) +
                     ", \"replies\": " + std::to_string(report.replies) +
                     ", \"longest_silence_us\": " + number(report.longest_silence_us) + ", \"completed\": {";
  std::string comma;
  for (const auto& [kind, count] : report.completed) {
    json += comma + quoted(kind) + ": " + std::to_string(count);
    comma = ", ";
  }
  json += "}, \"marks\": " + std::to_string(report.marks) +
          ", \"answered\": " + std::to_string(report.answers_us.size()) +
          ", \"answer_us\": " + distribution_json(report.answers_us) +
          ", \"silence_us\": " + distribution_json(report.silences_us) +
          ", \"anomalies\": {\"total\": " + std::to_string(report.anomalies.total());
  for (size_t kind = 0; kind < kAnomalyKinds; ++kind) {
    json += ", " + quoted(kAnomalyNames[kind]) + ": " +
            std::to_string(report.anomalies.count(static_cast<Anomaly>(kind)));
  }
  json += "}, \"described\": [";
  comma.clear();
  for (const std::string& line : report.anomalies.described()) {
    json += comma + quoted(line);
    comma = ", ";
  }
  return json + "]}";
}

}  // namespace bulkhead::xs
