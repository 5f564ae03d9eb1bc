// Where snapshots live: three segments in custody. Writers (the standby, or the active instance when it must)
// take any that is not published; publishing is one store and only ever moves forward.
#pragma once

#include <functional>
#include <optional>

#include "components/xenstore/custody.h"
#include "components/xenstore/snapshot.h"

namespace bulkhead::xenstore {

class SnapshotStore {
 public:
  struct Loaded {
    std::uint64_t journal_position;
    Engine engine;
  };

  static Result<UniqueFd> create_segment(std::size_t bytes);

  explicit SnapshotStore(Custody& custody) : custody_(custody) {}

  // Journal position of the published snapshot, 0 if there is none; and its size.
  std::uint64_t position() const;
  std::uint64_t length() const;
  // The state did not fit when somebody last tried.
  bool too_large() const { return custody_.control().state_too_large.load(std::memory_order_relaxed) != 0; }

  // The slots that hold a complete snapshot, published or not, newest first, by what their heads say.
  std::vector<std::size_t> complete() const;
  // What one of them holds. kInvalid: damaged.
  Result<Loaded> load_slot(std::size_t slot, const std::function<void()>& pause = {}) const;
  // Checks the framing of the published snapshot's records from offset `at` on, about `budget` bytes of them,
  // and moves `at` on; true while there is more. kInvalid: damaged. What is replaced meanwhile may look so:
  // compare Control::published before and after.
  Result<bool> verify_some(std::uint64_t& at, std::size_t budget) const;
  // Makes a complete one the published one. Nobody else may be writing.
  void republish(std::optional<std::size_t> slot) const;

  // The published snapshot; nullopt if there is none. Reads again when a writer was faster.
  // `pause`, if given, is called now and then.
  Result<std::optional<Loaded>> load(const std::function<void()>& pause = {}) const;

 private:
  std::uint64_t of_published(std::uint64_t SnapshotHead::* field) const;

  Custody& custody_;
};

// One snapshot being written, in slices. Holds a segment's robust lock, so it must stay with one thread.
class SnapshotWriting {
 public:
  // nullopt when every unpublished segment is taken.
  static std::optional<SnapshotWriting> begin(Custody& custody, const Engine& engine, std::uint64_t position);
  SnapshotWriting(SnapshotWriting&& other) noexcept;
  SnapshotWriting& operator=(SnapshotWriting&& other) noexcept;
  SnapshotWriting(const SnapshotWriting&) = delete;
  SnapshotWriting& operator=(const SnapshotWriting&) = delete;
  ~SnapshotWriting();

  // Writes about `budget` bytes. True while there is more to do; the last step publishes. kExhausted: it does
  // not fit, which is shown to everybody (too_large()) until one does. kFailed: the state is damaged; nothing
  // is published.
  Result<bool> step(std::size_t budget);
  // In the journal, of the state it is a snapshot of.
  std::uint64_t position() const { return position_; }

 private:
  SnapshotWriting(Custody& custody, std::size_t slot, const Engine& engine, std::uint64_t position);
  void publish();
  void unlock();

  Custody* custody_;
  std::size_t slot_;
  std::uint64_t position_;
  std::size_t written_ = 0;
  SnapshotWriter writer_;
  std::vector<std::byte> slice_;
};

}  // namespace bulkhead::xenstore
