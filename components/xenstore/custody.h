// The service's custody: its segments, found or made, and mapped.
#pragma once

#include <array>

#include "components/xenstore/layout.h"
#include "components/xenstore/limits.h"
#include "runtime/instance.h"
#include "runtime/journal.h"
#include "runtime/memfd.h"

namespace bulkhead::xenstore {

struct CustodySettings {
  Geometry geometry;
  std::uint64_t journal_bytes;
  std::uint64_t snapshot_bytes;  // the most one snapshot may take
  Limits limits = {};            // with which a fresh state begins

  // From the settings handed to the component; kInvalid names the one that is impossible.
  static Result<CustodySettings> from(const Instance& instance);
};

class Custody {
 public:
  // True once every segment is in custody; until then a standby has nothing to follow.
  static bool complete(const CustodyStore& store);
  // Only the owner of the lease: makes and deposits whatever is missing. Repeating it after a crash
  // continues.
  static Status create(CustodyStore& store, const CustodySettings& settings);
  static Result<Custody> open(const CustodyStore& store);

  Control& control() const { return *control_.at<Control>(0); }
  CommitRecord& commit_record(std::uint64_t number) const;
  const Geometry& geometry() const { return geometry_; }
  const Mapping& connections() const { return connections_; }
  Journal& journal() { return journal_; }
  const Journal& journal() const { return journal_; }
  const Mapping& snapshot(std::size_t slot) const { return snapshots_[slot]; }
  BorrowedFd doorbell() const { return doorbell_; }

 private:
  Custody(Mapping control, Mapping connections, Journal journal, BorrowedFd doorbell)
      : control_(std::move(control)),
        connections_(std::move(connections)),
        journal_(std::move(journal)),
        doorbell_(doorbell),
        geometry_(control_.at<Control>(0)->geometry) {}

  Mapping control_;
  Mapping connections_;
  Journal journal_;
  std::array<Mapping, kSnapshotSlots> snapshots_;
  BorrowedFd doorbell_;
  Geometry geometry_;  // as it was when it was checked
};

}  // namespace bulkhead::xenstore
