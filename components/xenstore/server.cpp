#include "components/xenstore/server.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <cerrno>

#include "bulkhead/v1/bulkhead.pb.h"
#include "components/xenstore/crash_points.h"
#include "components/xenstore/import.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/quota_service.h"
#include "components/xenstore/salvage.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr std::size_t kSnapshotSlice = std::size_t{64} * 1024;
constexpr std::int64_t kSnapshotRetry = kSecond;  // after one that did not fit
constexpr std::int64_t kFollowerStuck = 50 * kMillisecond;
constexpr std::int64_t kPace = 100 * kMicrosecond;

void sleep_for(std::int64_t ns) {
  const timespec delay{ns / kSecond, ns % kSecond};
  ::nanosleep(&delay, nullptr);
}

}  // namespace

Server::Server(Instance& instance, const ServerSettings& settings, Custody& custody, Replica& replica,
               AdoptedRing& ring, Rings& rings, InstanceFaults& faults)
    : instance_(instance),
      settings_(settings),
      custody_(custody),
      replica_(replica),
      ring_(ring),
      rings_(rings),
      faults_(faults),
      connections_(custody),
      executor_(custody, connections_, replica, {.unsent_of_all = settings.unsent_limit}),
      quarantine_(custody, connections_),
      write_limit_(settings.write_limit),
      snapshots_(custody),
      custody_scrub_(custody, connections_),
      flights_(connections_.capacity()),
      queue_(connections_.capacity()) {
  executor_.on_check([this] { return custody_scrub_.report(monotonic_ns()); });
  replica_.on_damage([this](const std::string& what) { end_damaged(what); });
}

// Nothing is committed any more: the successor executes what was being executed, with an undamaged state. The
// request is not to blame.
void Server::end_damaged(const std::string& what) {
  quarantine_.idle();
  replica_.quarantine().idle();
  spdlog::error("the state is damaged: {}", what);
  instance_.end_damaged(what);
}

Status Server::prepare_ring() {
  ring_.adopt();
  cancel_everything();
  io_uring_rsrc_register table{};
  table.nr = connections_.capacity();
  table.flags = IORING_RSRC_REGISTER_SPARSE;
  const int rc =
      io_uring_register(static_cast<unsigned>(ring_.fd()), IORING_REGISTER_FILES2, &table, sizeof table);
  // EBUSY: a predecessor has made the table; it holds the clients' sockets.
  if (rc < 0 && rc != -EBUSY)
    return os_failure("cannot make room for " + std::to_string(table.nr) + " connections", -rc);
  return {};
}

Status Server::take_over(const Takeover& takeover) {
  incarnation_ = takeover.incarnation;
  if (auto ready = prepare_ring(); !ready) return ready;
  kTakeoverAdopted.pass();
  finish_commit();
  kTakeoverRedone.pass();
  std::vector<Quarantine::Condemned> condemned;
  suspects_ = quarantine_.inspect(condemned);
  const std::uint64_t executed_before = replica_.executed();
  replica_.quarantine().begin(JournalQuarantine::Role::kOwner);
  if (auto followed = follow_journal(); !followed)
    return forward(std::move(followed), "cannot follow the journal");
  kTakeoverReplayed.pass();
  if (auto imported = import_handed_over(takeover.limits); !imported)
    return forward(std::move(imported), "cannot go on with what another xenstored handed over");
  if (auto begun = begin_limits(takeover.limits); !begun) return begun;
  if (auto adopted = adopt_rings(); !adopted) return adopted;
  inspect_slots();
  forget_connections_of_lost_ring();
  count_output();
  for (const Quarantine::Condemned& one : condemned) condemn(one);
  // Whatever took effect for the predecessor was posted before the kernel passed its lease on, so it is here
  // now. What it had waiting (cancelled above) may still be reported, as cancelled, any time later.
  drain_completions();
  inspect_output();
  resume_connections();
  if (auto resumed = resume_rings(); !resumed) return resumed;
  arm_poll(Operation::kWake, instance_.wake_fd());
  arm_poll(Operation::kContract, instance_.contract_fd());
  instance_.vitals().active.store(1);
  report_active(takeover, replica_.executed() - executed_before);
  return {};
}

