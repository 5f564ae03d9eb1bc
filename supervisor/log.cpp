#include "supervisor/log.h"

#define SD_JOURNAL_SUPPRESS_LOCATION  // our own place in the source says nothing about the component
#include <spdlog/sinks/stdout_sinks.h>
#include <spdlog/sinks/systemd_sink.h>
#include <spdlog/spdlog.h>
#include <sys/stat.h>
#include <systemd/sd-journal.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <cstdlib>
#include <vector>

namespace bulkhead::supervisor {
namespace {

bool journal = false;

struct Level {
  std::string_view name;
  spdlog::level::level_enum value;
};
constexpr std::array kLevels{Level{"trace", spdlog::level::trace}, Level{"debug", spdlog::level::debug},
                             Level{"info", spdlog::level::info}, Level{"warning", spdlog::level::warn},
                             Level{"error", spdlog::level::err}};

bool stderr_is_journal() {
  const char* stream = std::getenv("JOURNAL_STREAM");
  struct stat info{};
  if (stream == nullptr || ::fstat(STDERR_FILENO, &info) != 0) return false;
  return std::to_string(info.st_dev) + ":" + std::to_string(info.st_ino) == stream;
}

int priority_of(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return LOG_DEBUG;
    case spdlog::level::info:
      return LOG_INFO;
    case spdlog::level::warn:
      return LOG_WARNING;
    default:
      return LOG_ERR;
  }
}

// A line with its facts as fields: to journald both, elsewhere the text alone.
void write(spdlog::level::level_enum level, const std::string& text, const std::vector<std::string>& fields) {
  if (!spdlog::default_logger_raw()->should_log(level)) return;
  if (!journal) {
    spdlog::log(level, text);
    return;
  }
  std::vector<std::string> all = fields;
  all.push_back("MESSAGE=" + text);
  all.push_back("PRIORITY=" + std::to_string(priority_of(level)));
  all.emplace_back("SYSLOG_IDENTIFIER=bulkheadd");
  std::vector<iovec> vectors;
  vectors.reserve(all.size());
  for (std::string& field : all) vectors.push_back({field.data(), field.size()});
  ::sd_journal_sendv(vectors.data(), static_cast<int>(vectors.size()));
}

std::string describe(const v1::Event& event) {
  std::string text = event.component().empty() ? "core" : event.component();
  if (event.incarnation() != 0) text += " #" + std::to_string(event.incarnation());
  text += ": ";
  if (event.kind() == v1::Event::KIND_TRANSITION) {
    text += state_name(event.from()) + " -> " + state_name(event.to());
    if (!event.text().empty()) text += ": ";
  }
  return text + event.text();
}

}  // namespace

std::string state_name(v1::State state) {
  constexpr std::string_view kPrefix = "STATE_";
  std::string name = v1::State_Name(state);
  if (name.starts_with(kPrefix)) name.erase(0, kPrefix.size());
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
  return name;
}

void start_log(const std::string& level) {
  journal = stderr_is_journal();
  spdlog::sink_ptr sink;
  if (journal) {
    sink = std::make_shared<spdlog::sinks::systemd_sink_st>("bulkheadd");
  } else {
    sink = std::make_shared<spdlog::sinks::stderr_sink_st>();
  }
  auto logger = std::make_shared<spdlog::logger>("bulkheadd", std::move(sink));
  logger->set_pattern(journal ? "%v" : "%Y-%m-%dT%H:%M:%S.%f%z %l %v");
  spdlog::set_default_logger(std::move(logger));
  (void)set_log_level(level);  // the configuration has been checked
}

Status check_log_level(const std::string& level) {
  if (std::ranges::find(kLevels, level, &Level::name) != kLevels.end()) return {};
  return failure(ErrorKind::kInvalid,
                 "unknown log level '" + level + "'; known are trace, debug, info, warning, error");
}

Status set_log_level(const std::string& level) {
  if (auto valid = check_log_level(level); !valid) return valid;
  spdlog::set_level(std::ranges::find(kLevels, level, &Level::name)->value);
  return {};
}

void log_event(const v1::Event& event) {
  const bool finding = event.kind() == v1::Event::KIND_FINDING;
  const bool bad = event.to() == v1::STATE_ISOLATED || event.to() == v1::STATE_RECOVERING;
  std::vector<std::string> fields{"BULKHEAD_EVENT=" + v1::Event::Kind_Name(event.kind())};
  if (!event.component().empty()) fields.push_back("BULKHEAD_COMPONENT=" + event.component());
  if (event.incarnation() != 0) {
    fields.push_back("BULKHEAD_INCARNATION=" + std::to_string(event.incarnation()));
  }
  if (event.kind() == v1::Event::KIND_TRANSITION) {
    fields.push_back("BULKHEAD_FROM=" + state_name(event.from()));
    fields.push_back("BULKHEAD_TO=" + state_name(event.to()));
    fields.push_back("BULKHEAD_CAUSE=" + event.text());
  }
  write(finding || bad ? spdlog::level::warn : spdlog::level::info, describe(event), fields);
}

void log_output(const std::string& component, std::uint64_t instance, bool is_error, std::string_view line) {
  const std::string name = component + "[" + std::to_string(instance) + "]";
  write(spdlog::level::info, name + ": " + std::string(line),
        {"BULKHEAD_COMPONENT=" + component, "BULKHEAD_INSTANCE=" + std::to_string(instance),
         std::string("BULKHEAD_STREAM=") + (is_error ? "stderr" : "stdout")});
}

}  // namespace bulkhead::supervisor
