// Keeps a component's pair of instances going under a ComponentHost and kills its active instance again and
// again; driven from inside a LoadLoop, one step at a time, without a thread of its own.
#pragma once

#include <cstdint>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "tests/support/component_host.h"

namespace bulkhead::testing {

class KillCampaign {
 public:
  struct Options {
    int kills = 100;
    // Between a standby's being ready and the next kill.
    std::int64_t min_pause_ns = 200'000;
    std::int64_t max_pause_ns = 3'000'000;
    // How a victim dies: called with the active and the standby; must make one of them end and say which.
    // Must not block. Default: SIGKILL for the active one.
    std::function<ComponentHost::Instance*(ComponentHost&, ComponentHost::Instance& active,
                                           ComponentHost::Instance& standby)>
        strike = {};
    unsigned seed = 1;
  };

  KillCampaign(ComponentHost& host, Options options);

  // Starts the first pair. False if it does not come up.
  bool begin();
  // One step, never blocking; true when all kills are done (or something is stuck: see error()).
  bool step();

  int kills() const { return kills_; }
  const std::string& error() const { return error_; }
  // From each kill to the successor's readiness to serve, nanoseconds.
  const std::vector<std::int64_t>& takeovers() const { return takeovers_; }
  // Instants of the kills since the last call, CLOCK_MONOTONIC.
  std::vector<std::int64_t> take_marks();

 private:
  bool fail(std::string why);
  bool await_successor(std::int64_t now);

  ComponentHost& host_;
  Options options_;
  std::mt19937 random_;
  int kills_ = 0;
  std::string error_;
  ComponentHost::Instance* victim_ = nullptr;
  std::int64_t struck_ns_ = 0;
  std::int64_t next_strike_ns_ = 0;
  std::vector<std::int64_t> takeovers_;
  std::vector<std::int64_t> marks_;
};

// The first owner dies before each of its deposits, and with one under way, until one serves. How many heirs
// died where they should; -1: something went otherwise.
int die_in_deposits(ComponentHost& host);

}  // namespace bulkhead::testing
