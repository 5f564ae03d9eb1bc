// The engine's state as bytes: written in slices while the engine goes on, read back with every byte
// distrusted. Format: docs/formats/snapshot.md.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "components/xenstore/engine.h"
#include "runtime/result.h"

namespace bulkhead::xenstore {

// Captures the state at construction: the tree by pointer, the rest (watches, transactions, domains) by copy.
// The engine may change and even be destroyed afterwards. Same thread as the engine: the shared nodes' counts
// are not atomic.
class SnapshotWriter {
 public:
  explicit SnapshotWriter(const Engine& engine);
  ~SnapshotWriter();
  SnapshotWriter(SnapshotWriter&&) noexcept;
  SnapshotWriter& operator=(SnapshotWriter&&) noexcept;

  // Appends about `budget` more bytes (at most one record above it) to `out`. False once the snapshot is
  // complete.
  bool step(std::size_t budget, std::vector<std::byte>& out);
  // What was written is not what the engine should hold: this snapshot must not be used. Empty: all is sound.
  const std::string& damage() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

// The whole snapshot at once.
std::vector<std::byte> write_snapshot(const Engine& engine);

// An engine observably identical to the one the snapshot was taken of. Fails with kInvalid on any damage;
// memory used is bounded by a small multiple of `bytes.size()`.
// `pause`, if given, is called every few thousand records.
Result<Engine> read_snapshot(std::span<const std::byte> bytes, const std::function<void()>& pause = {});

}  // namespace bulkhead::xenstore
