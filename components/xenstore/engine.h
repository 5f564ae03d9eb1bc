// The xenstore protocol engine: executes requests against the tree, deterministically. No clock, no I/O, no
// randomness: two engines given the same state-changing inputs in the same order are identical in every
// observable way.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/limits.h"
#include "runtime/result.h"

namespace bulkhead::xenstore {

namespace core {
struct MigrationAccess;
struct State;
class TreeScrub;
}  // namespace core

// A small dense index chosen by the server; reused only after disconnect().
using ConnectionId = std::uint32_t;

// Wire layout of struct xsd_sockmsg (xen/io/xs_wire.h).
struct Header {
  std::uint32_t type;
  std::uint32_t request_id;
  std::uint32_t transaction_id;
  std::uint32_t length;  // of the payload
};

struct Request {
  Header header;
  std::span<const std::byte> payload;  // payload.size() == header.length <= kMaxPayload
};

// One line of the quota table: what a domain uses of one limit.
struct QuotaRow {
  std::uint32_t domid;
  std::string_view name;  // a static string: nodes, watches, transactions, outstanding, undelivered, memory
  std::uint64_t limit;    // 0: none (dom0)
  std::uint64_t used;
};

// A domain has come up to a limit. Told once; again only after its use had fallen by an eighth of the limit.
struct QuotaWarning {
  std::uint32_t domid;
  std::string_view name;  // a static string: memory
  std::uint64_t limit;
  std::uint64_t used;
  bool hard;  // a request was refused; else the warning level was reached
};

// What domains use of the limits that the server enforces.
class ServerUsage {
 public:
  virtual ~ServerUsage() = default;
  // Requests of this domain that are not answered yet.
  virtual std::uint32_t outstanding_requests(std::uint32_t domid) const {
    return static_cast<void>(domid), 0;
  }
  // Bytes of replies and events that the domain's slowest connection has not read.
  virtual std::uint64_t undelivered_bytes(std::uint32_t domid) const { return static_cast<void>(domid), 0; }
};

// Where an execution's effects go. Implemented by the server; called only during execute() and disconnect().
// The spans are valid only during the call, and the callee must not call back into the engine.
class Output : public ServerUsage {
 public:
  // Exactly once per execute(). `type` is the request's, or XS_ERROR.
  virtual void reply(std::uint32_t type, std::span<const std::byte> payload) = 0;
  // Payload of an XS_WATCH_EVENT for a connection, which may be the requesting one.
  virtual void event(ConnectionId to, std::span<const std::byte> payload) = 0;
  virtual void domain_introduced(std::uint32_t domid, std::uint64_t mfn, std::uint32_t port) {
    static_cast<void>(domid), static_cast<void>(mfn), static_cast<void>(port);
  }
  virtual void domain_released(std::uint32_t domid) { static_cast<void>(domid); }
  // CONTROL log|on, log|off and print|<text>: "log on", "log off", "print <text>".
  virtual void log_control(std::string_view command) { static_cast<void>(command); }
  // CONTROL check: what else was checked, one line; empty: nothing else is.
  virtual std::string check_report() const { return {}; }
  virtual void quota_warning(const QuotaWarning& warning) { static_cast<void>(warning); }
};

// A domain that the toolstack has introduced, and where its ring is.
struct IntroducedDomain {
  std::uint32_t domid;
  std::uint32_t port;          // the domain's end of its event channel
  std::uint32_t introduction;  // another number with each INTRODUCE of any domain
  bool shut_down;
  std::uint32_t features;  // XENSTORE_SERVER_FEATURE_*, which it is told
};

// Nobody is told: what is executed here was told by whoever executed it first, or is nobody's to know.
class NoOutput : public Output {
 public:
  void reply(std::uint32_t /*type*/, std::span<const std::byte> /*payload*/) override {}
  void event(ConnectionId /*to*/, std::span<const std::byte> /*payload*/) override {}
};

// A change of one limit, named by its place in all_quotas().
struct LimitChange {
  static constexpr std::uint32_t kEveryDomain = 0xFFFFFFFF;
  std::uint32_t domid;  // kEveryDomain: the global value
  std::uint32_t quota;
  std::uint32_t value;
};

struct Outcome {
  bool mutated =
      false;  // the engine's state changed (a transaction's read set counts): the request must be logged
  // What the request needed is not what was written: nothing was changed and the reply says EIO. Nothing this
  // engine says can be relied on any more.
  bool damaged = false;
};

// Single-threaded. Movable; a moved-from engine may only be destroyed or assigned to.
class Engine {
 public:
  explicit Engine(const Limits& limits = {});
  ~Engine();
  Engine(Engine&&) noexcept;
  Engine& operator=(Engine&&) noexcept;

