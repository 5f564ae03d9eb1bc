// Executes inputs: each runs on the replica, is journalled if it changed anything, and becomes true with one
// commit.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "components/xenstore/commit.h"
#include "components/xenstore/connections.h"
#include "components/xenstore/delivery.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/replica.h"

namespace bulkhead::xenstore {

class Executor : private Output {
 public:
  struct Bounds {
    std::uint64_t unsent_of_all;  // bytes that wait for all clients; above it only little may wait for one
  };
  static constexpr Bounds kBounds{.unsent_of_all = 256 << 20};

  Executor(Custody& custody, Connections& connections, Replica& replica, Bounds bounds = kBounds);

  // Takeover: finishes the predecessor's commit, and learns which clients it had yet to cut off. Call before
  // anything else. kInvalid: the commit cannot be read and was given up; every connection is marked as
  // damaged.
  Status redo();

  // The serial number that the next connection will get.
  std::uint64_t next_serial() const { return custody_.control().next_serial.load(); }

  // Where a domain's ring is (Slot).
  struct Ring {
    std::uint32_t port;
    std::uint32_t introduction;
    std::uint32_t request_base;
    std::uint32_t response_base;
    std::uint64_t strikes;  // of the domain's former connection
  };
  // A client was accepted into a free slot, or a domain's ring is served there, under next_serial().
  void connect(std::uint32_t slot, std::uint32_t domid, const Ring* ring = nullptr);
  // Drops an open connection's watches and transactions; the slot becomes closing.
  void disconnect(std::uint32_t slot);
  // An open connection begins anew: no watches, no transactions, no input. Its output must be gone.
  void reset(std::uint32_t slot);
  // What the hypervisor says of an introduced domain.
  void domain_shut_down(std::uint32_t domid);
  void domain_gone(std::uint32_t domid);
  // Executes a message that stands at the front of the slot's input.
  void execute(std::uint32_t slot, const Request& request);
  // Answers it with an error instead; nothing else changes.
  void refuse(std::uint32_t slot, const Request& request, ErrorCode error);

  // Changes limits, all or none (Engine::set_limits); kExhausted if the journal has no room now.
  Status set_limits(std::span<const LimitChange> changes);
  // What domains use of their limits.
  std::vector<QuotaRow> quotas() const { return replica_.engine().quotas(*this); }
  // Domains that came up to a limit since the last call.
  std::vector<QuotaWarning> take_quota_warnings() { return std::exchange(quota_warnings_, {}); }
  // What CONTROL check says of custody; asked at that time.
  void on_check(std::function<std::string()> report) { check_report_ = std::move(report); }
  // Puts into the journal what the state is here, for whoever follows to compare.
  void checkpoint(std::uint64_t incarnation);

  // Is there room for a reply? If not, try again after sending.
  bool has_room(std::uint32_t slot) const;
  // Is there room in the journal? If not, try again after a snapshot. There is always room left for every
  // connection's end.
  bool can_journal() const {
    return custody_.journal().free() >= Journal::kMaxRecord + connections_.capacity() * kEndRecord;
  }

  // What waits for guests, kept in step here; sends and takeovers are told to it by the server.
  Delivery& delivery() { return delivery_; }

  // The input executed last woke so many that it counts as much work.
  bool touched_many() const { return entries_.size() > kManyEntries; }
  // It made an event for an unprivileged client's connection that does not keep up with reading.
  bool congested() const { return congested_; }
  // Fault `poison`: the next reply kills.
  void die_in_next_reply() { deadly_ = true; }

  // Domains were introduced or released since the last call.
  bool take_domains_changed() { return std::exchange(domains_changed_, false); }
  // Slots that have new output since the last call.
  std::vector<std::uint32_t> take_woken();
  // Slots whose client did not read its events and must be cut off, since the last call.
  std::vector<std::uint32_t> take_overflowed();

 private:
  static constexpr std::size_t kManyEntries = 16;
  static constexpr std::uint64_t kEndRecord = 64;  // more than a disconnection takes in the journal

  void reply(std::uint32_t type, std::span<const std::byte> payload) override;
  void event(ConnectionId to, std::span<const std::byte> payload) override;
  // Replies that were not read are requests not answered yet.
  std::uint32_t outstanding_requests(std::uint32_t domid) const override {
    return delivery_.of_domain(domid).replies;
  }
  std::uint64_t undelivered_bytes(std::uint32_t domid) const override {
    return delivery_.most_bytes_of_domain(domid);
  }
  std::string check_report() const override { return check_report_ ? check_report_() : std::string(); }
  void quota_warning(const QuotaWarning& warning) override { quota_warnings_.push_back(warning); }
  void domain_introduced(std::uint32_t /*domid*/, std::uint64_t /*mfn*/, std::uint32_t /*port*/) override {
    domains_changed_ = true;
  }
  void domain_released(std::uint32_t /*domid*/) override { domains_changed_ = true; }

  std::uint64_t event_bound(const Slot& slot) const;
  void begin(std::uint32_t slot);
  void begin_without_slot(std::uint32_t subject);
  void touch(std::uint32_t slot);
  void overflow(std::uint32_t slot);
  void finish(std::uint64_t journal_tail, std::uint64_t next_serial);
  std::uint64_t journal(InputKind kind, std::initializer_list<std::span<const std::byte>> parts);

  Custody& custody_;
  Connections& connections_;
  Replica& replica_;
  Bounds bounds_;
  Commit commit_;
  Delivery delivery_;

  // The input being executed.
  std::uint32_t current_ = 0;
  Header current_header_{};
  std::vector<CommitEntry> entries_;       // entries_[0] is the current slot's
  std::vector<std::uint64_t> touched_in_;  // per slot: the number of the input that touched it last
  std::uint64_t input_number_ = 0;
  std::vector<std::uint32_t> woken_;
  std::vector<std::uint32_t> overflowed_;
  bool congested_ = false;
  bool deadly_ = false;
  bool domains_changed_ = false;
  std::vector<QuotaWarning> quota_warnings_;
  std::function<std::string()> check_report_;
};

}  // namespace bulkhead::xenstore
