#include "components/xenstore/follower.h"

#include <poll.h>
#include <spdlog/spdlog.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "components/xenstore/rehearsal.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::uint64_t kRecordsPerTurn = 256;  // bounds how long a takeover waits for this thread
constexpr std::size_t kSnapshotSlice = std::size_t{64} * 1024;
constexpr std::size_t kSmallestShare = std::size_t{4} * 1024;
constexpr std::size_t kLargestShare = std::size_t{512} * 1024;
constexpr std::int64_t kSnapshotRetry = kSecond;     // after one that did not fit
constexpr std::uint64_t kSnapshotAtLeast = 1 << 20;  // journal bytes worth a snapshot
constexpr std::int64_t kMendPatience = 10 * kSecond;
constexpr std::int64_t kAccusationInterval = kSecond;  // until the owner is gone
constexpr int kBusyWaitMs = 2;  // while the journal grows: look again soon, without being called
constexpr int kIdleTurns = 5;   // then sleep until the doorbell rings
constexpr int kFaultWaitMs = 20;
constexpr int kTooLargeWaitMs = 1000;

}  // namespace

Follower::Follower(Instance& instance, Rings& rings)
    : instance_(instance),
      rings_(rings),
      faults_(own_faults([this] { return custody_ ? &*custody_ : nullptr; },
                         [this] {
                           if (replica_) replica_->engine().flip_bit();
                         })),
      retire_bell_(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK)),
      thread_([this] { run(); }) {}

Follower::~Follower() {
  retire();
  if (thread_.joinable()) thread_.join();
}

void Follower::retire() {
  const std::scoped_lock lock(mutex_);
  retired_ = true;
  // Drops the half-written snapshot here: its nodes are counted without atomics. The segment's lock stays
  // with the other thread and is freed by the kernel when that ends.
  snapshot_.reset();
  const std::uint64_t one = 1;
  (void)!::write(retire_bell_.get(), &one, sizeof one);
}

void Follower::run() {
  for (;;) {
    bool busy = false;
    {
      const std::scoped_lock lock(mutex_);
      if (retired_) return;
      busy = turn();
    }
    wait(busy);
  }
}

bool Follower::turn() {
  serve_core();
  faults_.turn(monotonic_ns());
  const bool busy = !failed_ && follow();
  scrub();
  show_vitals();
  return busy;
}

void Follower::abandon(const std::string& why) {
  // A standby that cannot follow is no standby. The core starts another one.
  spdlog::error("{}", why);
  ::_exit(1);
}

// The record being executed, if any, is not to blame.
void Follower::end_damaged(const std::string& what) {
  replica_->quarantine().idle();
  instance_.end_damaged(what);
}

void Follower::serve_core() {
  if (auto pumped = instance_.pump([this](const auto& order) { obey(order); }); !pumped) {
    abandon("the core is gone for good (" + pumped.error().message() + "): ending");
  }
  if (faults_.heartbeat_dropped()) {
    instance_.ignore_ping();
  } else {
    instance_.answer_ping();
  }
}

void Follower::obey(const contract::ToInstance& order) {
  if (faults_.obey(order, instance_)) return;
  switch (order.body_case()) {
    case contract::ToInstance::kStop:
      // The main thread sleeps on the lease; nothing here needs an orderly end.
      ::_exit(0);
    case contract::ToInstance::kLogLevel:
      return spdlog::set_level(spdlog::level::from_str(order.log_level().level()));
    default:
      return;
  }
}

bool Follower::follow() {
  if (!custody_) {
    if (!Custody::complete(instance_)) return false;
    auto custody = Custody::open(instance_);
    if (!custody) abandon("cannot follow: " + custody.error().message());
    custody_.emplace(std::move(*custody));
    replica_.emplace(*custody_);
    replica_->quarantine().begin(JournalQuarantine::Role::kStandby);
    replica_->on_damage([this](const std::string& what) { end_damaged(what); });
    // A large snapshot takes longer to load than the core waits for an answer.
    replica_->on_pause([this] { serve_core(); });
  }
  const bool due = snapshot_due();
  const std::uint64_t before = replica_->position();
  auto more = replica_->follow(kRecordsPerTurn, due);
  if (!more) return await_snapshot(more.error());
  give_up_ns_ = 0;
  if (const auto verdict = replica_->take_verdict()) obey(*verdict);
  if (rings_.served()) rings_.follow(replica_->engine().introduced_domains());
  // Only of a state that the owner has at this very position.
  if (due && replica_->at_checkpoint()) {
    snapshot_ = SnapshotWriting::begin(*custody_, replica_->engine(), replica_->position());
  }
  custody_->journal().rest_before(replica_->position());
  custody_->control().follower_position.store(replica_->position(), std::memory_order_relaxed);
  if (!*more && !ready_sent_) {
    ready_sent_ = instance_.send_ready().has_value();
  }
  if (snapshot_) write_snapshot(*more ? snapshot_share(replica_->position() - before) : kSnapshotSlice);
  return *more || snapshot_;
}

