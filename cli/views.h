// What people see: the API's messages as text. Pure functions; strings from the supervisor are made safe to
// print.
#pragma once

#include <cstdint>
#include <string>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/table.h"

namespace bulkhead::cli {

// "serving" for STATE_SERVING.
std::string state_text(v1::State state);

// `now_unix_ms` for ages.
std::string components_view(const v1::ListComponentsResponse& list, std::int64_t now_unix_ms,
                            const Layout& layout);
// Everything about one component.
std::string component_view(const v1::Component& component, std::int64_t now_unix_ms, const Layout& layout);
// "/usr/libexec/bulkhead/thing  version 1.2  id 0a1b2c3d-123"; empty if there is none.
std::string program_text(const v1::Program& program);
// One line, for a log of changes.
std::string change_line(const v1::Component& component, std::int64_t now_unix_ms, const Layout& layout);
std::string event_line(const v1::Event& event, const Layout& layout);

// A block of lines per incident, in the order given.
std::string incident_view(const v1::Incident& incident, const Layout& layout);
std::string faults_view(const v1::ListFaultsResponse& list, std::int64_t now_unix_us, const Layout& layout);
// "fault 3: hang on xenstore (pid 4711, active), undone at 03:12:37.000".
std::string fault_line(const v1::Fault& fault);
std::string custody_view(const v1::ListCustodyResponse& list, const Layout& layout);
std::string quotas_view(const v1::ListQuotasResponse& list, const Layout& layout);
std::string version_view(const v1::GetVersionResponse& version);

}  // namespace bulkhead::cli
