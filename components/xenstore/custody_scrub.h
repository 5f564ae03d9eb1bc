// Looks for damage in custody while the service runs, a little at a time, for ever: what connections have
// waiting every second, journal and published snapshot in passes that take as long as they are large.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <vector>

#include "components/xenstore/connections.h"
#include "components/xenstore/custody.h"

namespace bulkhead::xenstore {

class CustodyScrub {
 public:
  struct Damage {
    enum class Where : std::uint8_t { kConnection, kJournal, kSnapshot } where;
    std::uint32_t slot;  // of kConnection
    std::string what;
  };

  // Both must outlive it.
  CustodyScrub(Custody& custody, const Connections& connections)
      : custody_(custody), connections_(connections) {}

  // For the owner, between two turns: checks what is due at `now_ns` (monotonic) and returns what it found,
  // which is found again unless it is dealt with.
  std::vector<Damage> turn(std::int64_t now_ns);
  // When turn() wants to run again.
  std::int64_t next_turn_ns() const { return std::min(connection_passes_.next_ns, storage_passes_.next_ns); }

  // One line for an operator: what was checked, and how long ago.
  std::string report(std::int64_t now_ns) const;

 private:
  // Whole passes over something.
  struct Passes {
    std::int64_t ended_ns = 0;  // the last one; 0: none yet
    std::uint64_t things = 0;   // in it: connections, or bytes
    std::uint64_t so_far = 0;   // in the one that is under way
    std::int64_t next_ns = 0;   // its next slice
    void end(std::int64_t now_ns);
    void next_in(std::int64_t interval_ns, std::int64_t now_ns);
  };

  void check_connections(std::int64_t now_ns, std::vector<Damage>& found);
  void check_storage(std::int64_t now_ns, std::vector<Damage>& found);
  bool check_journal(std::vector<Damage>& found);
  bool check_snapshot(std::vector<Damage>& found);

  Custody& custody_;
  const Connections& connections_;
  Passes connection_passes_;
  std::uint32_t slot_ = 0;
  Passes storage_passes_;
  bool in_snapshot_ = false;
  std::uint64_t journal_at_ = 0;
  std::uint64_t journal_end_ = 0;
  std::uint64_t published_ = 0;    // Control::published of the snapshot being checked; 0: not begun
  std::uint64_t snapshot_at_ = 0;  // offset in it
  std::uint64_t damages_ = 0;
  JournalRecord record_;
};

}  // namespace bulkhead::xenstore
