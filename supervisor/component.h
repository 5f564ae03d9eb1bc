// A supervised component: drives the life cycle table, carries out its actions, and speaks the contract with
// its instances. Knows no component by name.
#pragma once

#include <algorithm>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "recovery/ladder.h"
#include "runtime/lease.h"
#include "supervisor/budget.h"
#include "supervisor/custody.h"
#include "supervisor/instance.h"
#include "supervisor/instance_launcher.h"
#include "supervisor/lifecycle.h"
#include "supervisor/outage.h"
#include "supervisor/programs.h"
#include "supervisor/rejuvenation.h"
#include "supervisor/ring.h"
#include "supervisor/services.h"
#include "supervisor/standby_failures.h"
#include "supervisor/surveillance.h"

namespace bulkhead::supervisor {

// Items of custody that the core itself makes.
inline constexpr const char* kLeaseItem = "lease";
inline constexpr const char* kListenerItem = "listener";

// What a component's instances get beyond the configuration (the edge: its socket to the core).
struct InstanceExtra {
  // Called before each start; `descriptors` must stay open until the launch, so what it makes is kept by the
  // instance (`edge`) or by the owner of the hook.
  std::function<Status(Instance& instance, InstanceLauncher::Addition& addition)> before_launch;
  std::function<void(Instance& instance)> launched;
  std::function<void(const Instance& instance)> ended;
};

class Component {
 public:
  using Done = std::function<void(Status)>;

  // `config` and `services` outlive this.
  Component(const ComponentConfig& config, const Services& services, InstanceLauncher launcher,
            std::optional<gid_t> socket_group, InstanceExtra extra);
  Component(const Component&) = delete;
  Component& operator=(const Component&) = delete;
  ~Component();

  // ---- at start, in this order ----
  // What a former core left; before the event loop runs.
  void adopt(const manifest::v1::Component& record);
  // `parked` by number; what was used is taken. After adopt().
  void adopt_programs(const manifest::v1::Component& record, std::map<std::uint64_t, UniqueFd>& parked);
  Status adopt_item(FdStore::Entry entry) { return custody_.adopt(std::move(entry)); }
  // `parts` by the last part of their parked names; what was used is taken. If it cannot be adopted, the
  // caller ends the process.
  Status adopt_instance(const manifest::v1::Instance& record, std::map<std::string, UniqueFd>& parts);
  // The items the core itself makes: the lease, the listening socket. Before anything is started.
  Status prepare();
  // Goes on where a former core stopped, or starts if it is enabled.
  void begin();
  // Incidents that are not over.
  void add_open_incidents(std::set<std::int64_t>& ids) const;

  // ---- operators ----
  // kRefused in a state in which it makes no sense.
  Status operate(Event event);
  Status restart();
  // kRefused unless a standby is ready.
  Status hand_over();
  // Lets the configured program as it is on disk (empty path), or another one, take over. Calls back when a
  // process of it serves, or with the reason why none does: then nothing has changed. kRefused, kNotFound,
  // kInvalid: not begun.
  void upgrade(const std::string& path, Done done);
  // The same with the older program that is kept.
  void roll_back(Done done);
  // The core ends: stops without forgetting that the operator wants it.
  void shut_down();
  // All is over: nothing stays in the descriptor store.
  void release_custody();
  // Takes descriptors of another process into custody, all or none, and starts with them. kRefused: it runs
  // or is wanted, or an instance has owned what custody holds; kInvalid, kExhausted, kNotFound: an item
  // cannot be taken.
  Status import_custody(const v1::ImportCustodyRequest& request);
  // Gives up everything that custody holds: it begins anew when it is enabled. kRefused unless it is stopped.
  Status release();
  // What an operator waits for.
  struct Goal {
    bool serve = false;
    std::uint64_t not_instance = 0;  // serve: another than this one

    static Goal serving_but(std::uint64_t instance) { return {true, instance}; }
    static Goal stopped() { return {}; }
  };
  // Calls back when the goal is reached, or cannot be expected any more.
  void await(Goal goal, Done done);
  // The instance that serves now; 0: none.
  std::uint64_t serving_instance();
  // The instance a fault or a query is for: "active" (also empty) or "standby"; kRefused if there is none.
  Result<Instance*> target(const std::string& which);
  Instance* find_instance(std::uint64_t id);
  void send_all(const contract::ToInstance& message);
  // A fault was injected that changes what clients are told: so long a failed probe says nothing.
  void excuse_probe(std::int64_t for_ns) {
    probe_excused_until_ns_ = std::max(probe_excused_until_ns_, services_.loop.now() + for_ns);
  }
  // Asks the active instance; `reply` is called once, with the answer or a failure.
  using Reply = std::function<void(Result<std::string> body)>;
  // `body` is what the question is about, where it needs one.
  void query(const std::string& what, Reply reply, const std::string& body = {});

