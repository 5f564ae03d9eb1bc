#include "runtime/event_loop.h"

#include <algorithm>
#include <array>

#include "runtime/clock.h"

namespace bulkhead {

EventLoop::EventLoop(UniqueFd epoll) : epoll_(std::move(epoll)), now_(monotonic_ns()) {}

Result<EventLoop> EventLoop::create() {
  UniqueFd epoll(::epoll_create1(EPOLL_CLOEXEC));
  if (!epoll.valid()) return os_failure("cannot create an epoll instance");
  return EventLoop(std::move(epoll));
}

Status EventLoop::watch(BorrowedFd fd, std::uint32_t events, FdCallback callback) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_ADD, fd.get(), &event) != 0)
    return os_failure("cannot watch a descriptor");
  watches_[fd.get()] = std::make_shared<Watch>(Watch{fd.get(), std::move(callback)});
  return {};
}

Status EventLoop::change(BorrowedFd fd, std::uint32_t events) {
  epoll_event event{};
  event.events = events;
  event.data.fd = fd.get();
  if (::epoll_ctl(epoll_.get(), EPOLL_CTL_MOD, fd.get(), &event) != 0)
    return os_failure("cannot change a watch");
  return {};
}

void EventLoop::unwatch(BorrowedFd fd) {
  const auto found = watches_.find(fd.get());
  if (found == watches_.end()) return;
  found->second->fd = -1;  // an event already fetched in this turn finds the watch dead
  watches_.erase(found);
  ::epoll_ctl(epoll_.get(), EPOLL_CTL_DEL, fd.get(), nullptr);
}

EventLoop::TimerId EventLoop::at(std::int64_t deadline_ns, TimerCallback callback) {
  const TimerId id = next_timer_++;
  timers_.emplace(deadline_ns, Timer{id, std::move(callback)});
  return id;
}

void EventLoop::cancel(TimerId timer) {
  const auto found = std::find_if(timers_.begin(), timers_.end(),
                                  [timer](const auto& entry) { return entry.second.id == timer; });
  if (found != timers_.end()) timers_.erase(found);
}

int EventLoop::wait_ms(std::int64_t max_wait_ns) const {
  std::int64_t wait = max_wait_ns;
  if (!timers_.empty()) {
    const std::int64_t until = std::max<std::int64_t>(0, timers_.begin()->first - monotonic_ns());
    wait = wait < 0 ? until : std::min(wait, until);
  }
  if (wait < 0) return -1;
  // Rounded up: waking early would only turn once more for nothing.
  return static_cast<int>(std::min<std::int64_t>((wait + kMillisecond - 1) / kMillisecond, 60'000));
}

void EventLoop::run_timers() {
  // Timers armed by these callbacks wait for the next turn, so a timer that re-arms itself cannot starve
  // descriptors.
  const TimerId fence = next_timer_;
  for (auto it = timers_.begin(); it != timers_.end() && it->first <= now_;) {
    if (it->second.id >= fence) {
      ++it;
      continue;
    }
    const TimerCallback callback = std::move(it->second.callback);
    timers_.erase(it);
    callback();
    it = timers_.begin();
  }
}

Status EventLoop::turn(std::int64_t max_wait_ns) {
  std::array<epoll_event, 64> events{};
  const int count =
      ::epoll_wait(epoll_.get(), events.data(), static_cast<int>(events.size()), wait_ms(max_wait_ns));
  const int error = count < 0 ? errno : 0;
  now_ = monotonic_ns();
  if (error == EINTR) return {};
  if (error != 0) {
    return os_failure("cannot wait for events", error);
  }
  std::vector<std::pair<std::shared_ptr<Watch>, std::uint32_t>> ready;
  for (int i = 0; i < count; ++i) {
    const auto& event = events[static_cast<std::size_t>(i)];
    const auto found = watches_.find(event.data.fd);
    if (found != watches_.end()) ready.emplace_back(found->second, event.events);
  }
  for (const auto& [watch, mask] : ready) {
    if (watch->fd >= 0) watch->callback(mask);
  }
  run_timers();
  return {};
}

Status EventLoop::run() {
  stopped_ = false;
  while (!stopped_) {
    auto turned = turn();
    if (!turned) return turned;
  }
  return {};
}

}  // namespace bulkhead
