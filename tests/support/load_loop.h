// Runs checking clients in one thread and measures what an outage of the service costs them.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/checker.h"

namespace bulkhead::xs {

// One outage, from its mark (CLOCK_MONOTONIC, the instant somebody killed or froze the service).
struct Mark {
  int64_t at_ns = 0;
  int64_t answer_ns = -1;  // to the right answer to a request sent after the mark; -1: none came
  int64_t silence_ns = 0;  // longest time without any reply to anybody until then
};

class LoadLoop : public Listener {
 public:
  struct Limits {
    int64_t reply_deadline_ns = int64_t{10} * 1000000000;
    int64_t drain_deadline_ns = int64_t{15} * 1000000000;
  };

  LoadLoop(CheckerSettings settings, AnomalyLog& log, Limits limits);

  // Prepares the tree below the base and the probe's connection. First of all calls.
  Status open();
  // Sets the checker up; it starts when run() is called.
  Status add(std::unique_ptr<Checker> checker);
  // Lines read from `fifo`: "kill PID" kills that process (SIGKILL) and marks, "mark NS" marks an instant of
  // CLOCK_MONOTONIC, "mark" marks now, "stop" ends the run.
  void take_orders_from(UniqueFd fifo) { orders_ = std::move(fifo); }

  // Drives the load until `done` (asked at least every 20 ms) says so, then lets everything under way end,
  // makes the last checks and removes the tree.
  void run(const std::function<bool()>& done);
  void mark(int64_t at_ns);

  const std::vector<std::unique_ptr<Checker>>& checkers() const { return checkers_; }
  const std::vector<Mark>& marks() const { return marks_; }
  uint64_t replies() const;
  // Longest time without any reply to anybody while the load ran.
  int64_t longest_silence_ns() const { return longest_silence_ns_; }

  // The probe's replies.
  void on_reply(const Reply& reply) override;
  void on_event(XsClient& client, std::string_view path, std::string_view token) override;

 private:
  struct Link {
    XsClient* client;
    Checker* checker;  // null: the probe
    bool polls_output;
    bool closed;
  };

  Status watch(XsClient& client, Checker* checker);
  void turn(int timeout_ms);
  void serve(Link& link, uint32_t events);
  void arrived(int64_t now_ns);
  void settle(Link& link);
  void check_deadlines();
  void read_orders();
  void order(std::string_view line);
  void drain();
  void remove_tree();

  CheckerSettings settings_;
  AnomalyLog& log_;
  Limits limits_;
  UniqueFd epoll_;
  UniqueFd orders_;
  std::string order_text_;
  std::unique_ptr<XsClient> probe_;
  std::vector<std::unique_ptr<Checker>> checkers_;
  std::vector<Link> links_;
  std::vector<Mark> marks_;
  size_t answered_marks_ = 0;
  int64_t last_reply_ns_ = 0;
  int64_t longest_silence_ns_ = 0;
  int64_t next_deadline_check_ns_ = 0;
  bool stop_ordered_ = false;
};

}  // namespace bulkhead::xs