  // A dependency became ready.
  void check_dependencies();

  // ---- facts ----
  const ComponentConfig& config() const { return config_; }
  const std::string& name() const { return config_.name; }
  State state() const { return state_; }
  Facts facts() const;
  // Its first start has succeeded or failed, or it waits for somebody.
  bool settled() const;
  // It is being started, recovered, restarted or upgraded.
  bool busy() const;
  const Custody& custody() const { return custody_; }
  std::vector<v1::CustodyItem> custody_list() const;
  std::int64_t last_blackout_us() const { return outage_.last_blackout_us(); }
  v1::Component describe() const;
  manifest::v1::Component record() const;

 private:
  struct Waiter {
    Goal goal;
    Done done;
  };

  // Life cycle (component.cpp).
  void describe_programs(v1::Component& out) const;
  void resume();
  void resume_ending(Instance& instance);
  void feed(Event event, const std::string& cause);
  void apply(Event event, const std::string& cause);
  void feed_standby(StandbyEvent event);
  void enter(State next, const std::string& cause);
  void serving_began();
  std::optional<Status> verdict(const Waiter& waiter);
  void update_waiters();
  bool dependencies_ready() const;

  // Programs (component_upgrade.cpp).
  struct UpgradeWaiter {
    std::uint64_t program;
    Done done;
  };
  // Why the next ready standby is to take over at once.
  struct Renewal {
    std::string finding;  // Incident.finding
    std::string why;
  };
  Status prepare_program();
  std::uint64_t program_for(Role role) const;
  void adopt_program_of(Instance& instance);
  Status may_change_program() const;
  Result<Program> open_new_program(const std::string& path) const;
  void begin_upgrade(const std::string& why, Done done);
  void renew_with_candidate();
  void note_owner(const Instance& instance);
  void prefer(const Instance& instance);
  void commit_upgrade();
  void abandon_upgrade(const std::string& why);
  void standby_program_failed(std::uint64_t program, bool was_ready, const std::string& why);
  void return_after_failure(bool heir_takes_over);
  void arm_probation();
  void end_probation();
  void settle_programs();
  void settle_programs_later();
  void settle_upgrades();
  std::optional<Status> upgrade_verdict(std::uint64_t program) const;
  void resume_upgrade();

  // Rejuvenation (component_rejuvenation.cpp).
  struct Growth {
    std::uint64_t baseline, size;
  };
  void arm_rejuvenation();
  void on_age();
  void on_sample(Instance& instance);
  bool may_rejuvenate() const;
  void rejuvenate(const std::string& why);

  // Actions (component_actions.cpp).
  void perform(Action action);
  void perform(StandbyAction action);
  void arm(Event event, std::int64_t delay_ns);
  void on_timer(Event event, std::int64_t delay_ns);
  void arm_standby(StandbyEvent event, std::int64_t delay_ns);
  void launch_active();
  void launch_standby();
  static void fence(Instance& instance);
  void stop_instance(Instance& instance, bool drain) const;
  void ask_stop(bool drain);
  void kill_all();
  void end_if_alone();
  void ask_yield();
  void supersede(Instance& instance);
  void fence_later(std::uint64_t id);
  Cause planned_cause(const std::string& finding, const std::string& evidence) const;
  void open_incident();
  void note_step();
  void close_incident();

  // Custody that is brought from elsewhere, and given up (component_import.cpp).
  struct Taken;
  bool is_at_rest() const;
  bool was_ever_owned() const;
  bool holds_others_items() const;
  Result<std::vector<Taken>> take_descriptors(const v1::ImportCustodyRequest& request) const;
  Status deposit_taken(std::vector<Taken> items);
  void give_up_custody();
  void drop_unfinished();

  // Instances come to be (component_launch.cpp).
  Status prepare_listener();
  Status make_ring();
  Result<Instance*> start_instance(Role role);
  Status start_process(Instance& instance);
  Result<Launched> launch_process(Instance& instance);
  static Status abandon(Instance& instance, Status why);
  Status park_process(const Instance& instance, const Launched& launched) const;
  Status connect(Instance& instance, UniqueFd output, UniqueFd error_output);
  void introduce(Instance& instance);
  contract::Welcome welcome_for(const Instance& instance) const;
  contract::StartReason start_reason(const Instance& instance) const;
  void forget(const Instance& instance) const;

