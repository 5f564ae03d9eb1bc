#include "components/xenstore/replica.h"

#include <cstring>
#include <vector>

#include "components/xenstore/protocol.h"
#include "components/xenstore/snapshot_store.h"

namespace bulkhead::xenstore {
namespace {

// Replies and events of followed inputs were committed by whoever executed them first.
class Discard : public Output {
 public:
  void reply(std::uint32_t /*type*/, std::span<const std::byte> /*payload*/) override {}
  void event(ConnectionId /*to*/, std::span<const std::byte> /*payload*/) override {}
};

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

Status Replica::load_snapshot() {
  auto loaded = SnapshotStore(custody_).load();
  if (!loaded) return forward(std::move(loaded));
  if (!*loaded)
    return failure(ErrorKind::kNotFound, "the journal's beginning is gone and there is no snapshot");
  adopt(std::move((*loaded)->engine), (*loaded)->journal_position);
  ++loads_;
  return {};
}

Status Replica::execute(const JournalRecord& record) {
  Discard discard;
  const std::span<const std::byte> payload(record.payload);
  switch (static_cast<InputKind>(record.kind)) {
    case InputKind::kConnect: {
      ConnectInput input{};
      if (payload.size() != sizeof input) break;
      std::memcpy(&input, payload.data(), sizeof input);
      // The engine takes these two on trust.
      if (record.subject >= custody_.geometry().max_connections || input.domid >= kFirstReservedDomain) break;
      engine_.connect(record.subject, input.domid);
      return {};
    }
    case InputKind::kDisconnect:
      if (!payload.empty()) break;
      engine_.disconnect(record.subject, discard);
      return {};
    case InputKind::kRequest: {
      Request request{};
      if (payload.size() < sizeof request.header) break;
      std::memcpy(&request.header, payload.data(), sizeof request.header);
      request.payload = payload.subspan(sizeof request.header);
      if (request.payload.size() != request.header.length || request.header.length > kMaxPayload) break;
      if (engine_.execute(record.subject, request, discard).damaged) {
        return failure(ErrorKind::kFailed,
                       "the state is damaged, found at position " + std::to_string(position_));
      }
      return {};
    }
    case InputKind::kLimits: {
      if (payload.empty() || payload.size() % sizeof(LimitChange) != 0) break;
      std::vector<LimitChange> changes(payload.size() / sizeof(LimitChange));
      std::memcpy(changes.data(), payload.data(), payload.size());
      return engine_.set_limits(changes, discard);
    }
  }
  return failure(ErrorKind::kInvalid,
                 "journal record of unknown shape at position " + std::to_string(position_));
}

Result<bool> Replica::follow(std::uint64_t limit) {
  for (std::uint64_t done = 0; done < limit; ++done) {
    if (const std::uint64_t start = custody_.journal().start(); position_ < start) {
      if (auto loaded = load_snapshot(); !loaded) return forward(std::move(loaded));
      // Published before the journal was released: never older than a start that was seen before.
      if (position_ < start) {
        return failure(ErrorKind::kInvalid, "the journal begins at position " + std::to_string(start) +
                                                ", but the snapshot ends at " + std::to_string(position_));
      }
    }
    if (position_ >= custody_.journal().tail()) return false;
    auto read = custody_.journal().read(position_, record_);
    if (!read && read.error().kind() == ErrorKind::kNotFound)
      continue;  // overtaken by the writer: load again
    if (!read) return forward(std::move(read));
    if (auto done_one = execute(record_); !done_one) return forward(std::move(done_one));
    position_ = record_.next;
    ++executed_;
  }
  return true;
}

}  // namespace bulkhead::xenstore
