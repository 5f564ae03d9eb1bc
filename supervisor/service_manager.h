// What the core tells the service manager (sd_notify): ready, status, watchdog, more time.
#pragma once

#include <string>

#include "runtime/event_loop.h"
#include "supervisor/fd_store.h"

namespace bulkhead::supervisor {

class ServiceManager {
 public:
  // Both outlive this.
  ServiceManager(EventLoop& loop, const FdStore& store);
  ~ServiceManager();
  ServiceManager(const ServiceManager&) = delete;
  ServiceManager& operator=(const ServiceManager&) = delete;

  // READY=1, once.
  void ready();
  // STOPPING=1, once.
  void stopping();
  // STATUS=, when it differs from the last.
  void status(const std::string& text);

 private:
  void tick();

  EventLoop& loop_;
  const FdStore& store_;
  std::int64_t interval_ns_;
  bool watchdog_ = false;
  bool ready_ = false;
  bool stopping_ = false;
  std::string status_;
  EventLoop::TimerId timer_ = 0;
};

}  // namespace bulkhead::supervisor
