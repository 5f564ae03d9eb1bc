// Named crash points: places where a test, or an operator's fault, makes this process die as if by SIGKILL.
// Each marks the boundary between two updates of state that outlives the process (docs/crash-windows.md lists
// them).
#pragma once

#include <atomic>
#include <cstdint>
#include <span>
#include <string_view>
#include <vector>

namespace bulkhead {

// One per program part, as a namespace-scope constant: `inline CrashPoint kBeforeCommit{"commit-before"};`
// then `kBeforeCommit.pass();` in the code. Costs one load and one untaken branch while not armed.
class CrashPoint {
 public:
  explicit CrashPoint(std::string_view name);
  CrashPoint(const CrashPoint&) = delete;
  CrashPoint& operator=(const CrashPoint&) = delete;

  std::string_view name() const { return name_; }
  void pass() {
    if (armed_.load(std::memory_order_relaxed) != 0) [[unlikely]]
      hit();
  }

  // Dies at the `count`-th pass from now on (1: the next one); 0 disarms. False if there is no point of that
  // name.
  static bool arm(std::string_view name, std::uint32_t count = 1);
  static void disarm_all();
  static std::vector<std::string_view> names();

 private:
  void hit();

  std::string_view name_;
  std::atomic<std::uint32_t> armed_{0};
};

}  // namespace bulkhead
