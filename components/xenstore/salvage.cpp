#include "components/xenstore/salvage.h"

#include <algorithm>
#include <limits>

#include "components/xenstore/connections.h"
#include "components/xenstore/crash_points.h"
#include "components/xenstore/snapshot_store.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

// The journal's own numbers, as far as they can be true.
std::uint64_t plausible_tail(const Journal& journal) {
  const bool sane = journal.tail() >= journal.start() && journal.used() <= journal.capacity();
  return sane ? journal.tail() : journal.start();
}

// What every open connection is known by, so that the journal's requests find their sender.
Engine empty_store(const Connections& connections) {
  Engine engine;
  for (std::uint32_t i = 0; i < connections.capacity(); ++i) {
    const Slot& slot = connections.slot(i);
    if (slot.state.load() == SlotState::kOpen) engine.connect(i, slot.domid);
  }
  return engine;
}

// The newest snapshot that can be read; what could not be goes into `note`.
std::optional<std::size_t> load_newest(Custody& custody, Replica& replica, std::string& note) {
  const SnapshotStore store(custody);
  for (const std::size_t slot : store.complete()) {
    auto loaded = store.load_slot(slot);
    if (loaded) {
      replica.restart(std::move(loaded->engine), loaded->journal_position);
      note += "snapshot of position " + std::to_string(loaded->journal_position);
      return slot;
    }
    note += loaded.error().message() + "; ";
  }
  return std::nullopt;
}

// Records left out of a replay because they kill.
struct Skipped {
  std::uint64_t records = 0;
  std::uint64_t first = 0;  // position
};

// As far as the journal gives on. A snapshot older than its beginning stays what it is.
Skipped replay(Custody& custody, Replica& replica, std::string& note) {
  Skipped skipped;
  if (replica.position() < custody.journal().start()) return skipped;
  for (;;) {
    auto more = replica.follow(kAll);
    (void)replica.take_verdict();
    if (more && !*more) return skipped;
    if (more) continue;
    const std::uint64_t position = replica.position();
    if (!replica.skip_deadly()) return skipped;
    if (skipped.records++ == 0) skipped.first = position;
    note += ", one record left out (" + more.error().message() + ")";
  }
}

std::uint64_t count_lost(const Journal& journal, std::uint64_t from, std::uint64_t tail) {
  std::uint64_t lost = 0;
  JournalRecord record;
  for (std::uint64_t at = std::max(from, journal.start()); at < tail;) {
    if (journal.read(at, record)) {
      if (static_cast<InputKind>(record.kind) != InputKind::kCheckpoint) ++lost;
      at = record.next;
    } else {
      ++lost;
      at = journal.next_readable(at + 1, tail);
    }
  }
  return lost;
}

// Before the new state counts: killed in between, the next one finds them closing and does the rest again.
void close_connections(const Connections& connections, Engine& engine) {
  NoOutput nobody;
  for (std::uint32_t i = 0; i < connections.capacity(); ++i) {
    Slot& slot = connections.slot(i);
    if (slot.state.load() == SlotState::kOpen) slot.state.store(SlotState::kClosing);
    engine.disconnect(i, nobody);
  }
}

Status publish(Custody& custody, const Replica& replica) {
  auto writing = SnapshotWriting::begin(custody, replica.engine(), replica.position());
  if (!writing) return failure(ErrorKind::kExhausted, "no snapshot segment is free");
  auto written = writing->step(kAll);
  if (!written) return forward(std::move(written));
  return {};
}

}  // namespace

Result<Salvaged> salvage(Custody& custody, Replica& replica) {
  const Connections connections(custody);
  Journal& journal = custody.journal();
  const std::uint64_t tail = plausible_tail(journal);
  Salvaged result;
  const auto source = load_newest(custody, replica, result.note);
  if (!source) {
    replica.restart(empty_store(connections), journal.start());
    result.note += journal.start() == 0 ? "no snapshot" : "an empty store, since no snapshot can be read";
  }
  // The source must neither be written over nor stand in the way of what is published now.
  SnapshotStore(custody).republish(source);
  const Skipped skipped = replay(custody, replica, result.note);
  result.kept_until = replica.position();
  result.lost_records = skipped.records + count_lost(journal, result.kept_until, tail);
  // At least: nobody can count what the journal does not hold any more.
  if (result.kept_until < journal.start() || (!source && journal.start() > 0)) ++result.lost_records;
  const std::uint64_t end = std::max(tail, result.kept_until);
  result.note += ", journal up to position " + std::to_string(result.kept_until) + " of " +
                 std::to_string(end) + ", all connections closed";
  Control& control = custody.control();
  control.lost_from.store(skipped.records > 0 ? skipped.first : result.kept_until);
  control.lost_records.store(result.lost_records);
  close_connections(connections, replica.engine());
  kSalvaged.pass();
  // Past the end: also a snapshot of the end itself, with connections still in it, is older.
  replica.advance((end + 8) / 8 * 8);
  if (auto published = publish(custody, replica); !published)
    return forward(std::move(published), "cannot salvage");
  kSalvagePublished.pass();
  journal.commit(replica.position());
  journal.release(replica.position());
  return result;
}

}  // namespace bulkhead::xenstore
