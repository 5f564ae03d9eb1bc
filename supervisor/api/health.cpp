#include "supervisor/api/health.h"

#include <algorithm>
#include <chrono>
#include <optional>
#include <tuple>
#include <utility>

#include "runtime/clock.h"

namespace bulkhead::edge {
namespace {

using CoreIdentity = std::tuple<std::int32_t, std::int64_t, std::uint64_t>;

struct Health {
  bool wanted = false;
  bool serving = false;
};

Health health_of(const v1::Component& component) {
  return {component.wanted(), component.ready() && component.healthy()};
}

}  // namespace

// What is known, and the calls that bring it. Outlives the feed for as long as a call is in progress.
class HealthFeed::State : public std::enable_shared_from_this<State> {
 public:
  State(CoreLink& link, contract::v1::Caller self, Sink sink, HealthTiming timing)
      : link_(link), self_(std::move(self)), sink_(std::move(sink)), timing_(timing) {}

  void tick();
  void close();

 private:
  class Ping;
  class Watch;
  class List;

  void ping();
  void follow();
  void answered(const CoreCall& ping, const CallEnd& end);
  void changed(const v1::Component& component);
  void listed(const v1::ListComponentsResponse& list);
  void watch_ended();
  void publish();
  void publish_one(const std::string& service, bool serving);

  CoreLink& link_;
  const contract::v1::Caller self_;
  const Sink sink_;
  const HealthTiming timing_;

  std::mutex mutex_;  // everything below; never held while calling link_, which may call back
  bool closed_ = false;
  std::shared_ptr<CoreCall> ping_;  // unanswered
  std::int64_t pinged_ns_ = 0;
  std::int64_t answered_ns_ = 0;  // 0: never
  std::optional<CoreIdentity> core_;
  std::shared_ptr<CoreCall> watch_;
  std::shared_ptr<CoreCall> list_;
  bool listed_ = false;
  std::map<std::string, Health> components_;
  std::map<std::string, bool> published_;
};

class HealthFeed::State::Ping final : public CoreCall {
 public:
  explicit Ping(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void on_element(std::string) override {}
  void on_end(CallEnd end) override { state_->answered(*this, end); }

 private:
  const std::shared_ptr<State> state_;
};

class HealthFeed::State::Watch final : public CoreCall {
 public:
  explicit Watch(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void on_element(std::string body) override {
    v1::ComponentChange change;
    if (change.ParseFromString(body)) state_->changed(change.component());
  }
  void on_end(CallEnd) override { state_->watch_ended(); }

 private:
  const std::shared_ptr<State> state_;
};

class HealthFeed::State::List final : public CoreCall {
 public:
  explicit List(std::shared_ptr<State> state) : state_(std::move(state)) {}
  void on_element(std::string) override {}
  void on_end(CallEnd end) override {
    v1::ListComponentsResponse list;
    if (end.code == Code::kOk && list.ParseFromString(end.body)) state_->listed(list);
  }