  // Their contract (component_contract.cpp).
  void on_message(Instance& instance, const contract::FromInstance& message, std::vector<UniqueFd> fds);
  void on_deposit(Instance& instance, const contract::CustodyItem& item, std::vector<UniqueFd> fds);
  void on_withdraw(const std::string& item);
  void on_ready(Instance& instance);
  void hand_over_renewed();
  void on_active(Instance& instance, const contract::Active& message);
  void on_instance_finding(Instance& from, const contract::Finding& finding);
  void on_accusation(Instance& accused, const contract::Finding& finding);
  bool note_said(v1::Event::Kind kind, std::string text);
  void blame_client(const contract::Finding& finding);
  void on_reply(const contract::QueryReply& reply);
  void answer_query(std::uint64_t id, Result<std::string> answer);
  void fail_queries();

  // They end or fail (component_failures.cpp).
  Instance* active();
  Instance* standby();
  Instance* owner();
  recovery::LadderPolicy ladder_policy() const;
  Cause cause_of(const Instance& instance, const std::string& evidence) const;
  void attribute(Cause& cause, std::uint64_t instance) const;
  void yielded(const Instance& instance);
  Event decide(Event otherwise, bool standby_present);
  void record_ladder(manifest::v1::Ladder& out) const;
  void restore_ladder(const manifest::v1::Ladder& record);
  std::int64_t patience_with(std::uint64_t id);
  void on_end(Instance& instance);
  void reap(std::uint64_t id);
  void on_exit(std::uint64_t id, const ExitStatus& exit);
  bool ended_for_good(const ExitStatus& exit) const;
  void active_ended(const Instance& instance, const ExitStatus& exit, const std::string& evidence);
  void owner_ended(const std::string& evidence);
  void standby_ended(const Instance& instance, const std::string& evidence);
  void standby_failed(const Cause& cause);
  void on_lost(std::uint64_t id, const std::string& why);
  void on_found(std::uint64_t id, const monitors::Finding& finding);
  void hand_over_suspect(const Instance& instance, const monitors::Finding& finding);

  const ComponentConfig& config_;
  const Services& services_;
  InstanceLauncher launcher_;
  std::optional<gid_t> socket_group_;
  InstanceExtra extra_;
  Custody custody_;
  std::optional<Lease> lease_;
  Ring ring_;
  std::uint64_t ring_generation_ = 0;

  State state_ = State::kStopped;
  StandbyState standby_state_ = StandbyState::kNone;
  bool wanted_ = false;           // now
  bool operator_wanted_ = false;  // as it will be for the next core
  std::string cause_;
  std::int64_t since_unix_ms_ = 0;
  std::int64_t probe_excused_until_ns_ = 0;
  std::string complaint_;  // what a monitor holds against the active instance; empty: healthy
  Instances instances_;
  std::uint64_t incarnation_ = 0;
  std::uint64_t restarts_ = 0, incidents_ = 0;
  std::optional<Renewal> renewal_;  // hand over when the standby is ready
  bool started_once_ = false;
  bool was_stopping_ = false;     // when the former core died
  std::uint64_t yielding_ = 0;    // the instance that was asked to yield
  std::uint64_t superseded_ = 0;  // the last one that was succeeded before its end was seen

  struct Pending {
    Event event;
    std::string cause;
  };
  std::deque<Pending> pending_;  // events fed by actions
  bool draining_ = false;
  EventLoop::TimerId timer_ = 0, standby_timer_ = 0, health_timer_ = 0;
  Backoff backoff_, standby_backoff_;
  recovery::History history_;
  std::optional<recovery::Step> step_;  // decided, not yet written to the incident
  Cause why_;                           // of the newest failure
  Cause yield_cause_;
  bool priority_refused_ = false;  // which has been said
  bool reconciles_ = false;        // its program can go on with what can be read of a damaged custody
  bool custody_damaged_ = false;   // as the last instance that tried to own it said
  bool reconciling_ = false;       // the next owner is to do so
  Outage outage_;
  StandbyFailures standby_failures_;
  RestartBudget said_;  // what instances may add to the event log
  std::uint64_t unsaid_ = 0;
  std::optional<contract::Active> takeover_;

  Programs programs_;
  bool kept_cannot_follow_ = false;  // the kept program, as a standby of the one in use
  EventLoop::TimerId probation_timer_ = 0;
  std::vector<UpgradeWaiter> upgrade_waiters_;
  std::string upgrade_failure_;  // of the last upgrade that failed

  Rejuvenation rejuvenation_;
  EventLoop::TimerId rejuvenation_timer_ = 0;
  std::int64_t rejuvenation_due_ns_ = 0;
  std::optional<Growth> grown_;  // of the process that is being replaced, or was, because it had grown

  std::vector<Waiter> waiters_;
  std::uint64_t last_query_ = 0;
  std::map<std::uint64_t, Reply> queries_;

  std::unique_ptr<Surveillance> surveillance_;  // last: it looks at the others
};

}  // namespace bulkhead::supervisor
