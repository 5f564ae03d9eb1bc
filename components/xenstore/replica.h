// The service's state at a journal position: every instance keeps one, by executing the same inputs in the
// same order. The active instance's is always at the tail; a standby's follows.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <utility>

#include "components/xenstore/custody.h"
#include "components/xenstore/engine.h"
#include "components/xenstore/journal_quarantine.h"

namespace bulkhead::xenstore {

// Kinds of journal records; `subject` is the connection's slot.
enum class InputKind : std::uint32_t {
  kConnect = 1,     // payload: ConnectInput
  kDisconnect = 2,  // no payload
  kRequest = 3,     // payload: Header, then the message's payload
  kLimits = 4,      // payload: LimitChange, once or more; the subject means nothing
  // From the hypervisor: the domain, which is the subject, has shut down, or is gone. No payload.
  kDomainShutDown = 5,
  kDomainGone = 6,
  kReset = 7,       // a guest's ring is cut off or begins anew; no payload
  kCheckpoint = 8,  // payload: CheckpointInput; subject 0. Changes nothing
};

struct ConnectInput {
  std::uint64_t serial;
  std::uint32_t domid;
  std::uint32_t reserved;
};

// What the owner's state was, written by the owner: whoever executes the journal up to here must have the
// same.
struct CheckpointInput {
  std::uint64_t incarnation;  // of the owner
  std::uint64_t fingerprint;  // Engine::fingerprint()
};

class Replica {
 public:
  // Two states differed at a checkpoint, and a replay from the last verified snapshot has told who is wrong.
  // Either way this replica holds the replayed state now.
  struct Verdict {
    enum class Wrong : std::uint8_t { kSelf, kOwner } wrong;
    std::uint64_t incarnation;  // of the owner that wrote the checkpoint
    std::uint64_t position;
    std::string text() const;
  };

  explicit Replica(Custody& custody) : custody_(custody), quarantine_(custody) {}

  // Call before following in that role.
  JournalQuarantine& quarantine() { return quarantine_; }

  // Called when this replica's own memory turns out to be damaged; not to return. Without it follow() fails.
  void on_damage(Engine::DamageHandler handler);

  Engine& engine() { return engine_; }
  const Engine& engine() const { return engine_; }
  std::uint64_t position() const { return position_; }
  // Begins anew from a state that was read elsewhere.
  void restart(Engine engine, std::uint64_t position) { adopt(std::move(engine), position); }
  // The owner executed an input itself and journalled it up to here.
  void advance(std::uint64_t position) { position_ = position; }

  // Executes up to `limit` more records. False once the tail is reached. Loads the published snapshot when
  // the journal no longer reaches back far enough.
  // kRefused: the next record has killed who executed it, again and again (the message says whose it is), and
  // no snapshot past it has been published yet.
  // With `to_checkpoint`, it also pauses right behind a checkpoint that agreed (then at_checkpoint() is
  // true).
  Result<bool> follow(std::uint64_t limit, bool to_checkpoint = false);

  // After kRefused: goes on behind that record, without it. What follows is not what the owner had any more,
  // so no checkpoint is compared from here on. False if follow() did not end there.
  bool skip_deadly();

  // The last record executed was a checkpoint, and it agreed.
  bool at_checkpoint() const { return agreed_.position != 0 && agreed_.position == position_; }
  // The newest checkpoint that agreed: the position behind it (0: none yet) and the fingerprint.
  struct Agreed {
    std::uint64_t position = 0;
    std::uint64_t fingerprint = 0;
  };
  Agreed agreed() const { return agreed_; }
  // What came of a checkpoint that did not agree, once; again for each further one of an owner found wrong.
  std::optional<Verdict> take_verdict() { return std::exchange(verdict_, std::nullopt); }
  // Called now and then while a snapshot is loaded or the journal replayed, which may take long.
  void on_pause(std::function<void()> pause) { pause_ = std::move(pause); }

  // Records executed since construction, and how often a snapshot was loaded.
  std::uint64_t executed() const { return executed_; }
  std::uint64_t loads() const { return loads_; }

 private:
  void adopt(Engine engine, std::uint64_t position);
  Status load_snapshot();
  Status execute(const JournalRecord& record);
  Status execute_request(const JournalRecord& record);
  Result<bool> follow_some(std::uint64_t limit, bool to_checkpoint);
  Result<bool> follow_one();
  std::unexpected<Error> deadly_record() const;
  Result<bool> past_damage(Status damage);
  Status compare(const JournalRecord& record);
  Status arbitrate(const CheckpointInput& theirs);
  std::unexpected<Error> unknown_shape() const;

  Custody& custody_;
  JournalQuarantine quarantine_;
  Engine::DamageHandler on_damage_;
  Engine engine_;
  std::uint64_t position_ = 0;
  std::uint64_t executed_ = 0;
  std::uint64_t loads_ = 0;
  JournalRecord record_;

  std::function<void()> pause_;
  std::uint64_t stop_at_ = ~std::uint64_t{0};  // of a replay
  bool judges_ = true;             // a replay that is to tell who is wrong compares nothing itself
  std::uint64_t disbelieved_ = 0;  // incarnation of an owner found wrong
  Agreed agreed_;
  std::optional<Verdict> verdict_;
};

}  // namespace bulkhead::xenstore
