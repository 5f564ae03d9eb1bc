// The commit: the one store that makes an executed input true, for the client that sent it and for everyone
// it woke. A successor finishes a commit that was made but not applied.
#pragma once

#include <atomic>
#include <cstdint>
#include <span>

#include "components/xenstore/connections.h"
#include "components/xenstore/custody.h"
#include "runtime/result.h"

namespace bulkhead::xenstore {

class Commit {
 public:
  Commit(Custody& custody, Connections& connections) : custody_(custody), connections_(connections) {}

  // Owner only. `entries` name each slot once, at most max_connections of them. `journal_tail` is the tail
  // before or after this input's record, whichever shall be true.
  void make(std::span<const CommitEntry> entries, std::uint64_t journal_tail, std::uint64_t next_serial);

  // Takeover: applies the predecessor's last commit if it died before doing so. kInvalid: its record is
  // damaged and nothing was done; distrust() must be called.
  Status redo();
  // Goes on without the commit that cannot be read. Whom it moved cannot be known, so every open connection
  // is marked as damaged: nobody was told what it said, and nobody goes on who should have been.
  void distrust();

  // Fault `corrupt`: this process's next commit is damaged after it became true, and its owner dies.
  static void damage_next() { next_is_damaged.store(true, std::memory_order_relaxed); }

  // What CommitRecord::crc is for record `number`.
  static std::uint32_t checksum(std::uint64_t number, const CommitRecord& record);

 private:
  bool intact(std::uint64_t number) const;
  void apply(const CommitRecord& record);

  static void die_damaged(CommitRecord& record);

  static inline std::atomic<bool> next_is_damaged{false};
  Custody& custody_;
  Connections& connections_;
};

}  // namespace bulkhead::xenstore
