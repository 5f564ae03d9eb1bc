#include "tests/support/history.h"

#include <algorithm>
#include <array>
#include <string_view>

namespace bulkhead::xs {
namespace {

constexpr std::array<std::string_view, 7> kNames{"read",      "write",     "mkdir",    "rm",
                                                 "directory", "get_perms", "set_perms"};

std::string printable(std::string text) {
  std::ranges::replace(text, '\0', '|');
  return text;
}

}  // namespace

std::string describe(const Operation& operation) {
  std::string text =
      "client " + std::to_string(operation.client) + " [" + std::to_string(operation.invoked_ns);
  text += ", " + (operation.answered() ? std::to_string(operation.answered_ns) : "never") + "]";
  if (operation.kind == Operation::Kind::kCommit) text += " commit:";
  if (operation.kind == Operation::Kind::kSnapshot) text += " snapshot:";
  for (const Step& step : operation.steps) {
    text.append(" ")
        .append(kNames[static_cast<size_t>(step.request.kind)])
        .append(" ")
        .append(step.request.path);
    if (!step.request.argument.empty()) text += " " + printable(step.request.argument);
    if (operation.answered()) text += " -> " + printable(step.result);
    text += ";";
  }
  return text;
}

}  // namespace bulkhead::xs
