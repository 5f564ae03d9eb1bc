// The command tree: what can be typed, and what each command does.
#pragma once

#include <CLI/App.hpp>
#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "cli/client.h"
#include "cli/failure.h"
#include "cli/output.h"

namespace bulkhead::cli {

// What every command is given to work with.
struct Session {
  const CLI::App& tree;
  const Client& client;
  Output& output;
  Layout layout;
  bool json = false;
};

// What the command line asked for.
struct Invocation {
  std::string socket;
  std::string output = "table";
  std::string timeout;  // parse_duration(); empty: each command's default
  std::string colour = "auto";
  std::function<Outcome<void>(Session&)> action;
};

inline constexpr const char* kDefaultSocket = "/run/bulkhead/api.sock";

// Fills `tree`; parsing it fills `invocation`, which must outlive it. The type name of an option or argument
// tells the completion what to offer: COMPONENT, FAULT, FILE, or "{a,b}" as CLI::IsMember writes it.
void add_commands(CLI::App& tree, Invocation& invocation);

}  // namespace bulkhead::cli
