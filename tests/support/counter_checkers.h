// The plain data path: writers that count upwards, readers that must never see a value go back.
#pragma once

#include <deque>

#include "tests/support/checker.h"

namespace bulkhead::xs {

// Node of the counter that writer `index` owns.
std::string counter_path(const std::string& base, size_t index);

// Writes increasing numbers to its own node, and every eighth request reads the node back: on one connection
// requests take effect in order, so the read must give exactly the number written before it.
class CounterWriter final : public Checker {
 public:
  CounterWriter(size_t index, CheckerSettings settings, AnomalyLog& log);
  Status setup() override;
  void pump() override;
  void finish() override;
  void on_reply(const Reply& reply) override;

 private:
  void check_value(std::string_view value, uint64_t due);

  std::string node_;
  XsClient* client_ = nullptr;
  uint64_t written_ = 0;
  uint64_t sent_ = 0;
};

// Reads the nodes of all writers in turn. Replies are matched by the request id, so a reply's node is known.
class CounterReader final : public Checker {
 public:
  CounterReader(size_t index, size_t writers, CheckerSettings settings, AnomalyLog& log);
  Status setup() override;
  void pump() override;
  void on_reply(const Reply& reply) override;

 private:
  XsClient* client_ = nullptr;
  size_t next_ = 0;
  std::vector<uint64_t> seen_;
};

}  // namespace bulkhead::xs