// While there is more to follow: as much of the snapshot as keeps it in step with the journal, which must not
// be full before it is complete. The owner slows down meanwhile (Server::pace), rather than to write one
// itself.
std::size_t Follower::snapshot_share(std::uint64_t followed) {
  const std::uint64_t length = std::max(SnapshotStore(*custody_).length(), kSnapshotAtLeast);
  const std::uint64_t within = custody_->journal().capacity() / 8;
  return std::clamp(followed * length / within, kSmallestShare, kLargestShare);
}

// Who is wrong goes: we, to be replaced, or the owner, to be fenced by the core and succeeded by what the
// replay gave.
void Follower::obey(const Replica::Verdict& verdict) {
  if (verdict.wrong == Replica::Verdict::Wrong::kSelf) end_damaged(verdict.text());
  const std::int64_t now = monotonic_ns();
  if (now < next_accusation_ns_) return;
  next_accusation_ns_ = now + kAccusationInterval;
  (void)instance_.accuse_owner(verdict.incarnation, verdict.text());
}

// The owner knows what the record said that is damaged, or that kills who follows: its next snapshot makes
// the record unnecessary.
bool Follower::await_snapshot(const Error& damage) {
  const std::int64_t now = monotonic_ns();
  idle_turns_ = 0;
  if (give_up_ns_ == 0) {
    give_up_ns_ = now + kMendPatience;
    custody_->control().snapshot_wanted.store(1);
    const char* finding = damage.kind() == ErrorKind::kRefused ? "poison" : "journal";
    (void)instance_.send_finding(finding, damage.message() + "; waiting for a snapshot past it", "");
  } else if (now > give_up_ns_) {
    abandon("cannot follow: " + damage.message());
  }
  return false;
}

bool Follower::snapshot_due() {
  const SnapshotStore store(*custody_);
  // As much journal as the last snapshot was long: the cost of snapshots stays proportional to the cost of
  // requests.
  const std::uint64_t worth =
      std::min(std::max(kSnapshotAtLeast, store.length()), custody_->journal().capacity() / 4);
  return !snapshot_ && replica_->position() >= store.position() + worth &&
         monotonic_ns() >= next_snapshot_ns_;
}

void Follower::write_snapshot(std::size_t bytes) {
  const bool known = SnapshotStore(*custody_).too_large();
  auto more = snapshot_->step(bytes);
  if (!more && more.error().kind() != ErrorKind::kExhausted) end_damaged(more.error().message());
  if (!more) {
    next_snapshot_ns_ = monotonic_ns() + kSnapshotRetry;
    if (!known) (void)instance_.send_finding("snapshot", more.error().message(), "");
  }
  if (!more || !*more) snapshot_.reset();
}

void Follower::scrub() {
  if (!replica_) return;
  if (auto sound = scrubber_.turn(replica_->engine(), monotonic_ns()); !sound) {
    end_damaged(sound.error().message());
  }
}

void Follower::show_vitals() {
  Vitals& vitals = instance_.vitals();
  vitals.heartbeat_ns.store(monotonic_ns(), std::memory_order_relaxed);
  if (!replica_) return;
  if (vitals.log_position.load(std::memory_order_relaxed) != replica_->position()) idle_turns_ = 0;
  vitals.log_position.store(replica_->position(), std::memory_order_relaxed);
  show_digest(vitals, replica_->agreed().position, replica_->agreed().fingerprint);
}

// When nothing else happens, until the next thing that is due by time.
int Follower::wait_ms() {
  int timeout = faults_.next_turn_ns(0) != 0 ? kFaultWaitMs : -1;
  const auto no_later = [&](int ms) { timeout = timeout < 0 ? ms : std::min(timeout, ms); };
  if (!custody_) return timeout;
  if (SnapshotStore(*custody_).too_large()) no_later(kTooLargeWaitMs);
  const std::int64_t scrub_in = std::max<std::int64_t>(scrubber_.next_turn_ns() - monotonic_ns(), 0);
  no_later(static_cast<int>(scrub_in / kMillisecond) + 1);
  return timeout;
}

void Follower::wait(bool busy) {
  if (busy) return;
  std::array<pollfd, 4> fds{pollfd{instance_.contract_fd().get(), POLLIN, 0},
                            pollfd{instance_.wake_fd().get(), POLLIN, 0},
                            pollfd{retire_bell_.get(), POLLIN, 0}, pollfd{-1, POLLIN, 0}};
  int timeout = kBusyWaitMs;
  {
    const std::scoped_lock lock(mutex_);
    if (retired_) return;
    if (++idle_turns_ > kIdleTurns) {
      timeout = wait_ms();
      if (custody_) {
        fds[3].fd = custody_->doorbell().get();
        custody_->control().follower_waiting.store(1);
        // The owner looks at the flag after it moved the tail; we look at the tail after we set the flag.
        if (custody_->journal().tail() != replica_->position()) return;
      }
    }
  }
  (void)::poll(fds.data(), fds.size(), timeout);
  if ((fds[3].revents & POLLIN) != 0) {
    std::uint64_t count = 0;
    (void)!::read(fds[3].fd, &count, sizeof count);
  }
}

}  // namespace bulkhead::xenstore