  // Both are logged inputs like mutating requests. `id` is below 2^20, `domid` below 0x7FF0: anything else
  // aborts. Connecting a connected id or disconnecting an unknown one does nothing. disconnect() drops the
  // connection's watches and transactions.
  void connect(ConnectionId id, std::uint32_t domid);
  void disconnect(ConnectionId id, Output& out);

  // Drops the connection's watches and transactions; it stays connected. Likewise a logged input.
  void reset(ConnectionId id, Output& out);

  // Logged inputs, from the hypervisor: an introduced domain has shut down or crashed (fires @releaseDomain
  // once, until RESUME); it is gone (what RELEASE does). Domain 0 and those not introduced are left alone.
  void domain_shut_down(std::uint32_t domid, Output& out);
  void domain_gone(std::uint32_t domid, Output& out);

  // Logged input, from outside the protocol: changes limits, all or (kNotFound, kInvalid) none. A global
  // value holds for every domain that was given none of its own.
  Status set_limits(std::span<const LimitChange> changes, Output& out);

  // Never fails: errors are XS_ERROR replies. An unknown `id` is answered with EINVAL.
  Outcome execute(ConnectionId id, const Request& request, Output& out);

  std::uint64_t digest() const;      // over all nodes (paths, values, permissions); O(1)
  std::uint64_t node_count() const;  // O(1)
  const Limits& limits() const;      // the global ones
  // Those that hold for a domain; the global ones if it is unknown. Valid until the next input.
  const Limits& limits_of(std::uint32_t domid) const;
  std::uint32_t transactions_of(std::uint32_t domid) const;  // open ones, of all its connections; O(1)
  // No connection has an id as high.
  ConnectionId connections_end() const;
  // Sorted by domid; without domain 0.
  std::vector<IntroducedDomain> introduced_domains() const;
  // One of them; O(1).
  std::optional<IntroducedDomain> introduced_domain(std::uint32_t domid) const;
  // Whom a connection acts for; nullopt if there is none.
  std::optional<std::uint32_t> domain_of(ConnectionId id) const;
  // Sorted by domid, then in upstream's order of names.
  std::vector<QuotaRow> quotas(const ServerUsage& usage = {}) const;

  // A hash over everything two engines that executed the same inputs must agree on and that is kept in step
  // with every change: the digest, the counters, domains, connections. O(domains + connections). It does not
  // see a bit that flipped in memory: check() and scrub() do.
  std::uint64_t fingerprint() const;

  // Called, instead of answering EIO, the moment a request meets a damaged node; expected not to return.
  // Belongs to this engine: one that is assigned over it brings its own.
  using DamageHandler = std::function<void(const std::string& what)>;
  void on_damage(DamageHandler handler);

  // Walks everything: tree, counters, digest, watches, transactions. O(state).
  Status check() const;
  // Checks some `nodes` more of the tree, from where `progress` stands; true when a pass is complete. kFailed
  // says what is damaged.
  Result<bool> scrub(core::TreeScrub& progress, std::size_t nodes) const;

  // Fault `corrupt`: flips one bit of some node's value and bypasses every counter, so that check() fails.
  void flip_bit();

 private:
  friend struct core::MigrationAccess;
  friend class SnapshotWriter;
  friend Result<Engine> read_snapshot(std::span<const std::byte> bytes, const std::function<void()>& pause);
  explicit Engine(std::unique_ptr<core::State> state);

  std::unique_ptr<core::State> state_;
};

}  // namespace bulkhead::xenstore
