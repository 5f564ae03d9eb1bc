// The server's half that serves domains' rings. Custody leads: positions are counted there first, and the
// ring's own indexes, which a domain could change, are derived from them; so whatever instant an owner dies
// at, its successor publishes what custody says, and the domain sees every byte once.
#include <spdlog/spdlog.h>

#include <algorithm>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/domains.h"
#include "components/xenstore/protocol.h"
#include "components/xenstore/server.h"
#include "runtime/clock.h"

namespace bulkhead::xenstore {
namespace {

constexpr int kEventsAtOnce = 64;  // then others have their turn
// A domain that begins anew again and again is slowed down to this.
constexpr std::int64_t kReconnectPause = 10 * kMillisecond;
constexpr std::int64_t kJournalPause = kMillisecond;

}  // namespace

// ---- takeover ----

// Before anything else is done with a ring: this process has the pages and event channels of all of them.
Status Server::adopt_rings() {
  for (std::uint32_t i = 0; i < connections_.slots_used(); ++i) {
    const Slot& slot = connections_.slot(i);
    if (slot.state.load() == SlotState::kFree || !slot.is_ring()) continue;
    if (!rings_.served()) {
      return failure(ErrorKind::kInvalid,
                     "custody holds domains' rings, but the setting `hypervisor` says that there are none");
    }
    if (slot.state.load() != SlotState::kOpen) continue;
    connections_.finish_sent(i, DomainRing::kBytes);
    ring_slots_[slot.domid] = i;
    ring_ports_[slot.ring_port] = i;
  }
  if (!rings_.served()) return {};
  if (auto adopted = rings_.adopt_events(instance_); !adopted) return adopted;
  for (const auto& [domid, slot] : ring_slots_) {
    if (auto mapped = rings_.map(domid, connections_.slot(slot).introduction); !mapped) {
      spdlog::warn("domain {}: its ring cannot be mapped: {}", domid, mapped.error().message());
    }
  }
  return {};
}

Status Server::resume_rings() {
  if (!rings_.served()) return {};
  for (const auto& [domid, slot] : std::unordered_map(ring_slots_)) resume_ring(slot);
  if (auto serving = serve_kernel(); !serving) return serving;
  settle_domains();
  check_domains();
  arm_poll(Operation::kEvents, rings_.events());
  return {};
}

// Every domain's event is taken for one that the predecessor did not see, and every domain is woken, as the
// predecessor may have died before it did.
void Server::resume_ring(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  const DomainRing* ring = rings_.find(slot.domid);
  if (ring == nullptr) return;
  if (slot.end_of_input.load() != 0) return silence(index, DomainRing::Fault::kCommunication);
  const auto domain = replica_.engine().introduced_domain(slot.domid);
  ring->announce(domain ? domain->features : core::kServerFeatures);
  if (!ring->wants_reconnection()) {
    ring->consumed(slot.request_index(slot.received.load()));
    ring->produced(slot.response_index(slot.sent.load()));
  }
  rings_.expect_again(slot.ring_port);
  rings_.notify(slot.ring_port);
  mark_flush(index);
}

// The kernel of the host itself, domain 0: nobody introduces it, and it goes on wherever its ring stands.
Status Server::serve_kernel() {
  if (no_kernel_ || ring_slots_.contains(0)) return {};
  auto port = rings_.kernel_port();
  no_kernel_ = !port && port.error().kind() == ErrorKind::kNotFound;
  if (no_kernel_) return {};
  if (!port) return forward(std::move(port));
  auto served = attach({0, *port, 0, false, core::kServerFeatures}, Begin::kWhereItIs);
  if (!served) {
    return forward(std::move(served), "cannot serve this host's kernel (is another xenstored running?)");
  }
  return {};
}

// ---- bytes ----

void Server::take_events() {
  events_due_ = false;
  for (int i = 0; i < kEventsAtOnce; ++i) {
    const auto port = rings_.take_event();
    if (!port) return;
    if (rings_.is_domain_event(*port)) {
      domains_due_ = true;
    } else if (const auto found = ring_ports_.find(*port); found != ring_ports_.end()) {
      mark_flush(found->second);
    }
  }
  events_due_ = true;
}

void Server::exchange(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  const DomainRing* ring = rings_.find(slot.domid);
  if (ring == nullptr) return;
  if (ring->wants_reconnection()) return reconnect(index);
  if (slot.end_of_input.load(std::memory_order_relaxed) != 0) return;
  bool changed = give_responses(index, *ring);
  changed = take_requests(index, *ring) || changed;
  if (!changed) return;
  kRingUntold.pass();
  rings_.notify(slot.ring_port);
}

// Until there is no room or nothing more. True if there is something for the domain to see.
bool Server::give_responses(std::uint32_t index, const DomainRing& ring) {
  Slot& slot = connections_.slot(index);
  bool gave = false;
  while (connections_.output_pending(index)) {
    auto bytes = connections_.send_source(index);
    bytes = bytes.first(std::min<std::size_t>(bytes.size(), DomainRing::kBytes));
    if (!connections_.output_sound(index, bytes.size())) {
      cut_damaged(index, "its output");
      return false;
    }
    const std::uint64_t sent = slot.sent.load(std::memory_order_relaxed);
    const auto written = ring.put(slot.response_index(sent), bytes);
    if (!written) {
      cut(index, "set an impossible index of its responses", DomainRing::Fault::kIndexes);
      return false;
    }
    if (*written == 0) break;
    kRingWritten.pass();
    connections_.set_sent(index, sent + *written);
    kRingSent.pass();
    ring.produced(slot.response_index(sent + *written));
    gave = true;
  }
  if (!gave) return false;
  executor_.delivery().sent(index);
  if (!answered_) {
    answered_ = true;
    instance_.vitals().first_answer_ns.store(monotonic_ns());
  }
  if (!connections_.output_pending(index)) connections_.shrink_output(index);
  unthrottle(slot.domid);
  queue_.add(index);  // there may be room again for requests that waited
  return true;
}

bool Server::take_requests(std::uint32_t index, const DomainRing& ring) {
  Slot& slot = connections_.slot(index);
  bool took = false;
  // Twice: the free part of the buffer may be in two pieces. What the domain writes meanwhile makes an event.
  for (int piece = 0; piece < 2 && slot.end_of_input.load(std::memory_order_relaxed) == 0; ++piece) {
    const auto space = connections_.receive_space(index);
    const std::uint64_t received = slot.received.load(std::memory_order_relaxed);
    const auto copied = ring.take(slot.request_index(received), space);
    if (!copied) {
      cut(index, "set an impossible index of its requests", DomainRing::Fault::kIndexes);
      return false;
    }
    if (*copied == 0) break;
    kRingCopied.pass();
    if (!connections_.open_input(index)) {
      cut_damaged(index, "its input");
      return false;
    }
    slot.received.store(received + *copied);
    kRingCounted.pass();
    ring.consumed(slot.request_index(received + *copied));
    took = true;
  }
  if (took) queue_.add(index);
  return took;
}

// ---- beginning and end ----

// The first free slot that no accept is under way for.
std::optional<std::uint32_t> Server::free_slot() const {
  for (std::uint32_t i = maybe_free_; i < connections_.capacity(); ++i) {
    if (connections_.slot(i).state.load(std::memory_order_relaxed) == SlotState::kFree && i != accepting_)
      return i;
  }
  return std::nullopt;
}

Status Server::attach(const IntroducedDomain& domain, Begin begin, std::uint64_t strikes) {
  auto ring = rings_.map(domain.domid, domain.introduction);
  if (!ring) return forward(std::move(ring));
  auto port = rings_.bind(domain.domid, domain.port);
  if (!port) return forward(std::move(port));
  const auto slot = free_slot();
  if (!slot) {
    rings_.unbind(*port);
    unattached_ = true;
    return failure(ErrorKind::kExhausted, "all " + std::to_string(connections_.capacity()) +
                                              " connections are in use; raise max_connections");
  }
  Executor::Ring where{*port, domain.introduction, 0, 0, strikes};
  if (begin == Begin::kAnew) {
    ring->clear();
  } else {
    where.request_base = ring->consumed_so_far();
    where.response_base = ring->produced_so_far();
  }
  executor_.connect(*slot, domain.domid, &where);
  flights_[*slot] = Flight{.flushing = flights_[*slot].flushing};
  ring_slots_[domain.domid] = *slot;
  ring_ports_[*port] = *slot;
  kRingOpened.pass();
  ring->announce(domain.features);
  ring->set_fault(DomainRing::Fault::kNone);
  ring->set_connected();
  rings_.notify(*port);
  mark_flush(*slot);
  return {};
}

// A slot whose end is committed.
void Server::finish_detach(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  rings_.unbind(slot.ring_port);
  kRingUnbound.pass();
  ring_ports_.erase(slot.ring_port);
  if (const auto found = ring_slots_.find(slot.domid); found != ring_slots_.end() && found->second == index) {
    ring_slots_.erase(found);
  }
  connections_.set_sent(index, slot.produced.load());
  free_again(index);
}

void Server::reconnect(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (quarantine_.strikes(index) >= settings_.poison_limit) return;  // cut off for good
  const std::int64_t now = monotonic_ns();
  if (now < flights_[index].reconnect_ns) return delay(index, flights_[index].reconnect_ns);
  if (!executor_.can_journal()) return delay(index, now + kJournalPause);
  const auto domain = replica_.engine().introduced_domain(slot.domid);
  if (!domain) return;
  const std::uint64_t strikes = slot.strikes.load();
  begin_close(index);
  if (auto attached = attach(*domain, Begin::kAnew, strikes); !attached) {
    spdlog::warn("domain {} cannot begin anew: {}", domain->domid, attached.error().message());
    return;
  }
  flights_[ring_slots_.at(domain->domid)].reconnect_ns = now + kReconnectPause;
}

// A domain cannot be disconnected as a client can: it is told, and not listened to until it, or the
// toolstack, begins anew.
void Server::silence(std::uint32_t index, DomainRing::Fault fault) {
  Slot& slot = connections_.slot(index);
  slot.end_of_input.store(1);
  kRingSilenced.pass();
  if (!executor_.can_journal()) {
    silenced_.push_back(index);
    return;
  }
  connections_.set_sent(index, slot.produced.load());
  executor_.delivery().sent(index);
  executor_.reset(index);
  connections_.seal_input(index);
  slot.overflowed.store(0);
  unthrottle(slot.domid);
  const DomainRing* ring = rings_.find(slot.domid);
  if (ring == nullptr) return;
  ring->set_fault(fault);
  rings_.notify(slot.ring_port);
}

void Server::silence_waiting() {
  if (silenced_.empty() || !executor_.can_journal()) return;
  for (const std::uint32_t index : std::exchange(silenced_, {})) {
    const Slot& slot = connections_.slot(index);
    if (slot.state.load() == SlotState::kOpen && slot.is_ring() && slot.end_of_input.load() != 0) {
      silence(index, DomainRing::Fault::kCommunication);
    }
  }
}

// ---- domains ----

// The toolstack is told at once if a domain's ring cannot be served.
bool Server::can_introduce(const Request& request) {
  const auto asked = parse_introduction(as_text(request.payload));
  if (!asked || asked->domid == 0) return true;  // the engine knows what to say
  if (replica_.engine().introduced_domain(asked->domid)) return true;
  auto possible = rings_.try_introduction(asked->domid, asked->port);
  if (!possible) spdlog::warn("domain {} cannot be introduced: {}", asked->domid, possible.error().message());
  return possible.has_value();
}

// Every introduced domain's ring is served, and no other's.
void Server::settle_domains() {
  domains_changed_ = unattached_ = false;
  if (!rings_.served()) return;  // domains are what clients say of them
  const auto domains = replica_.engine().introduced_domains();
  for (const auto& [domid, slot] : std::unordered_map(ring_slots_)) {
    const auto domain = replica_.engine().introduced_domain(domid);
    const bool current = domain && domain->introduction == connections_.slot(slot).introduction;
    if (domid != 0 && !current) begin_close(slot);
  }
  rings_.follow(domains);
  if (auto served = serve_kernel(); !served) spdlog::error("{}", served.error().message());
  for (const IntroducedDomain& domain : domains) {
    if (ring_slots_.contains(domain.domid)) continue;
    if (!executor_.can_journal()) {
      domains_changed_ = true;  // once a snapshot has made room
      return;
    }
    auto attached = attach(domain, Begin::kAnew);
    if (attached) continue;
    const std::string name = "domain " + std::to_string(domain.domid);
    const std::string text = name + ": its xenstore ring cannot be served: " + attached.error().message();
    spdlog::error("{}", text);
    (void)instance_.send_finding("client", text, name);
  }
}

// What became of the domains that are introduced.
void Server::check_domains() {
  domains_due_ = false;
  const auto living = rings_.domains();
  if (!living) {
    spdlog::error("cannot ask the hypervisor for its domains: {}", living.error().message());
    return;
  }
  for (const IntroducedDomain& domain : replica_.engine().introduced_domains()) {
    if (!executor_.can_journal()) {
      domains_due_ = true;
      break;
    }
    const auto found = std::ranges::lower_bound(*living, domain.domid, {}, &hypervisor::Domain::domid);
    const bool lives = found != living->end() && found->domid == domain.domid && !found->dying;
    if (!lives) {
      executor_.domain_gone(domain.domid);
      kDomainSettled.pass();
    } else if (found->shut_down && !domain.shut_down) {
      executor_.domain_shut_down(domain.domid);
    }
  }
  if (executor_.take_domains_changed()) settle_domains();
  settle();
}

}  // namespace bulkhead::xenstore