// To its end. If it cannot be read, the core decides: it tries again, and asks for a salvage when that was no
// good either.
Status Server::follow_journal() {
  for (;;) {
    auto more = replica_.follow(~std::uint64_t{0});
    if (!more) return salvage_custody(more.error());
    if (const auto verdict = replica_.take_verdict()) {
      (void)instance_.send_finding(kIntegrityFinding, verdict->text(), "");
    }
    if (!*more) break;
  }
  // A salvage whose owner died before the journal began anew: its snapshot is past the journal's end.
  Journal& journal = custody_.journal();
  if (replica_.position() > journal.tail()) journal.commit(replica_.position());
  return {};
}

Status Server::import_handed_over(const Limits& limits) {
  CustodyImport import(instance_, custody_, connections_, replica_, rings_, ring_.fd());
  if (import.due()) {
    // The sockets will be in this ring: should it be lost, a successor knows that they are, too.
    custody_.control().ring_generation.store(present_generation());
    auto taken = import.run(limits);
    if (!taken) return forward(std::move(taken));
    import_note_ = taken->text();
    spdlog::info("{}", import_note_);
    for (const std::string& note : taken->notes) spdlog::warn("import: {}", note);
    (void)instance_.send_finding("import", import_note_, "");
  }
  return import.finish();
}

Status Server::salvage_custody(const Error& damage) {
  if (instance_.welcome().reason() != contract::START_REASON_RECONCILE) {
    (void)instance_.report_damaged_custody(damage.message());
    return std::unexpected(damage);
  }
  auto salvaged = salvage(custody_, replica_);
  if (!salvaged) return forward(std::move(salvaged));
  salvage_note_ = damage.message() + "; went on with " + salvaged->note;
  spdlog::error("{}", salvage_note_);
  return {};
}

// What was staged and not committed never was; what was committed and not sent waits.
void Server::count_output() {
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    connections_.unstage(i);
    if (connections_.slot(i).state.load() == SlotState::kOpen) executor_.delivery().opened(i);
  }
}

// Nothing was ever executed: the settings hold. Later the state's own limits do, whatever the settings say by
// then; so every instance that replays the journal from its beginning begins with the same ones.
Status Server::begin_limits(const Limits& limits) {
  if (custody_.journal().tail() != 0) return {};
  const auto changes = changes_between(replica_.engine().limits(), limits);
  return changes.empty() ? Status{} : executor_.set_limits(changes);
}

void Server::resume_connections() {
  // Who may be poison is tried first: alone, so that nobody else is suspected for it.
  for (const std::uint32_t suspect : suspects_) queue_.add(suspect);
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    switch (connections_.slot(i).state.load()) {
      case SlotState::kFree:
        break;
      case SlotState::kOpen:
        queue_.add(i);
        mark_flush(i);
        break;
      case SlotState::kClosing:
        begin_close(i);
        break;
    }
  }
}

void Server::report_active(const Takeover& takeover, std::uint64_t replayed) {
  contract::FromInstance message;
  auto* active = message.mutable_active();
  active->set_incarnation(takeover.incarnation);
  active->set_acquired_monotonic_ns(takeover.acquired_ns);
  active->set_serving_monotonic_ns(monotonic_ns());
  active->set_predecessor_died(takeover.predecessor_died);
  active->set_replayed(replayed);
  active->set_refused(refusals_.requests);
  active->set_blamed_client(refusals_.client);
  active->set_note(salvage_note_.empty() ? import_note_ + refusals_.note + damage_note_ : salvage_note_);
  // Also what a predecessor gave up that died before it could say so.
  Control& control = custody_.control();
  active->set_lost(control.lost_records.load());
  // The core may be dead or slow: serving matters more than telling.
  if (auto sent = instance_.send(message); !sent) {
    spdlog::warn("the core was not told: {}", sent.error().message());
  } else {
    control.lost_records.store(0);
  }
  if (auto sent = instance_.send_ready(); !sent)
    spdlog::warn("the core was not told: {}", sent.error().message());
}

