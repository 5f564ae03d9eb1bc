// The active instance: continues where its predecessor was, then serves. All socket I/O goes through the ring
// in custody, so that its completions tell a successor what was done. One thread.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <unordered_map>
#include <vector>

#include "components/xenstore/checkpoint_schedule.h"
#include "components/xenstore/completion.h"
#include "components/xenstore/connections.h"
#include "components/xenstore/custody_scrub.h"
#include "components/xenstore/executor.h"
#include "components/xenstore/quarantine.h"
#include "components/xenstore/replica.h"
#include "components/xenstore/rings.h"
#include "components/xenstore/run_queue.h"
#include "components/xenstore/scrubber.h"
#include "components/xenstore/server_settings.h"
#include "components/xenstore/snapshot_store.h"
#include "components/xenstore/write_limit.h"
#include "runtime/adopted_ring.h"
#include "runtime/instance.h"
#include "runtime/instance_faults.h"

namespace bulkhead::xenstore {

class Server {
 public:
  struct Takeover {
    std::uint64_t incarnation;
    std::int64_t acquired_ns;
    bool predecessor_died;
    Limits limits;  // in force from the start if the state is fresh
  };

  // Everything must outlive the server.
  Server(Instance& instance, const ServerSettings& settings, Custody& custody, Replica& replica,
         AdoptedRing& ring, Rings& rings, InstanceFaults& faults);

  // Brings every half-done thing to its end. Then this instance is active and says so.
  Status take_over(const Takeover& takeover);
  // Serves until told to stop or to yield (both end well), or until the system refuses what cannot be done
  // without.
  Status run();

 private:
  // What this process has in flight for a slot; unlike Slot, this dies with us, as the operations do.
  struct Flight {
    bool receiving = false;
    bool sending = false;  // or waiting to
    bool full = false;     // its socket took no more; a poll tells when it does
    bool closing = false;
    bool cancelled = false;
    bool broken = false;     // the client reads no more: output is dropped
    bool flushing = false;   // is in flush_
    bool throttled = false;  // waits until its domain has read replies
    bool delayed = false;    // is in delayed_
    // Of the tickets in flight: a position in custody may be damaged when they must be cancelled.
    std::uint64_t receive_base = 0;
    std::uint64_t send_base = 0;
    // Of a domain's ring: it may begin anew from then on.
    std::int64_t reconnect_ns = 0;
  };
  // A client that may go on only later.
  struct Delayed {
    std::int64_t until_ns;
    std::uint32_t slot;
  };
  // What take_over() found and the core shall know.
  struct Refusals {
    std::uint64_t requests = 0;
    std::string client;
    std::string note;
  };

  Status turn();
  Status prepare_ring();
  void count_output();
  Status begin_limits(const Limits& limits);
  void resume_connections();
  Status follow_journal();
  Status import_handed_over(const Limits& limits);
  Status salvage_custody(const Error& damage);

  Ticket ticket(Operation operation, std::uint32_t slot, std::uint64_t base) const;
  bool own(const Ticket& t) const { return t.incarnation == static_cast<std::uint8_t>(incarnation_); }

  // The ring (server_io.cpp).
  void complete(const io_uring_cqe& cqe);
  void received(const Ticket& told, int result);
  void sent(const Ticket& told, int result);
  void writable(const Ticket& told);
  void accepted(const Ticket& told, int result);
  void closed(const Ticket& told, int result);
  void drain_completions();
  void mark_flush(std::uint32_t slot);
  void flush();
  void arm_send(std::uint32_t slot);
  void arm_writable(std::uint32_t slot);
  void arm_receive(std::uint32_t slot);
  void arm_accept();
  void arm_close(std::uint32_t slot);
  void arm_poll(Operation operation, BorrowedFd fd);
  void cancel(Operation operation, std::uint32_t slot, std::uint64_t base);
  void cancel_everything();

  // Executing (server_execute.cpp).
  void execute_fresh();
  void execute_waiting();
  void run_slice(std::uint32_t slot);
  bool execute_some(std::uint32_t slot);
  enum class Next : std::uint8_t { kExecuted, kNothing, kLater };
  Next execute_next(std::uint32_t slot);
  void execute_one(std::uint32_t slot, const Request& request);
  void settle();
  enum class Admission : std::uint8_t { kExecute, kRefuse, kWait };
  Admission admit(const Header& header) const;
  bool throttle(std::uint32_t slot, const Header& header);
  void unthrottle(std::uint32_t domid);
  void unthrottle_all();
  void delay(std::uint32_t slot, std::int64_t until_ns);
  void resume_delayed(std::int64_t now);
  void suffer_poison(const Request& request);
  void cut(std::uint32_t slot, const std::string& why,
           DomainRing::Fault fault = DomainRing::Fault::kCommunication);
  void drop(std::uint32_t slot);
  void begin_close(std::uint32_t slot);
  void free_again(std::uint32_t slot);
  std::string name_of(std::uint32_t slot) const;

