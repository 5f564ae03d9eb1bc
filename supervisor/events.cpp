#include "supervisor/events.h"

#include "runtime/clock.h"
#include "supervisor/log.h"

namespace bulkhead::supervisor {

void EventLog::add(v1::Event event) {
  event.set_sequence(next_++);
  event.set_time_unix_us(wall_us());
  log_event(event);
  published_.publish(event);
}

void EventLog::transition(const std::string& component, std::uint64_t incarnation, v1::State from,
                          v1::State to, const std::string& cause) {
  v1::Event event;
  event.set_kind(v1::Event::KIND_TRANSITION);
  event.set_component(component);
  event.set_incarnation(incarnation);
  event.set_from(from);
  event.set_to(to);
  event.set_text(cause);
  add(std::move(event));
}

void EventLog::note(v1::Event::Kind kind, const std::string& component, std::uint64_t incarnation,
                    std::string text) {
  v1::Event event;
  event.set_kind(kind);
  event.set_component(component);
  event.set_incarnation(incarnation);
  event.set_text(std::move(text));
  add(std::move(event));
}

}  // namespace bulkhead::supervisor
