// Follows the core's view of the components and turns it into serving statuses by name; notices a core that
// is silent and a core that has been replaced.
#pragma once

#include <condition_variable>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>

#include "bulkhead/contract/v1/contract.pb.h"
#include "bulkhead/v1/bulkhead.pb.h"
#include "supervisor/api/core_link.h"

namespace bulkhead::edge {

struct HealthTiming {
  std::int64_t ping_every_ns = 500'000'000;
  std::int64_t silence_ns = 2'000'000'000;  // no answer for so long: overall is not serving
};

// Overall (service name ""): the core answers and every wanted component is ready and healthy. A component:
// it is ready and healthy; while the core is silent its last known status stands, for components serve
// without the core.
class HealthFeed {
 public:
  // Called for every service at its first status and at each change, never concurrently. The thread is the
  // feed's own or the link's; it must not block.
  using Sink = std::function<void(const std::string& service, bool serving)>;

  // `self` is the edge's own identity, as which it asks the core. `link` must outlive the feed.
  HealthFeed(CoreLink& link, contract::v1::Caller self, Sink sink, HealthTiming timing = {});
  HealthFeed(const HealthFeed&) = delete;
  HealthFeed& operator=(const HealthFeed&) = delete;
  ~HealthFeed();

 private:
  class State;
  void run();

  const HealthTiming timing_;
  const std::shared_ptr<State> state_;  // shared with calls in progress, which may end after the feed

  std::mutex mutex_;
  std::condition_variable wake_;
  bool stopping_ = false;
  std::thread thread_;
};

}  // namespace bulkhead::edge
