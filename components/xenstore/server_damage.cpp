// The server's half that looks for damage in what custody holds of connections, and cuts off whom it
// concerns: before anything wrong is executed or sent. Nobody else notices.
#include <spdlog/spdlog.h>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/server.h"
#include "runtime/crc32c.h"

namespace bulkhead::xenstore {
namespace {

constexpr unsigned kGenerationBits = 40;
constexpr std::uint64_t kGenerationMask = (std::uint64_t{1} << kGenerationBits) - 1;
// Each damaged connection is in the log; so many are told to the core one by one at a take-over.
constexpr std::uint32_t kMostTold = 8;

std::uint64_t sealed_generation(std::uint64_t generation) {
  const std::uint64_t low = generation & kGenerationMask;
  return low | std::uint64_t{crc32c(std::as_bytes(std::span(&low, 1)))} << kGenerationBits;
}

}  // namespace

void Server::finish_commit() {
  const Status redone = executor_.redo();
  if (redone) return;
  damage_note_ = redone.error().message() + ": whom it moved is unknown, all connections were closed";
  spdlog::error("{}", damage_note_);
}

// As it stands in custody.
std::uint64_t Server::present_generation() const {
  return sealed_generation(instance_.number_setting("ring_generation", 1).value_or(1));
}

// The core made a new ring because nobody was left who held the old one: the clients' sockets went with it.
void Server::forget_connections_of_lost_ring() {
  const std::uint64_t generation = present_generation();
  Control& control = custody_.control();
  const std::uint64_t known = control.ring_generation.load();
  if (known == generation) return;
  // A number that cannot be read does not say that the ring is another one. If it is, each socket that is
  // missing ends its connection by itself.
  const bool readable = known == 0 || known == sealed_generation(known);
  if (!readable) spdlog::error("the ring's generation in custody is damaged: taken for the present one");
  for (std::uint32_t i = 0; readable && i < connections_.slots_used(); ++i) {
    Slot& slot = connections_.slot(i);
    if (slot.is_ring()) continue;
    if (slot.state.load() == SlotState::kOpen) executor_.disconnect(i);
    connections_.set_sent(i, slot.produced.load());
    slot.state.store(SlotState::kFree);
  }
  control.ring_generation.store(generation);
}

// Empty: none.
std::string_view Server::damage_of(std::uint32_t index) const {
  const Slot& slot = connections_.slot(index);
  const SlotState state = slot.state.load();
  const auto domid = replica_.engine().domain_of(index);
  if (state != SlotState::kFree) {
    if (const auto why = connections_.implausible(index); !why.empty()) return why;
  }
  // The journal says who is connected.
  if ((state == SlotState::kOpen) != domid.has_value()) return "its state contradicts the journal";
  if (domid && *domid != slot.domid) return "its domain contradicts the journal";
  if (state == SlotState::kOpen && !connections_.input_sound(index)) return "its input";
  return {};
}

// What a predecessor left, before anything relies on it.
void Server::inspect_slots() {
  std::uint32_t end = std::min(connections_.capacity(), replica_.engine().connections_end());
  while (end > 0 && !replica_.engine().domain_of(end - 1)) --end;
  if (connections_.repair_slots_used(end)) spdlog::error("the number of used slots was damaged: repaired");
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    if (const auto what = damage_of(i); !what.empty()) close_damaged(i, what);
  }
  if (damaged_connections_ > 0) connections_.count_unsent();
}

// After completions were counted: checksums and positions agree from then on.
void Server::inspect_output() {
  const std::uint32_t before = damaged_connections_;
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    if (connections_.slot(i).state.load() != SlotState::kOpen) continue;
    if (connections_.slot(i).damaged.load() != 0) {
      close_damaged(i, "its input");
    } else if (!connections_.adopt_output(i)) {
      close_damaged(i, "its output");
    }
  }
  if (damaged_connections_ != before) connections_.count_unsent();
}

void Server::tell_damage(std::uint32_t index, std::string_view what) {
  const std::string client = name_of(index);
  const char* then =
      connections_.slot(index).is_ring() ? "its connection begins anew, without its watches" : "cut off";
  const std::string text = client + " is damaged in custody (" + std::string(what) + "): " + then;
  spdlog::error("{}", text);
  if (++damaged_connections_ <= kMostTold) (void)instance_.send_finding("client", text, client);
}

// Takeover. Marked first: a successor does the same.
void Server::close_damaged(std::uint32_t index, std::string_view what) {
  tell_damage(index, what);
  connections_.write_off(index);
  executor_.disconnect(index);
}

// While serving: nothing more of it is executed or sent.
void Server::cut_damaged(std::uint32_t index, std::string_view what) {
  if (connections_.slot(index).state.load() != SlotState::kOpen) return;
  connections_.slot(index).damaged.store(1);
  tell_damage(index, what);
  domains_changed_ = domains_changed_ || connections_.slot(index).is_ring();
  begin_close(index);
}

void Server::scrub_custody(std::int64_t now) {
  for (const CustodyScrub::Damage& damage : custody_scrub_.turn(now)) {
    if (damage.where == CustodyScrub::Damage::Where::kConnection) {
      queue_.add(damage.slot);  // so that those whom its end concerns are told
      cut_damaged(damage.slot, damage.what);
    } else {
      replace_storage(damage);
    }
  }
}

// The owner knows what it said: a snapshot of the state as it is makes the damaged one, or the damaged
// record, unnecessary. It must be newer than the one there is, so something is written first.
void Server::replace_storage(const CustodyScrub::Damage& damage) {
  if (std::exchange(damaged_storage_, damage.what) != damage.what) {
    spdlog::error("{}: replaced by a new snapshot", damage.what);
    const bool journal = damage.where == CustodyScrub::Damage::Where::kJournal;
    (void)instance_.send_finding(journal ? "journal" : "snapshot",
                                 damage.what + ": replaced by a new snapshot", "");
  }
  if (!executor_.can_journal()) return;  // a snapshot is under way
  executor_.checkpoint(incarnation_);
  custody_.control().snapshot_wanted.store(1);
}

}  // namespace bulkhead::xenstore
