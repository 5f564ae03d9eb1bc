// The command line: our own words, in front of or between those of the stock daemon, whose arguments a live
// update hands on to the program that follows it.
#pragma once

#include <string>
#include <vector>

namespace bulkhead::takeover {

struct Options {
  std::string api;                     // --api=FILE: the supervisor's socket
  std::string component;               // --component=NAME
  std::string stock;                   // --stock=FILE: the stock daemon's executable; empty: none was found
  bool check = false;                  // --check: only say whether a take-over would be accepted
  std::vector<std::string> arguments;  // the stock daemon's, without its name
  std::string state;                   // file in which it left its state
};

// Defaults from the environment: BULKHEAD_SOCKET, XENSTORED_RUNDIR. Never fails: there may be nobody to go
// back to.
Options parse_options(const std::vector<std::string>& words);

}  // namespace bulkhead::takeover
