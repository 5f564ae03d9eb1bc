// What happens, as it happens: transitions, findings, ladder steps, faults. Each is logged once and
// published.
#pragma once

#include <cstdint>
#include <string>

#include "bulkhead/v1/bulkhead.pb.h"
#include "supervisor/publisher.h"

namespace bulkhead::supervisor {

class EventLog {
 public:
  // Sequence numbers continue where a former core stopped.
  explicit EventLog(std::uint64_t next_sequence = 1) : next_(next_sequence) {}

  // Stamps, logs and publishes.
  void add(v1::Event event);

  // The usual events.
  void transition(const std::string& component, std::uint64_t incarnation, v1::State from, v1::State to,
                  const std::string& cause);
  void note(v1::Event::Kind kind, const std::string& component, std::uint64_t incarnation, std::string text);

  Publisher<v1::Event>& published() { return published_; }
  std::uint64_t next_sequence() const { return next_; }

 private:
  std::uint64_t next_;
  Publisher<v1::Event> published_;
};

}  // namespace bulkhead::supervisor
