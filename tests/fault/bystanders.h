// The innocent: checking clients that go on in a thread of their own while the service is attacked. They
// connect once, before anything happens, and notice whatever is lost, repeated, torn, wrong or not answered.
#pragma once

#include <poll.h>

#include <atomic>
#include <cstdint>
#include <memory>
#include <string>
#include <thread>
#include <vector>

#include "runtime/unique_fd.h"
#include "tests/fault/campaign.h"
#include "tests/support/load_loop.h"

namespace bulkhead::campaign {

class Bystanders {
 public:
  Bystanders(const std::string& socket_path, const Load& load);
  ~Bystanders();
  Bystanders(const Bystanders&) = delete;
  Bystanders& operator=(const Bystanders&) = delete;

  // Connects them and lets them run.
  Status begin();
  // Lets what is under way end, makes the last checks. The log is complete then.
  void end();

  std::uint64_t replies() const { return replies_.load(); }
  std::uint64_t commits() const { return commits_.load(); }  // of the toolstack whom somebody makes conflict
  // Returns when they have had another turn, which they have every 20 ms even if nothing is answered; or when
  // one of `others` is ready.
  void await_turn(std::vector<pollfd> others = {}) const;
  const xs::AnomalyLog& log() const { return log_; }

 private:
  Status add();

  xs::CheckerSettings settings_;
  Load load_;
  xs::AnomalyLog log_;
  xs::LoadLoop loop_;
  const xs::Checker* toolstack_ = nullptr;
  std::thread thread_;
  std::atomic<std::uint64_t> replies_ = 0;
  std::atomic<std::uint64_t> commits_ = 0;
  UniqueFd turned_;
  std::atomic<bool> enough_ = false;
};

}  // namespace bulkhead::campaign
