// The service's state at a journal position: every instance keeps one, by executing the same inputs in the
// same order. The active instance's is always at the tail; a standby's follows.
#pragma once

#include <cstdint>

#include "components/xenstore/custody.h"
#include "components/xenstore/engine.h"

namespace bulkhead::xenstore {

// Kinds of journal records; `subject` is the connection's slot.
enum class InputKind : std::uint32_t {
  kConnect = 1,     // payload: ConnectInput
  kDisconnect = 2,  // no payload
  kRequest = 3,     // payload: Header, then the message's payload
  kLimits = 4,      // payload: LimitChange, once or more; the subject means nothing
};

struct ConnectInput {
  std::uint64_t serial;
  std::uint32_t domid;
  std::uint32_t reserved;
};

class Replica {
 public:
  explicit Replica(Custody& custody) : custody_(custody) {}

  // Called when this replica's own memory turns out to be damaged; not to return. Without it follow() fails.
  void on_damage(Engine::DamageHandler handler);

  Engine& engine() { return engine_; }
  const Engine& engine() const { return engine_; }
  std::uint64_t position() const { return position_; }
  // The owner executed an input itself and journalled it up to here.
  void advance(std::uint64_t position) { position_ = position; }

  // Executes up to `limit` more records. False once the tail is reached. Loads the published snapshot when
  // the journal no longer reaches back far enough.
  Result<bool> follow(std::uint64_t limit);

  // Records executed since construction, and how often a snapshot was loaded.
  std::uint64_t executed() const { return executed_; }
  std::uint64_t loads() const { return loads_; }

 private:
  void adopt(Engine engine, std::uint64_t position);
  Status load_snapshot();
  Status execute(const JournalRecord& record);

  Custody& custody_;
  Engine::DamageHandler on_damage_;
  Engine engine_;
  std::uint64_t position_ = 0;
  std::uint64_t executed_ = 0;
  std::uint64_t loads_ = 0;
  JournalRecord record_;
};

}  // namespace bulkhead::xenstore
