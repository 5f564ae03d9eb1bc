// Publisher: tells any number of subscribers, in the order they came. One thread.
#pragma once

#include <cstdint>
#include <functional>
#include <map>

namespace bulkhead::supervisor {

template <typename T>
class Publisher {
 public:
  using Subscriber = std::function<void(const T&)>;
  using Id = std::uint64_t;  // never 0, never reused

  Id subscribe(Subscriber subscriber) {
    subscribers_.emplace(++last_, std::move(subscriber));
    return last_;
  }
  // Safe inside a subscriber, also its own.
  void unsubscribe(Id id) { subscribers_.erase(id); }

  void publish(const T& value) {
    // By id, because a subscriber may end itself or another one.
    for (Id at = 0;;) {
      const auto next = subscribers_.upper_bound(at);
      if (next == subscribers_.end()) return;
      at = next->first;
      const Subscriber call = next->second;
      call(value);
    }
  }

 private:
  Id last_ = 0;
  std::map<Id, Subscriber> subscribers_;
};

}  // namespace bulkhead::supervisor