Status Server::run() {
  while (!ended_) {
    if (auto turned = turn(); !turned) return turned;
  }
  return {};
}

Status Server::turn() {
  flush();
  quarantine_.idle();
  auto submitted = queue_.empty() ? ring_.submit_and_wait(next_deadline()) : ring_.submit();
  if (!submitted) return submitted;
  kSubmitted.pass();
  drain_completions();
  execute_fresh();
  if (queue_.anyone_waiting()) {
    // Whoever asked for little has its answer before the others go on.
    flush();
    if (auto sent = ring_.submit(); !sent) return sent;
    execute_waiting();
  }
  quarantine_.idle();
  housekeeping(monotonic_ns());
  return {};
}

std::int64_t Server::next_deadline() const {
  std::int64_t deadline = faults_.next_turn_ns(monotonic_ns());
  const auto no_later_than = [&deadline](std::int64_t at) {
    if (deadline == 0 || at < deadline) deadline = std::max<std::int64_t>(at, 1);
  };
  no_later_than(scrubber_.next_turn_ns());
  no_later_than(custody_scrub_.next_turn_ns());
  if (checkpoints_.next_ns() != 0) no_later_than(checkpoints_.next_ns());
  if (accept_again_ns_ != 0) no_later_than(accept_again_ns_);
  if (snapshots_.too_large()) no_later_than(next_snapshot_ns_);
  for (const Delayed& delayed : delayed_) no_later_than(delayed.until_ns);
  if (snapshot_ || !suspects_.empty() || events_due_ || domains_changed_ || domains_due_)
    deadline = 1;  // in the past: look at the ring, do not wait
  return deadline;
}

void Server::housekeeping(std::int64_t now) {
  Vitals& vitals = instance_.vitals();
  vitals.heartbeat_ns.store(now, std::memory_order_relaxed);
  vitals.log_position.store(replica_.position(), std::memory_order_relaxed);
  faults_.turn(now);
  resume_delayed(now);
  if (rings_.served()) {
    if (events_due_) take_events();
    silence_waiting();
    if (domains_due_) check_domains();
    if (domains_changed_) settle_domains();
  }
  clear_suspects();
  tell_quota_warnings();
  seal_journal(now);
  ring_doorbell();
  custody_.journal().rest_before(custody_.journal().tail());
  pace(now);
  keep_journal_short(now);
  if (auto sound = scrubber_.turn(replica_.engine(), now); !sound) end_damaged(sound.error().message());
  scrub_custody(now);
}

void Server::seal_journal(std::int64_t now) {
  if (!checkpoints_.due(custody_.journal().tail(), now)) return;
  if (!executor_.can_journal()) return checkpoints_.postpone(now);
  executor_.checkpoint(incarnation_);
  checkpoints_.written(custody_.journal().tail());
  show_digest(instance_.vitals(), custody_.journal().tail(), replica_.engine().fingerprint());
}

void Server::ring_doorbell() {
  const std::uint64_t tail = custody_.journal().tail();
  if (tail == rung_tail_) return;
  Control& control = custody_.control();
  if (control.follower_waiting.load() == 0) return;
  rung_tail_ = tail;
  control.follower_waiting.store(0);
  const std::uint64_t one = 1;
  (void)!::write(custody_.doorbell().get(), &one, sizeof one);
}

