// The core's event loop: epoll and timers, one thread. Each callback is a transaction; now() stands still
// during one turn, so decisions within a turn agree.
#pragma once

#include <sys/epoll.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

class EventLoop {
 public:
  using FdCallback = std::function<void(std::uint32_t events)>;
  using TimerCallback = std::function<void()>;
  using TimerId = std::uint64_t;  // never reused

  static Result<EventLoop> create();

  // Calls back while `events` (EPOLLIN...) hold, level-triggered. The descriptor must stay open until
  // unwatch().
  Status watch(BorrowedFd fd, std::uint32_t events, FdCallback callback);
  Status change(BorrowedFd fd, std::uint32_t events);
  // Safe inside any callback, also its own: no callback for `fd` runs afterwards.
  void unwatch(BorrowedFd fd);

  // Once, at `deadline_ns` (monotonic) or as soon after as possible.
  TimerId at(std::int64_t deadline_ns, TimerCallback callback);
  TimerId after(std::int64_t delay_ns, TimerCallback callback) {
    return at(now() + delay_ns, std::move(callback));
  }
  void cancel(TimerId timer);

  // Monotonic nanoseconds at the beginning of this turn.
  std::int64_t now() const { return now_; }

  // Waits for the next event or timer, at most `max_wait_ns` (negative: no limit), and runs what is due.
  Status turn(std::int64_t max_wait_ns = -1);
  // Turns until stop() is called.
  Status run();
  void stop() { stopped_ = true; }

 private:
  struct Watch {
    int fd;
    FdCallback callback;
  };
  struct Timer {
    TimerId id;
    TimerCallback callback;
  };

  explicit EventLoop(UniqueFd epoll);
  void run_timers();
  int wait_ms(std::int64_t max_wait_ns) const;

  UniqueFd epoll_;
  std::int64_t now_;
  bool stopped_ = false;
  TimerId next_timer_ = 1;
  std::map<int, std::shared_ptr<Watch>> watches_;
  std::multimap<std::int64_t, Timer> timers_;
};

}  // namespace bulkhead
