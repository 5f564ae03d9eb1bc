#include "supervisor/service_manager.h"

#include <systemd/sd-daemon.h>

#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

constexpr std::int64_t kDefaultInterval = 5 * kSecond;
// Asked for again at every tick while starting or stopping: components may take their configured time.
constexpr const char* kMoreTime = "EXTEND_TIMEOUT_USEC=30000000";

}  // namespace

ServiceManager::ServiceManager(EventLoop& loop, const FdStore& store)
    : loop_(loop), store_(store), interval_ns_(kDefaultInterval) {
  std::uint64_t watchdog_us = 0;
  watchdog_ = ::sd_watchdog_enabled(1, &watchdog_us) > 0;
  if (watchdog_) interval_ns_ = static_cast<std::int64_t>(watchdog_us) * kMicrosecond / 2;
  tick();
}

ServiceManager::~ServiceManager() {
  loop_.cancel(timer_);
}

// A timer of the loop: it beats only while the loop turns, which is what the watchdog is to know.
void ServiceManager::tick() {
  if (!store_.durable()) return;
  if (watchdog_) store_.notify("WATCHDOG=1");
  if (!ready_ || stopping_) store_.notify(kMoreTime);
  timer_ = loop_.after(interval_ns_, [this] { tick(); });
}

void ServiceManager::ready() {
  if (!std::exchange(ready_, true)) store_.notify("READY=1");
}

void ServiceManager::stopping() {
  if (!std::exchange(stopping_, true)) store_.notify(std::string("STOPPING=1\n") + kMoreTime);
}

void ServiceManager::status(const std::string& text) {
  if (status_ == text) return;
  status_ = text;
  store_.notify("STATUS=" + text);
}

}  // namespace bulkhead::supervisor