 private:
  const std::shared_ptr<State> state_;
};

void HealthFeed::State::tick() {
  ping();
  follow();
  const std::lock_guard lock(mutex_);
  publish();
}

// A ping that a dying core took with it is never answered, so an overdue one is replaced; one that still
// waits in the socket would be answered, so not more often than that.
void HealthFeed::State::ping() {
  std::shared_ptr<CoreCall> overdue;
  std::shared_ptr<CoreCall> next;
  {
    const std::lock_guard lock(mutex_);
    const std::int64_t now = monotonic_ns();
    if (closed_ || (ping_ != nullptr && now - pinged_ns_ < timing_.silence_ns)) return;
    overdue = std::exchange(ping_, std::make_shared<Ping>(shared_from_this()));
    next = ping_;
    pinged_ns_ = now;
  }
  if (overdue != nullptr) link_.cancel(*overdue);
  if (link_.call(next, "GetVersion", self_, v1::GetVersionRequest().SerializeAsString())) return;
  const std::lock_guard lock(mutex_);
  if (ping_ == next) ping_.reset();
}

// The watch brings changes, the list (asked for afterwards, answered in the core's order) what no longer
// exists.
void HealthFeed::State::follow() {
  std::shared_ptr<CoreCall> watch;
  std::shared_ptr<CoreCall> list;
  {
    const std::lock_guard lock(mutex_);
    if (closed_ || watch_ != nullptr) return;
    watch = watch_ = std::make_shared<Watch>(shared_from_this());
    list = list_ = std::make_shared<List>(shared_from_this());
  }
  if (!link_.call(watch, "WatchComponents", self_, v1::WatchComponentsRequest().SerializeAsString())) {
    watch_ended();
    return;
  }
  if (link_.call(list, "ListComponents", self_, v1::ListComponentsRequest().SerializeAsString())) return;
  if (link_.cancel(*watch)) watch_ended();
}

void HealthFeed::State::answered(const CoreCall& ping, const CallEnd& end) {
  v1::GetVersionResponse version;
  if (end.code != Code::kOk || !version.ParseFromString(end.body)) return;
  bool replaced = false;
  {
    const std::lock_guard lock(mutex_);
    if (closed_) return;
    if (ping_.get() == &ping) ping_.reset();
    answered_ns_ = monotonic_ns();
    const CoreIdentity core(version.core_pid(), version.core_started_unix_ms(), version.core_generation());
    replaced = core_.has_value() && *core_ != core;
    core_ = core;
    publish();
  }
  if (!replaced) return;
  link_.abandon_before(
      ping, "the supervisor core was restarted during the call: look at the present state, then call again");
  follow();
}

void HealthFeed::State::changed(const v1::Component& component) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  components_[component.name()] = health_of(component);
  publish();
}

void HealthFeed::State::listed(const v1::ListComponentsResponse& list) {
  const std::lock_guard lock(mutex_);
  if (closed_) return;
  listed_ = true;
  components_.clear();
  for (const v1::Component& component : list.components())
    components_[component.name()] = health_of(component);
  publish();
}

void HealthFeed::State::watch_ended() {
  const std::lock_guard lock(mutex_);
  watch_.reset();
  list_.reset();
}

// mutex_ is held.
void HealthFeed::State::publish() {
  if (closed_) return;
  const bool heard = answered_ns_ != 0 && monotonic_ns() - answered_ns_ < timing_.silence_ns;
  const bool all_well = std::ranges::all_of(components_, [](const auto& component) {
    return !component.second.wanted || component.second.serving;
  });
  for (const auto& [name, serving] : published_) {
    if (!name.empty() && !components_.contains(name)) publish_one(name, false);
  }
  for (const auto& [name, health] : components_) publish_one(name, health.serving);
  publish_one("", heard && listed_ && all_well);
}

void HealthFeed::State::publish_one(const std::string& service, bool serving) {
  const auto [known, first] = published_.try_emplace(service, serving);
  if (!first && known->second == serving) return;
  known->second = serving;
  sink_(service, serving);
}

void HealthFeed::State::close() {
  std::shared_ptr<CoreCall> ping;
  std::shared_ptr<CoreCall> watch;
  std::shared_ptr<CoreCall> list;
  {
    const std::lock_guard lock(mutex_);
    closed_ = true;
    ping = std::move(ping_);
    watch = std::move(watch_);
    list = std::move(list_);
  }
  for (const auto& call : {ping, watch, list}) {
    if (call != nullptr) link_.cancel(*call);
  }
}

HealthFeed::HealthFeed(CoreLink& link, contract::v1::Caller self, Sink sink, HealthTiming timing)
    : timing_(timing),
      state_(std::make_shared<State>(link, std::move(self), std::move(sink), timing)),
      thread_([this] { run(); }) {}

HealthFeed::~HealthFeed() {
  {
    const std::lock_guard lock(mutex_);
    stopping_ = true;
  }
  wake_.notify_all();
  thread_.join();
  state_->close();
}

void HealthFeed::run() {
  std::unique_lock lock(mutex_);
  while (!stopping_) {
    lock.unlock();
    state_->tick();
    lock.lock();
    wake_.wait_for(lock, std::chrono::nanoseconds(timing_.ping_every_ns), [this] { return stopping_; });
  }
}

}  // namespace bulkhead::edge
