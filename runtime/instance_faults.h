// The faults an instance carries out on itself. Each ends at its lease's end by itself, should the core be
// gone.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "runtime/instance.h"
#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

class InstanceFaults {
 public:
  // A fault that only this component can carry out.
  struct Own {
    std::string kind;
    std::function<Status(const std::string& argument, std::int64_t expires_ns)> begin;
    std::function<void()> end;  // may be empty: nothing can be undone
  };

  explicit InstanceFaults(std::vector<Own> own) : own_(std::move(own)) {}
  // `corrupt` flips a bit in the instance's state.
  explicit InstanceFaults(std::function<void()> corrupt);

  // The kinds for Hello.fault_kinds that every component offers; its own come on top.
  static std::vector<std::string> kinds();

  // Carries out the core's orders about faults and tells it what is refused; false: an order about something
  // else.
  bool obey(const contract::v1::ToInstance& order, Instance& instance);
  // Begins a fault. exit, spin and deadlock do not return before their lease ends (exit never does).
  Status begin(const contract::v1::FaultOrder& order);
  void end(std::uint64_t id);

  // Once per turn of the main loop: ends what is over, leaks what is due.
  void turn(std::int64_t now_ns);
  // Monotonic time at which turn() wants to run again; 0: no fault is active.
  std::int64_t next_turn_ns(std::int64_t now_ns) const;

  // How long each request must be delayed; 0 normally.
  std::int64_t request_delay_ns() const;
  bool heartbeat_dropped() const;

 private:
  struct Active {
    std::string kind;
    std::int64_t expires_ns;
    std::int64_t amount;   // slow: ns; leak: bytes per second
    std::int64_t last_ns;  // leak: accounted up to here
  };

  void leak(Active& fault, std::int64_t now_ns);
  void finish(const Active& fault);
  const Own* own(const std::string& kind) const;

  std::vector<Own> own_;
  std::map<std::uint64_t, Active> active_;
  std::vector<std::vector<char>> leaked_;
  std::vector<UniqueFd> leaked_fds_;
};

// "5ms", "2s", "100us" in nanoseconds; "64KiB", "10MiB" in bytes.
Result<std::int64_t> parse_duration(std::string_view text);
Result<std::int64_t> parse_bytes(std::string_view text);

}  // namespace bulkhead
