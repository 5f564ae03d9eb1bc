// A toolstack that must get through: it reads a node and writes it back in a transaction, while somebody else
// may do all he can to make each of them conflict.
#pragma once

#include "tests/support/checker.h"

namespace bulkhead::xs {

class ConflictChecker final : public Checker {
 public:
  struct Bounds {
    std::string node;                // absolute; exists
    std::uint64_t max_tries = 1000;  // of one commit; more are an anomaly
  };
  ConflictChecker(CheckerSettings settings, AnomalyLog& log, Bounds bounds)
      : Checker("toolstack", std::move(settings), log), bounds_(std::move(bounds)) {}

  Status setup() override;
  void pump() override;
  bool idle() const override { return !busy_ && Checker::idle(); }
  void on_reply(const Reply& reply) override;

  std::uint64_t conflicts() const { return conflicts_; }

 private:
  void ended(const Reply& reply);

  Bounds bounds_;
  XsClient* client_ = nullptr;
  bool busy_ = false;
  std::uint32_t transaction_ = 0;
  std::uint64_t tries_ = 0;
  std::uint64_t conflicts_ = 0;
};

}  // namespace bulkhead::xs
