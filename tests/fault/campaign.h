// A fault campaign as data: what is done to the service, by whom, under which load, and what must come of it.
// tests/fault/campaigns/README.md describes the files.
#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "runtime/result.h"
#include "tests/support/hostile_clients.h"

namespace bulkhead::campaign {

// What becomes of an attacker.
enum class Fate : unsigned char {
  kServed,     // every request is answered, none with an error that is not expected
  kThrottled,  // still connected, but the service takes no more from it
  kCutOff,     // every connection of it is closed
  kUnharmed,   // still connected; whether it is answered does not matter
};

struct Attack {
  xs::HostileScript script;
  Fate fate = Fate::kServed;
  std::vector<std::string> errors;             // exactly these are heard; nothing is said if it is cut off
  std::optional<std::uint64_t> events;         // so many are heard
  std::optional<std::uint64_t> taken_at_most;  // bytes the service takes from all its connections
};

enum class Trigger : unsigned char {
  kAtOnce,       // right after the fault before it, or before the attackers come
  kComplete,     // the service is complete: an active instance, a ready standby
  kTakenOver,    // another instance is active than before the fault before it
  kStandbyGone,  // the standby that was there before the fault before it is not any more
  kReplies,      // the bystanders have had so many more replies
};

struct Fault {
  Trigger trigger = Trigger::kComplete;
  std::uint64_t replies = 0;
  std::string kind;               // of bulkhead inject; or "kill" (SIGKILL); or "kill-core"
  std::string argument;           // kill-core: "with-active" or "with-standby" dies, too
  std::string target = "active";  // or "standby"
};

struct Load {
  std::map<std::string, std::uint64_t> clients{
      {"readers", 1}, {"writers", 2}, {"watchers", 1}, {"movers", 1}, {"models", 1}};
  std::uint64_t replies = 2000;  // the bystanders must have had, while the attack goes on
  std::string conflict_node;     // the toolstack's transactions use it; empty: there is no such client
  std::uint64_t commits = 0;     // it must have got through, while the attack goes on
};

struct Expected {
  bool survives = true;                    // the active instance is the same at the end
  std::optional<std::uint64_t> takeovers;  // how far the incarnation has moved; at least this
  std::optional<std::uint64_t> takeovers_at_most;
  std::optional<std::uint64_t> refused;                   // requests, of all incidents
  std::string blamed;                                     // a blamed client contains this
  std::string found;                                      // a finding that was reported contains this
  std::uint64_t memory_growth = std::uint64_t{64} << 20;  // bytes, of the active instance that survives
};

struct Campaign {
  std::string name;  // the file's
  std::string what;
  std::vector<std::string> classes;
  std::map<std::string, std::string> settings;  // of the component
  std::string monitor;                          // TOML: the component's table monitor
  std::vector<std::string> setup;               // requests of domain 0
  Load load;
  std::vector<Attack> attacks;
  std::vector<Fault> faults;
  Expected expected;

  bool needs_descriptor_store() const;
};

// kInvalid: one line, "FILE:LINE: what is wrong". Unknown keys are wrong.
Result<Campaign> read_campaign(const std::string& file);
// All *.toml below a directory, sorted.
std::vector<std::string> campaign_files(const std::string& directory);

}  // namespace bulkhead::campaign
