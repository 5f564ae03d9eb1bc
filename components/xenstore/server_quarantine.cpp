// The server's half of the quarantine: what becomes of poison.
#include <spdlog/spdlog.h>

#include "components/xenstore/server.h"

namespace bulkhead::xenstore {

void Server::condemn(const Quarantine::Condemned& condemned) {
  if (condemned.work == Quarantine::Work::kExecuting) {
    refuse_poison(condemned.slot, condemned.deaths);
  } else {
    refusals_.client = name_of(condemned.slot);
    refusals_.note = refusals_.client + " was cut off: " + std::to_string(condemned.deaths) +
                     " owners in a row died handling it";
    spdlog::error("{}", refusals_.note);
    Slot& slot = connections_.slot(condemned.slot);
    if (slot.state.load() == SlotState::kOpen) {
      if (slot.is_ring()) slot.strikes.store(Quarantine::as_strikes(settings_.poison_limit));  // for good
      drop(condemned.slot);
    }
  }
  quarantine_.forget(condemned);
}

void Server::refuse_poison(std::uint32_t slot, std::uint32_t deaths) {
  if (!connections_.open_input(slot)) return close_damaged(slot, "its input");
  Request request{};
  if (connections_.next_message(slot, request) != Connections::Input::kMessage) return;
  const std::uint32_t strikes = quarantine_.strike(slot);
  ++refusals_.requests;
  refusals_.client = name_of(slot);
  refusals_.note = std::to_string(deaths) + " owners in a row died executing " + describe(request) + " of " +
                   refusals_.client + ": answered EIO";
  executor_.refuse(slot, request, ErrorCode::kIo);
  if (strikes >= settings_.poison_limit) {
    refusals_.note += "; it was the " + std::to_string(strikes) + ". of that client, which is cut off";
    drop(slot);
  }
  spdlog::error("{}", refusals_.note);
}

// Suspects that have gone through a whole turn, and whose answers went out in the next, are innocent.
void Server::clear_suspects() {
  if (suspects_.empty()) return;
  if (turns_with_suspects_++ == 0) return;
  for (const std::uint32_t slot : suspects_) quarantine_.acquit(slot);
  suspects_.clear();
}

}  // namespace bulkhead::xenstore
