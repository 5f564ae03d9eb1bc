// The core's log: structured lines to journald under systemd, to standard error otherwise.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/result.h"

namespace bulkhead::supervisor {

// Chooses the destination: journald if JOURNAL_STREAM names our standard error (systemd.exec(5)). Other code
// of the core logs through spdlog's default logger.
void start_log(const std::string& level);

// trace, debug, info, warning, error; kInvalid otherwise.
Status set_log_level(const std::string& level);
Status check_log_level(const std::string& level);

// One line per event: component, incarnation, from, to, cause. As journal fields too.
void log_event(const v1::Event& event);

// A line that a component wrote to its standard output or standard error.
void log_output(const std::string& component, std::uint64_t instance, bool is_error, std::string_view line);

// "serving" for STATE_SERVING.
std::string state_name(v1::State state);

}  // namespace bulkhead::supervisor