// Without this a standby could be overtaken for ever on a machine that is too busy, or the journal be full
// before it has written a snapshot. One that does not move is not waited for.
void Server::pace(std::int64_t now) {
  const std::uint64_t position = custody_.control().follower_position.load(std::memory_order_relaxed);
  if (position != follower_position_) {
    follower_position_ = position;
    follower_moved_ns_ = now;
  }
  const Journal& journal = custody_.journal();
  const bool behind = journal.tail() - position >= journal.capacity() / 4;
  const bool filling = journal.free() < journal.capacity() / 4 && journal.tail() != paced_tail_;
  paced_tail_ = journal.tail();
  if (follower_moves(now) && (behind || filling)) sleep_for(kPace);
}

bool Server::follower_moves(std::int64_t now) const {
  return now - follower_moved_ns_ <= kFollowerStuck;
}

void Server::keep_journal_short(std::int64_t now) {
  Journal& journal = custody_.journal();
  // The standby writes snapshots; what they cover may be overwritten.
  if (const std::uint64_t covered = snapshots_.position(); covered > journal.start()) {
    journal.release(covered);
    kJournalReleased.pass();
  }
  // A standby that follows writes them, too, and on a CPU of its own: ours would be in the way of requests,
  // and each change beside it a copy.
  const std::uint64_t enough = follower_moves(now) ? journal.capacity() / 8 : journal.capacity() / 2;
  const bool needed = journal.free() < enough || snapshots_.too_large() ||
                      custody_.control().snapshot_wanted.load(std::memory_order_relaxed) != 0;
  if (snapshot_ && snapshots_.position() >= snapshot_->position()) snapshot_.reset();
  if (!snapshot_ && needed && now >= next_snapshot_ns_) {
    snapshot_ = SnapshotWriting::begin(custody_, replica_.engine(), replica_.position());
  }
  if (!snapshot_) return;
  const bool urgent = journal.free() < 4 * Journal::kMaxRecord;
  const bool known = snapshots_.too_large();
  auto more = snapshot_->step(urgent ? ~std::size_t{0} : kSnapshotSlice);
  if (!more && more.error().kind() != ErrorKind::kExhausted) end_damaged(more.error().message());
  if (!more) {
    next_snapshot_ns_ = monotonic_ns() + kSnapshotRetry;
    if (!known) (void)instance_.send_finding("snapshot", more.error().message(), "");
  }
  if (!more || !*more) snapshot_.reset();
}

void Server::obey(const contract::ToInstance& order) {
  if (faults_.obey(order, instance_)) return;
  switch (order.body_case()) {
    case contract::ToInstance::kYield:
    case contract::ToInstance::kStop:
      ended_ = true;
      return;
    case contract::ToInstance::kLogLevel:
      return spdlog::set_level(spdlog::level::from_str(order.log_level().level()));
    case contract::ToInstance::kQuery:
      return answer_query(order.query());
    default:
      return;
  }
}

void Server::answer_query(const contract::Query& query) {
  contract::FromInstance message;
  auto* reply = message.mutable_reply();
  reply->set_id(query.id());
  if (query.what() == "quotas") {
    reply->set_body(
        list_quotas(instance_.welcome().component(), replica_.engine().limits(), executor_.quotas())
            .SerializeAsString());
  } else if (query.what() == "set-quota") {
    if (auto set = set_quota(query); !set) reply->set_error(set.error().message());
  } else {
    reply->set_error("unknown query \"" + query.what() + "\"");
  }
  (void)instance_.send(message);
}

Status Server::set_quota(const contract::Query& query) {
  v1::SetQuotaRequest request;
  if (!request.ParseFromString(query.body()))
    return failure(ErrorKind::kInvalid, "the request cannot be parsed");
  auto change = limit_change_of(request);
  if (!change) return forward(std::move(change));
  auto set = executor_.set_limits({&*change, 1});
  unthrottle_all();
  return set;
}

void Server::tell_quota_warnings() {
  for (const QuotaWarning& warning : executor_.take_quota_warnings()) {
    const std::string text = describe(warning);
    spdlog::warn("{}", text);
    (void)instance_.send_finding("quota", text, "domain " + std::to_string(warning.domid));
  }
}

}  // namespace bulkhead::xenstore
