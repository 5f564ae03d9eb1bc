#include "components/xenstore/replica.h"

#include <algorithm>
#include <cstring>
#include <vector>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/quarantine.h"
#include "components/xenstore/rehearsal.h"
#include "components/xenstore/snapshot_store.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

// What a client asked; nullopt if the record does not hold a request.
std::optional<Request> request_of(const JournalRecord& record) {
  const std::span<const std::byte> payload(record.payload);
  Request request{};
  if (static_cast<InputKind>(record.kind) != InputKind::kRequest || payload.size() < sizeof request.header)
    return std::nullopt;
  std::memcpy(&request.header, payload.data(), sizeof request.header);
  request.payload = payload.subspan(sizeof request.header);
  if (request.payload.size() != request.header.length || request.header.length > kMaxPayload)
    return std::nullopt;
  return request;
}

}  // namespace

void Replica::on_damage(Engine::DamageHandler handler) {
  on_damage_ = std::move(handler);
  engine_.on_damage(on_damage_);
}

void Replica::adopt(Engine engine, std::uint64_t position) {
  engine_ = std::move(engine);
  engine_.on_damage(on_damage_);
  position_ = position;
}

std::string Replica::Verdict::text() const {
  const std::string where = "at journal position " + std::to_string(position);
  if (wrong == Wrong::kSelf)
    return "the standby's state was wrong " + where + ": the journal gives what the owner has";
  return "the owner's state is wrong " + where +
         ": it is not what the journal gives from the last verified snapshot";
}

Status Replica::load_snapshot() {
  auto loaded = SnapshotStore(custody_).load(pause_);
  if (!loaded) return forward(std::move(loaded));
  if (!*loaded)
    return failure(ErrorKind::kNotFound, "the journal's beginning is gone and there is no snapshot");
  adopt(std::move((*loaded)->engine), (*loaded)->journal_position);
  ++loads_;
  return {};
}

std::unexpected<Error> Replica::unknown_shape() const {
  return failure(ErrorKind::kInvalid,
                 "journal record of unknown shape at position " + std::to_string(position_));
}

Status Replica::execute_request(const JournalRecord& record) {
  NoOutput nobody;
  const auto request = request_of(record);
  if (!request) return unknown_shape();
  if (poison_armed(custody_.control()) &&
      poison_of(custody_.control(), *request, monotonic_ns()) == Poison::kFollow) {
    std::abort();
  }
  if (!engine_.execute(record.subject, *request, nobody).damaged) return {};
  return failure(ErrorKind::kFailed, "the state is damaged, found at position " + std::to_string(position_));
}

Status Replica::execute(const JournalRecord& record) {
  NoOutput nobody;
  switch (static_cast<InputKind>(record.kind)) {
    case InputKind::kConnect: {
      ConnectInput input{};
      if (record.payload.size() != sizeof input) break;
      std::memcpy(&input, record.payload.data(), sizeof input);
      // The engine takes these two on trust.
      if (record.subject >= custody_.geometry().max_connections || input.domid >= kFirstReservedDomain) break;
      engine_.connect(record.subject, input.domid);
      return {};
    }
    case InputKind::kDisconnect:
      if (!record.payload.empty()) break;
      engine_.disconnect(record.subject, nobody);
      return {};
    case InputKind::kRequest:
      return execute_request(record);
    case InputKind::kDomainShutDown:
      if (!record.payload.empty()) break;
      engine_.domain_shut_down(record.subject, nobody);
      return {};
    case InputKind::kDomainGone:
      if (!record.payload.empty()) break;
      engine_.domain_gone(record.subject, nobody);
      return {};
    case InputKind::kReset:
      if (!record.payload.empty()) break;
      engine_.reset(record.subject, nobody);
      return {};
    case InputKind::kLimits: {
      const std::span<const std::byte> payload(record.payload);
      if (payload.empty() || payload.size() % sizeof(LimitChange) != 0) break;
      std::vector<LimitChange> changes(payload.size() / sizeof(LimitChange));
      std::memcpy(changes.data(), payload.data(), payload.size());
      return engine_.set_limits(changes, nobody);
    }
    case InputKind::kCheckpoint:
      return compare(record);
  }
  return unknown_shape();
}

