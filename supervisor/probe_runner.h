// Runs a component's probes in the event loop, one at a time, when their schedule says so.
#pragma once

#include <functional>
#include <memory>
#include <optional>

#include "monitors/probe.h"
#include "runtime/event_loop.h"

namespace bulkhead::supervisor {

class ProbeRunner {
 public:
  using Factory = std::function<Result<std::unique_ptr<monitors::Probe>>()>;
  struct Outcome {
    bool passed = false;
    std::int64_t round_trip_ns = 0;            // of one that passed
    std::string evidence;                      // of one that failed
    std::optional<monitors::Finding> finding;  // set when the row of failures is complete
  };
  using Handler = std::function<void(const Outcome&)>;

  // Idle until start(). `handler` may stop or destroy the runner.
  ProbeRunner(EventLoop& loop, monitors::ProbePolicy policy, Factory factory, Handler handler);
  ~ProbeRunner();
  ProbeRunner(const ProbeRunner&) = delete;
  ProbeRunner& operator=(const ProbeRunner&) = delete;

  // The first probe is due in `delay_ns`; failures of the past are forgotten.
  void start(std::int64_t delay_ns = 0);
  void stop();
  bool started() const { return timer_ != 0; }

 private:
  void arm();
  void tick(std::int64_t due_ns);
  void advance();
  void end(const monitors::ProbeStep& result);
  void unwatch();

  EventLoop& loop_;
  monitors::ProbePolicy policy_;
  Factory factory_;
  Handler handler_;
  monitors::ProbeSchedule schedule_;
  std::unique_ptr<monitors::Probe> probe_;
  EventLoop::TimerId timer_ = 0;
  int watched_ = -1;
};

}  // namespace bulkhead::supervisor