  // Domains' rings (server_rings.cpp).
  enum class Begin : std::uint8_t { kAnew, kWhereItIs };
  Status adopt_rings();
  Status resume_rings();
  Status serve_kernel();
  void resume_ring(std::uint32_t slot);
  void take_events();
  void exchange(std::uint32_t slot);
  bool take_requests(std::uint32_t slot, const DomainRing& ring);
  bool give_responses(std::uint32_t slot, const DomainRing& ring);
  void reconnect(std::uint32_t slot);
  void settle_domains();
  void check_domains();
  Status attach(const IntroducedDomain& domain, Begin begin, std::uint64_t strikes = 0);
  void finish_detach(std::uint32_t slot);
  void silence(std::uint32_t slot, DomainRing::Fault fault);
  void silence_waiting();
  bool can_introduce(const Request& request);
  std::optional<std::uint32_t> free_slot() const;

  // Damage in custody (server_damage.cpp).
  void finish_commit();
  std::uint64_t present_generation() const;
  void forget_connections_of_lost_ring();
  void inspect_slots();
  void inspect_output();
  void scrub_custody(std::int64_t now);
  void replace_storage(const CustodyScrub::Damage& damage);
  std::string_view damage_of(std::uint32_t slot) const;
  void close_damaged(std::uint32_t slot, std::string_view what);
  void cut_damaged(std::uint32_t slot, std::string_view what);
  void tell_damage(std::uint32_t slot, std::string_view what);

  // Quarantine (server_quarantine.cpp).
  void condemn(const Quarantine::Condemned& condemned);
  void refuse_poison(std::uint32_t slot, std::uint32_t deaths);
  void clear_suspects();

  void housekeeping(std::int64_t now);
  bool follower_moves(std::int64_t now) const;
  void keep_journal_short(std::int64_t now);
  void seal_journal(std::int64_t now);
  void ring_doorbell();
  void pace(std::int64_t now);
  void obey(const contract::ToInstance& order);
  void answer_query(const contract::Query& query);
  Status set_quota(const contract::Query& query);
  void tell_quota_warnings();
  void report_active(const Takeover& takeover, std::uint64_t replayed);
  std::int64_t next_deadline() const;
  [[noreturn]] void end_damaged(const std::string& what);

  Instance& instance_;
  const ServerSettings settings_;
  Custody& custody_;
  Replica& replica_;
  AdoptedRing& ring_;
  Rings& rings_;
  InstanceFaults& faults_;
  Connections connections_;
  Executor executor_;
  Quarantine quarantine_;
  WriteLimit write_limit_;
  SnapshotStore snapshots_;
  std::optional<SnapshotWriting> snapshot_;
  std::int64_t next_snapshot_ns_ = 0;
  Scrubber scrubber_;
  CustodyScrub custody_scrub_;
  CheckpointSchedule checkpoints_;

  std::vector<Flight> flights_;
  RunQueue queue_;
  std::vector<std::uint32_t> flush_;
  std::vector<std::uint32_t> throttled_;
  std::vector<Delayed> delayed_;
  std::vector<std::uint32_t> suspects_;  // must be seen to live through everything before they are none
  int turns_with_suspects_ = 0;
  Refusals refusals_;
  std::unordered_map<std::uint32_t, std::uint32_t> ring_slots_;  // by domid
  std::unordered_map<std::uint32_t, std::uint32_t> ring_ports_;  // slots by our event channel port
  std::vector<std::uint32_t> silenced_;                          // to be cut off when the journal has room
  bool domains_changed_ = false;                                 // rings have to be attached or detached
  bool domains_due_ = false;                // the hypervisor has to be asked what became of domains
  bool events_due_ = false;                 // more event channels may be pending
  std::uint32_t maybe_free_ = 0;            // slots below this index are not free
  std::optional<std::uint32_t> accepting_;  // the slot of the accept in flight
  std::int64_t accept_again_ns_ = 0;        // after a failure; 0: no wait
  std::int64_t next_finding_ns_ = 0;
  std::uint64_t incarnation_ = 0;
  std::string salvage_note_;  // empty: nothing had to be salvaged
  std::string import_note_;   // likewise: nothing was taken over from another xenstored
  std::string damage_note_;   // likewise for what custody holds of connections
  std::uint32_t damaged_connections_ = 0;
  std::string damaged_storage_;  // as it was told last
  std::uint64_t rung_tail_ = 0;
  std::uint64_t follower_position_ = 0;
  std::int64_t follower_moved_ns_ = 0;
  std::uint64_t paced_tail_ = 0;
  bool full_ = false;        // no free slot was found
  bool unattached_ = false;  // likewise for a domain's ring
  bool no_kernel_ = false;   // this host's kernel has no ring
  bool answered_ = false;
  bool ended_ = false;
};

}  // namespace bulkhead::xenstore