Status Replica::compare(const JournalRecord& record) {
  CheckpointInput theirs{};
  if (record.payload.size() != sizeof theirs) return unknown_shape();
  std::memcpy(&theirs, record.payload.data(), sizeof theirs);
  if (!judges_) return {};
  if (theirs.incarnation == disbelieved_) {
    verdict_ = {Verdict::Wrong::kOwner, theirs.incarnation, position_};
    return {};
  }
  if (engine_.fingerprint() != theirs.fingerprint) return arbitrate(theirs);
  agreed_ = {record.next, theirs.fingerprint};
  return {};
}

// Both cannot be right. What the journal gives is right by definition: a fresh replay from a snapshot that
// was checked when it was written, node by node, and when it is read.
Status Replica::arbitrate(const CheckpointInput& theirs) {
  Replica replay(custody_);
  replay.judges_ = false;
  replay.quarantine_ = quarantine_;
  replay.stop_at_ = position_;
  replay.pause_ = pause_;
  for (;;) {
    constexpr std::uint64_t kBetweenPauses = 256;
    auto more = replay.follow(kBetweenPauses);
    if (!more) return forward(std::move(more), "cannot tell whose state is wrong");
    if (!*more) break;
    if (pause_) pause_();
  }
  // A snapshot past the checkpoint has been published meanwhile: nobody can tell any more. Its state will do.
  const bool passed = replay.position_ > position_;
  const bool self = passed || replay.engine_.fingerprint() == theirs.fingerprint;
  adopt(std::move(replay.engine_), replay.position_);
  verdict_ = {self ? Verdict::Wrong::kSelf : Verdict::Wrong::kOwner, theirs.incarnation, position_};
  if (!self) disbelieved_ = theirs.incarnation;
  return {};
}

// A snapshot past it makes a damaged record unnecessary.
Result<bool> Replica::past_damage(Status damage) {
  const bool covered = stop_at_ == ~std::uint64_t{0} && SnapshotStore(custody_).position() > position_;
  if (!covered || !load_snapshot()) return forward(std::move(damage));
  return true;
}

std::unexpected<Error> Replica::deadly_record() const {
  const auto request = request_of(record_);
  std::string what = request ? describe(*request) : "kind " + std::to_string(record_.kind);
  if (const auto domid = engine_.domain_of(record_.subject)) what += " of domain " + std::to_string(*domid);
  return failure(ErrorKind::kRefused, std::to_string(quarantine_.deaths_at(position_)) +
                                          " in a row died following the journal at position " +
                                          std::to_string(position_) + ", which is " + what);
}

bool Replica::skip_deadly() {
  if (!quarantine_.deadly(position_) || !custody_.journal().read(position_, record_)) return false;
  position_ = record_.next;
  judges_ = false;
  return true;
}

Result<bool> Replica::follow_one() {
  if (const std::uint64_t start = custody_.journal().start(); position_ < start) {
    if (auto loaded = load_snapshot(); !loaded) return forward(std::move(loaded));
    // Published before the journal was released: never older than a start that was seen before.
    if (position_ < start) {
      return failure(ErrorKind::kInvalid, "the journal begins at position " + std::to_string(start) +
                                              ", but the snapshot ends at " + std::to_string(position_));
    }
  }
  if (position_ >= std::min(custody_.journal().tail(), stop_at_)) return false;
  auto read = custody_.journal().read(position_, record_);
  if (!read && read.error().kind() == ErrorKind::kNotFound)
    return true;  // overtaken by the writer: load again
  if (!read) return past_damage(std::move(read));
  if (quarantine_.deadly(position_)) return past_damage(deadly_record());
  const std::uint64_t before = position_;
  quarantine_.executing(before);
  if (auto done = execute(record_); !done) return forward(std::move(done));
  kFollowed.pass();
  quarantine_.survived(before);
  if (position_ != before) return true;  // a replay has taken us further
  position_ = record_.next;
  if (static_cast<InputKind>(record_.kind) != InputKind::kCheckpoint) ++executed_;
  return true;
}

Result<bool> Replica::follow(std::uint64_t limit, bool to_checkpoint) {
  auto more = follow_some(limit, to_checkpoint);
  quarantine_.idle();
  return more;
}

Result<bool> Replica::follow_some(std::uint64_t limit, bool to_checkpoint) {
  for (std::uint64_t done = 0; done < limit; ++done) {
    auto more = follow_one();
    if (!more || !*more) return more;
    if (verdict_ || (to_checkpoint && at_checkpoint())) return true;
  }
  return true;
}

}  // namespace bulkhead::xenstore
