#include "cli/views.h"

#include <algorithm>
#include <cctype>
#include <chrono>
#include <cmath>
#include <utility>
#include <vector>

#include "cli/units.h"

namespace bulkhead::cli {
namespace {

using Align = Table::Align;
using Cell = Table::Cell;

// "transition" for KIND_TRANSITION, "ladder step" for KIND_LADDER_STEP.
std::string words_of(std::string name, std::string_view prefix) {
  if (name.starts_with(prefix)) name.erase(0, prefix.size());
  std::ranges::transform(name, name.begin(),
                         [](unsigned char c) { return c == '_' ? ' ' : static_cast<char>(std::tolower(c)); });
  return name;
}

Style style_of(const v1::Component& component) {
  switch (component.state()) {
    case v1::STATE_SERVING:
      return component.healthy() ? Style::kGood : Style::kWarning;
    case v1::STATE_ISOLATED:
      return Style::kBad;
    case v1::STATE_STOPPED:
      return component.wanted() ? Style::kWarning : Style::kDim;
    default:
      return Style::kWarning;
  }
}

Cell health_cell(const v1::Component& component) {
  if (!component.running()) return {"-", Style::kDim};
  if (!component.ready()) return {"not ready", Style::kWarning};
  return component.healthy() ? Cell{"healthy", Style::kGood} : Cell{"unhealthy", Style::kBad};
}

std::string pid_text(std::int32_t pid) {
  return pid == 0 ? "-" : std::to_string(pid);
}

std::string standby_text(const v1::Component& component) {
  if (component.standby_pid() == 0) return "-";
  return std::to_string(component.standby_pid()) + (component.standby_ready() ? "" : " (not ready)");
}

std::string age_of(const v1::Component& component, std::int64_t now_unix_ms) {
  if (component.since_unix_ms() == 0) return "-";
  return age_text(std::chrono::milliseconds(now_unix_ms - component.since_unix_ms()));
}

// "2026-11-23 03:12:07.123 (in 5m)"; empty: never.
std::string until_text(std::int64_t unix_ms, std::int64_t now_unix_ms) {
  if (unix_ms == 0) return "";
  const std::int64_t left = unix_ms - now_unix_ms;
  return time_text(unix_ms * 1000) +
         (left > 0 ? " (in " + age_text(std::chrono::milliseconds(left)) + ")" : " (due)");
}

std::string percent_text(double fraction) {
  return std::to_string(std::lround(fraction * 100)) + " %";
}

std::string memory_text(const v1::Resources& use) {
  return bytes_text(use.rss_bytes()) +
         (use.private_bytes() == 0 ? "" : ", " + bytes_text(use.private_bytes()) + " of it private");
}

template <typename Items>
std::string joined(const Items& items, std::string_view separator) {
  std::string text;
  for (const auto& item : items) {
    if (!text.empty()) text += separator;
    text += item;
  }
  return text;
}

// Labelled lines; those without a value are left out.
std::string labelled(const std::vector<std::pair<std::string, std::string>>& lines, std::string_view indent,
                     const Layout& layout) {
  std::size_t width = 0;
  for (const auto& [label, value] : lines) width = std::max(width, value.empty() ? 0 : label.size());
  std::string text;
  for (const auto& [label, value] : lines) {
    if (value.empty()) continue;
    text += indent;
    text += styled(label, Style::kDim, layout) + std::string(width - label.size() + 2, ' ') +
            printable(value) + "\n";
  }
  return text;
}

std::string plural(std::uint64_t count, const std::string& noun) {
  return std::to_string(count) + " " + noun + (count == 1 ? "" : "s");
}

}  // namespace

std::string state_text(v1::State state) {
  if (!v1::State_IsValid(state))
    return "state " + std::to_string(static_cast<int>(state));  // a newer supervisor's
  return words_of(v1::State_Name(state), "STATE_");
}

std::string components_view(const v1::ListComponentsResponse& list, std::int64_t now_unix_ms,
                            const Layout& layout) {
  if (list.components().empty()) return "nothing is supervised\n";
  Table table({{"NAME"},
               {"STATE"},
               {"HEALTH"},
               {"INCARNATION", Align::kRight},
               {"ACTIVE", Align::kRight},
               {"STANDBY", Align::kRight},
               {"RESTARTS", Align::kRight},
               {"INCIDENTS", Align::kRight},
               {"SINCE", Align::kRight},
               {"CAUSE"}});
  std::string calls_for_help;
  for (const v1::Component& component : list.components()) {
    table.add({{component.name(), Style::kBold},
               {state_text(component.state()), style_of(component)},
               health_cell(component),
               {std::to_string(component.incarnation())},
               {pid_text(component.active_pid())},
               {standby_text(component), component.standby_ready() ? Style::kPlain : Style::kWarning},
               {std::to_string(component.restarts())},
               {std::to_string(component.incidents())},
               {age_of(component, now_unix_ms)},
               {component.cause()}});
    if (component.state() != v1::STATE_ISOLATED) continue;
    const std::string name = printable(component.name());
    calls_for_help.append("\n").append(styled(name + " is stuck and needs a human", Style::kBad, layout));
    calls_for_help.append(": see 'bulkhead incidents --component ").append(name);
    calls_for_help.append("', then try 'bulkhead enable ").append(name).append("'\n");
  }
  return table.render(layout) + calls_for_help;
}

std::string program_text(const v1::Program& program) {
  if (program.path().empty()) return "";
  return program.path() + (program.version().empty() ? "" : "  version " + program.version()) + "  id " +
         program.id();
}

std::string component_view(const v1::Component& component, std::int64_t now_unix_ms, const Layout& layout) {
  const v1::Resources& use = component.resources();
  const std::string state = state_text(component.state());
  return styled(printable(component.name()), Style::kBold, layout) + "  " +
         styled(state, style_of(component), layout) + "\n" +
         labelled(
             {{"cause", component.cause()},
              {"since", component.since_unix_ms() == 0 ? ""
                                                       : time_text(component.since_unix_ms() * 1000) + " (" +
                                                             age_of(component, now_unix_ms) + ")"},
              {"wanted", component.wanted() ? "yes" : "no"},
              {"running", component.running() ? "yes" : "no"},
              {"ready", component.ready() ? "yes" : "no"},
              {"healthy", component.healthy() ? "yes" : "no"},
              {"incarnation", std::to_string(component.incarnation())},
              {"active pid", pid_text(component.active_pid())},
              {"standby pid", component.foreign() ? "" : standby_text(component)},
              {"restarts", std::to_string(component.restarts())},
              {"incidents", std::to_string(component.incidents())},
              {"depends on", joined(component.depends_on(), ", ")},
              {"program", component.program() + (component.foreign() ? " (foreign)" : "")},
              {"active runs", program_text(component.active_program())},
              {"standby runs", program_text(component.standby_program())},
              {"kept", program_text(component.kept_program())},
              {"upgrading to", program_text(component.next_program())},
              {"on probation", until_text(component.probation_until_unix_ms(), now_unix_ms)},
              {"rejuvenation", until_text(component.rejuvenation_due_unix_ms(), now_unix_ms)},
              {"memory", component.has_resources() ? memory_text(use) : ""},
              {"descriptors", component.has_resources() ? std::to_string(use.open_fds()) : ""},
              {"cpu", component.has_resources() ? percent_text(use.cpu_fraction()) : ""},
              {"custody", component.foreign() ? ""
                                              : plural(component.custody_items(), "item") + ", " +
                                                    bytes_text(component.custody_bytes())}},
             "  ", layout);
}

std::string change_line(const v1::Component& component, std::int64_t now_unix_ms, const Layout& layout) {
  const std::string health = !component.running() ? "" : health_cell(component).text + "  ";
  return clock_text(now_unix_ms * 1000) + "  " + styled(printable(component.name()), Style::kBold, layout) +
         "  " + styled(state_text(component.state()), style_of(component), layout) + "  " + health +
         "incarnation " + std::to_string(component.incarnation()) + "  active " +
         pid_text(component.active_pid()) + "  standby " + standby_text(component) +
         (component.cause().empty() ? "" : "  " + printable(component.cause())) + "\n";
}

std::string event_line(const v1::Event& event, const Layout& layout) {
  const std::string kind = words_of(v1::Event::Kind_Name(event.kind()), "KIND_");
  std::string text =
      clock_text(event.time_unix_us()) + "  " +
      styled(event.component().empty() ? "bulkheadd" : printable(event.component()), Style::kBold, layout);
  if (event.incarnation() != 0) text += " #" + std::to_string(event.incarnation());
  text +=
      "  " + styled(kind, event.kind() == v1::Event::KIND_FINDING ? Style::kWarning : Style::kDim, layout);
  if (event.kind() == v1::Event::KIND_TRANSITION)
    text += "  " + state_text(event.from()) + " -> " + state_text(event.to());
  return text + (event.text().empty() ? "" : "  " + printable(event.text())) + "\n";
}

std::string incident_view(const v1::Incident& incident, const Layout& layout) {
  const bool recovered = incident.outcome() == "recovered";
  const Style style = recovered                          ? Style::kGood
                      : incident.outcome() == "isolated" ? Style::kBad
                                                         : Style::kWarning;
  const bool counted = incident.replayed() + incident.refused() + incident.lost() != 0 || recovered;
  const std::string deliberate = !incident.deliberate()     ? ""
                                 : incident.fault().empty() ? "yes, by an operator"
                                                            : "yes, fault " + incident.fault();
  return "#" + std::to_string(incident.id()) + "  " + time_text(incident.time_unix_us()) + "  " +
         styled(printable(incident.component()), Style::kBold, layout) + " incarnation " +
         std::to_string(incident.incarnation()) + "  " +
         styled(printable(incident.outcome()), style, layout) +
         (incident.deliberate() ? "  " + styled("(deliberate)", Style::kDim, layout) : "") + "\n" +
         labelled({{"what happened",
                    incident.finding() + (incident.evidence().empty() ? "" : ": " + incident.evidence())},
                   {"noticed after", latency_text(incident.detection_us())},
                   {"not serving for", incident.blackout_us() < 0 ? "unknown, or still not serving"
                                                                  : latency_text(incident.blackout_us())},
                   {"done about it", joined(incident.steps(), ", then ")},
                   {"requests", counted ? std::to_string(incident.replayed()) + " replayed, " +
                                              std::to_string(incident.refused()) + " refused, " +
                                              std::to_string(incident.lost()) + " lost"
                                        : ""},
                   {"blamed", incident.blamed_client()},
                   {"deliberate", deliberate},
                   {"if it recurs", incident.next_step()}},
                  "    ", layout);
}

std::string faults_view(const v1::ListFaultsResponse& list, std::int64_t now_unix_us, const Layout& layout) {
  if (list.faults().empty()) return "no fault is injected\n";
  Table table({{"ID", Align::kRight},
               {"COMPONENT"},
               {"KIND"},
               {"ARGUMENT"},
               {"TARGET"},
               {"PID", Align::kRight},
               {"ENDS IN", Align::kRight},
               {"BY"}});
  for (const v1::Fault& fault : list.faults()) {
    const std::chrono::microseconds left(fault.expires_unix_us() - now_unix_us);
    table.add({{std::to_string(fault.id())},
               {fault.component(), Style::kBold},
               {fault.kind(), Style::kWarning},
               {fault.argument()},
               {fault.target()},
               {pid_text(fault.pid())},
               {age_text(std::chrono::duration_cast<std::chrono::milliseconds>(left))},
               {fault.by()}});
  }
  return table.render(layout);
}

std::string fault_line(const v1::Fault& fault) {
  return "fault " + std::to_string(fault.id()) + ": " +
         printable(fault.kind() + (fault.argument().empty() ? "" : " " + fault.argument()) + " on " +
                   fault.component()) +
         " (pid " + pid_text(fault.pid()) + (fault.target().empty() ? "" : ", " + printable(fault.target())) +
         "), undone at " + clock_text(fault.expires_unix_us()) + " at the latest\n";
}

std::string custody_view(const v1::ListCustodyResponse& list, const Layout& layout) {
  std::string text;
  if (!list.items().empty()) {
    Table table({{"COMPONENT"}, {"KIND"}, {"SIZE", Align::kRight}, {"DEPOSITED"}, {"NAME"}});
    for (const v1::CustodyItem& item : list.items()) {
      table.add({{item.component(), Style::kBold},
                 {item.kind()},
                 {item.bytes() == 0 ? "-" : bytes_text(item.bytes())},
                 {item.deposited_unix_us() == 0 ? "-" : time_text(item.deposited_unix_us())},
                 {item.name()}});
    }
    text = table.render(layout);
  }
  std::uint64_t bytes = 0;
  for (const v1::CustodyItem& item : list.items()) bytes += item.bytes();
  text += plural(static_cast<std::uint64_t>(list.items_size()), "item") + ", " + bytes_text(bytes);
  if (list.limit_items() != 0) {
    text += " (limits: " + plural(list.limit_items(), "item") + ", " + bytes_text(list.limit_bytes()) + ")";
  }
  return text + "\n";
}

std::string quotas_view(const v1::ListQuotasResponse& list, const Layout& layout) {
  if (list.quotas().empty()) return "no quotas\n";
  Table table({{"COMPONENT"}, {"CLIENT"}, {"QUOTA"}, {"USED", Align::kRight}, {"LIMIT", Align::kRight}});
  for (const v1::Quota& quota : list.quotas()) {
    const bool full = quota.limit() != 0 && quota.used() >= quota.limit();
    table.add(
        {{quota.component(), Style::kBold},
         {quota.subject().empty() ? "(default)" : quota.subject()},
         {quota.name()},
         {quota.subject().empty() ? "-" : std::to_string(quota.used()), full ? Style::kBad : Style::kPlain},
         {quota.limit() == 0 ? "unlimited" : std::to_string(quota.limit())}});
  }
  return table.render(layout);
}

std::string version_view(const v1::GetVersionResponse& version) {
  return "supervisor  " + printable(version.version()) + "  pid " + std::to_string(version.core_pid()) +
         "  generation " + std::to_string(version.core_generation()) + "  since " +
         time_text(version.core_started_unix_ms() * 1000) + "  hypervisor " +
         printable(version.hypervisor()) + "\n";
}

}  // namespace bulkhead::cli
