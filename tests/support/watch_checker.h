// Watch events: exactly one per write, in the order of the writes.
#pragma once

#include <set>

#include "tests/support/checker.h"

namespace bulkhead::xs {

// A writer connection writes numbered values to numbered nodes; a second connection watches their common
// parent. An event names the node only, so never more writes are under way than half the nodes: a gap then
// tells a lost event from a repeated one without doubt.
class WatchChecker final : public Checker {
 public:
  WatchChecker(size_t index, CheckerSettings settings, AnomalyLog& log);
  Status setup() override;
  void pump() override;
  bool idle() const override;
  void finish() override;
  void on_reply(const Reply& reply) override;
  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

 private:
  void check_number(uint64_t node);

  std::string directory_;
  std::string token_;
  XsClient* writer_ = nullptr;
  XsClient* watcher_ = nullptr;
  uint64_t written_ = 0;
  uint64_t seen_ = 0;           // the write whose event came last
  std::set<uint64_t> missing_;  // nodes whose events were overtaken and have not come since
  bool registered_ = false;
};

}  // namespace bulkhead::xs
