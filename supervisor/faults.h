// Faults on purpose: injected, listed, cleared, and ended by the core when their lease is over, whoever is
// still there. A fault ends with the process it was injected into.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "bulkhead/manifest/v1/manifest.pb.h"
#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/event_loop.h"
#include "runtime/result.h"
#include "supervisor/events.h"
#include "supervisor/instance.h"

namespace bulkhead::supervisor {

class FaultBoard {
 public:
  static constexpr std::size_t kMaxFaults = 256;
  static constexpr std::uint32_t kDefaultLeaseMs = 30'000;
  static constexpr std::uint32_t kMaxLeaseMs = 3'600'000;

  // The process an id stands for; nullptr if it is gone.
  using Lookup = std::function<Instance*(const std::string& component, std::uint64_t instance)>;

  // `persist` writes the manifest. `loop` and `events` outlive this.
  FaultBoard(EventLoop& loop, EventLog& events, std::function<void()> persist, Lookup lookup)
      : loop_(loop), events_(events), persist_(std::move(persist)), lookup_(std::move(lookup)) {}

  // Checks, records, then carries out. kInvalid: unknown kind or point, bad argument or lease; kExhausted:
  // too many faults at once. `request.component` must be the instance's.
  Result<v1::Fault> inject(const v1::InjectFaultRequest& request, Instance& instance, const std::string& by);

  std::vector<v1::Fault> list(const std::string& component) const;
  // What could be injected into this instance.
  static std::vector<v1::FaultKind> kinds(const std::string& component, const Instance& instance);

  // Undoes and returns one fault (kNotFound), or all of a component (empty: of all).
  Result<std::vector<v1::Fault>> clear(std::uint64_t id, const std::string& component);

  // The instance refused or could not carry it out.
  void refused(std::uint64_t id, const std::string& why);
  // The fault that explains what an instance does; the newest, if any.
  std::optional<v1::Fault> on(std::uint64_t instance) const;
  void instance_gone(std::uint64_t instance);

  void record(manifest::v1::Manifest& manifest) const;
  // Takes over a former core's faults and undoes them all.
  void undo_restored(const manifest::v1::Manifest& manifest);

 private:
  struct Entry {
    v1::Fault fault;
    std::uint64_t instance;
    std::int64_t expires_ns;
    EventLoop::TimerId timer;
  };

  Status carry_out(const Entry& entry, Instance& instance) const;
  void undo(const Entry& entry) const;
  void end(std::uint64_t id, const std::string& why);

  EventLoop& loop_;
  EventLog& events_;
  std::function<void()> persist_;
  Lookup lookup_;
  std::uint64_t last_id_ = 0;
  std::map<std::uint64_t, Entry> faults_;
};

}  // namespace bulkhead::supervisor
