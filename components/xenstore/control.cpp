// CONTROL: check, log, print, quota, quota-soft, help.
#include <algorithm>
#include <vector>

#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {
namespace {

using Arguments = std::vector<std::string_view>;

void reply_text(const Call& call, const std::string& text) {
  call.reply(std::string_view(text.c_str(), text.size() + 1));
}

// Columns as the C xenstored prints them: the name left, the number right in eight places.
void append_row(std::string& out, std::string_view name, std::size_t width, std::int64_t number) {
  std::string digits = std::to_string(number);
  out.append(name).append(width - std::min(width, name.size()), ' ').append(": ");
  out.append(8 - std::min<std::size_t>(8, digits.size()), ' ').append(digits);
}

void append_used(std::string& out, std::string_view name, std::int64_t used) {
  append_row(out, name, 16, used);
  out += '\n';
}

// Those of one level; the command says which, so the names do not.
ErrorCode show_quotas(const Call& call, bool soft) {
  std::string text = "Quota settings:\n";
  for (const Quota& quota : all_quotas()) {
    if (quota.name.starts_with(kSoftPrefix) != soft) continue;
    append_row(text, quota.name.substr(soft ? kSoftPrefix.size() : 0), 17, call.state.limits.*quota.limit);
    text.append(" ").append(quota.meaning).append("\n");
  }
  reply_text(call, text);
  return ErrorCode::kNone;
}

ErrorCode set_quota(Call& call, bool soft, std::span<const std::string_view> arguments) {
  if (arguments.size() != 2) return ErrorCode::kInvalid;
  std::int64_t value = leading_number(arguments[1]);
  if (value < 1 || value > INT32_MAX) return ErrorCode::kInvalid;
  if (!soft && arguments[0].starts_with(kSoftPrefix)) return ErrorCode::kInvalid;
  auto quota = find_quota(std::string(soft ? kSoftPrefix : "").append(arguments[0]));
  if (!quota) return ErrorCode::kInvalid;
  ErrorCode error = call.state.set_limit(
      {LimitChange::kEveryDomain, static_cast<std::uint32_t>(*quota), static_cast<std::uint32_t>(value)});
  if (error != ErrorCode::kNone) return error;
  call.mutated = true;
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode show_domain(const Call& call, std::string_view argument) {
  std::int64_t domid = leading_number(argument);
  const Domain* domain = domid < 0 || domid >= kFirstReservedDomain
                             ? nullptr
                             : call.state.domains.find(static_cast<std::uint32_t>(domid));
  if (domain == nullptr) return ErrorCode::kNoEntry;
  std::string text = "Domain " + std::to_string(domain->domid) + ":\n";
  append_used(text, "nodes", domain->nodes);
  append_used(text, "watches", domain->watches);
  append_used(text, "transactions", domain->transactions);
  append_used(text, "outstanding", call.out.outstanding_requests(domain->domid));
  append_used(text, "memory", domain->memory);
  append_used(text, "undelivered", static_cast<std::int64_t>(call.out.undelivered_bytes(domain->domid)));
  reply_text(call, text);
  return ErrorCode::kNone;
}

ErrorCode control_quota(Call& call, const Arguments& arguments) {
  if (arguments.empty()) return show_quotas(call, false);
  if (arguments[0] == "set") return set_quota(call, false, std::span(arguments).subspan(1));
  return arguments.size() == 1 ? show_domain(call, arguments[0]) : ErrorCode::kInvalid;
}

ErrorCode control_soft_quota(Call& call, const Arguments& arguments) {
  if (arguments.empty()) return show_quotas(call, true);
  if (arguments[0] == "set") return set_quota(call, true, std::span(arguments).subspan(1));
  return ErrorCode::kInvalid;
}

ErrorCode control_check(Call& call, const Arguments& arguments) {
  if (!arguments.empty()) return ErrorCode::kInvalid;
  if (!check_state(call.state)) return ErrorCode::kIo;
  const std::string report = call.out.check_report();
  if (report.empty()) {
    call.acknowledge();
  } else {
    reply_text(call, "OK\n" + report);
  }
  return ErrorCode::kNone;
}

ErrorCode control_log(Call& call, const Arguments& arguments) {
  if (arguments.size() != 1 || (arguments[0] != "on" && arguments[0] != "off")) return ErrorCode::kInvalid;
  call.out.log_control(arguments[0] == "on" ? "log on" : "log off");
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode control_print(Call& call, const Arguments& arguments) {
  if (arguments.size() != 1) return ErrorCode::kInvalid;
  call.out.log_control("print " + std::string(arguments[0]));
  call.acknowledge();
  return ErrorCode::kNone;
}

ErrorCode control_help(Call& call, const Arguments& arguments);

struct Command {
  std::string_view name;
  ErrorCode (*run)(Call& call, const Arguments& arguments);
  const char* parameters;
};
constexpr std::array kCommands = {
    Command{"check", control_check, ""},
    Command{"log", control_log, "on|off"},
    Command{"print", control_print, "<string>"},
    Command{"quota", control_quota, "[set <name> <val>|<domid>]"},
    Command{"quota-soft", control_soft_quota, "[set <name> <val>]"},
    Command{"help", control_help, ""},
};

ErrorCode control_help(Call& call, const Arguments& arguments) {
  if (!arguments.empty()) return ErrorCode::kInvalid;
  std::string text;
  for (const Command& command : kCommands) {
    text += std::string(command.name) + '\t' + command.parameters + '\n';
  }
  reply_text(call, text);
  return ErrorCode::kNone;
}

}  // namespace

ErrorCode handle_control(Call& call) {
  std::string_view rest = call.payload;
  auto name = take_argument(rest);
  if (!name) return ErrorCode::kInvalid;
  Arguments arguments;
  while (auto argument = take_argument(rest)) arguments.push_back(*argument);
  for (const Command& command : kCommands) {
    if (command.name == *name) return command.run(call, arguments);
  }
  return ErrorCode::kInvalid;
}

}  // namespace bulkhead::xenstore::core
