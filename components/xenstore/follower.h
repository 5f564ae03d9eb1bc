// The standby's thread: follows the journal, writes snapshots, answers the core, while the main thread sleeps
// on the lease. (The lease belongs to a thread, so the thread that will serve must be the one that waits; see
// runtime/lease.h.)
#pragma once

#include <atomic>
#include <mutex>
#include <optional>
#include <thread>

#include "components/xenstore/custody.h"
#include "components/xenstore/replica.h"
#include "components/xenstore/rings.h"
#include "components/xenstore/scrubber.h"
#include "components/xenstore/snapshot_store.h"
#include "runtime/instance.h"
#include "runtime/instance_faults.h"

namespace bulkhead::xenstore {

class Follower {
 public:
  // Both must outlive it.
  Follower(Instance& instance, Rings& rings);
  ~Follower();
  Follower(const Follower&) = delete;
  Follower& operator=(const Follower&) = delete;

  // From the thread that got the lease: the follower touches nothing any more when this returns. What it had
  // built up is handed over. Its thread ends on its own.
  void retire();

  // After retire(): custody and replica, empty if there was nothing to follow yet.
  std::optional<Custody>& custody() { return custody_; }
  std::optional<Replica>& replica() { return replica_; }
  InstanceFaults& faults() { return faults_; }

 private:
  void run();
  bool turn();  // false: nothing more to do now
  void serve_core();
  void obey(const contract::ToInstance& order);
  bool follow();
  void obey(const Replica::Verdict& verdict);
  bool await_snapshot(const Error& damage);
  bool snapshot_due();
  std::size_t snapshot_share(std::uint64_t followed);
  void write_snapshot(std::size_t bytes);
  void scrub();
  void show_vitals();
  int wait_ms();
  void wait(bool busy);
  void abandon(const std::string& why);
  [[noreturn]] void end_damaged(const std::string& what);

  Instance& instance_;
  Rings& rings_;
  InstanceFaults faults_;
  UniqueFd retire_bell_;
  std::mutex mutex_;  // guards everything below and the instance, until retired_
  bool retired_ = false;
  bool ready_sent_ = false;
  bool failed_ = false;
  int idle_turns_ = 0;
  std::optional<Custody> custody_;
  std::optional<Replica> replica_;
  std::int64_t next_snapshot_ns_ = 0;
  std::int64_t next_accusation_ns_ = 0;
  std::int64_t give_up_ns_ = 0;  // waiting for a snapshot past a damaged record; 0: no
  std::optional<SnapshotWriting> snapshot_;
  Scrubber scrubber_;
  std::thread thread_;
};

}  // namespace bulkhead::xenstore
