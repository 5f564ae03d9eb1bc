// Domains' xenstore rings, as far as they belong to this process: pages that are mapped and the event
// channels' descriptor. What must outlive the process is in custody (Slot); a standby maps pages ahead of
// time.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "components/xenstore/domain_ring.h"
#include "components/xenstore/engine.h"
#include "components/xenstore/import_items.h"
#include "hypervisor/hypervisor.h"
#include "runtime/instance.h"

namespace bulkhead::xenstore {

// Movable between threads under the owner's lock, not thread-safe.
class Rings {
 public:
  // No rings are served.
  Rings() = default;
  // `spec` as for hypervisor::open(); empty: no rings are served.
  static Result<Rings> open(const std::string& spec);

  bool served() const { return hypervisor_ != nullptr; }

  // ---- pages ----

  // Maps the pages of the domains that are introduced, as far as that is possible, and lets go of all others:
  // as long as somebody has a dead domain's page mapped, its memory is not freed. Cheap if nothing has
  // changed.
  void follow(const std::vector<IntroducedDomain>& domains);
  // The page of a domain, by the number of its introduction, so that a later domain's is not taken for it.
  // That of a domain that was only tried so far gets its number here.
  Result<DomainRing> map(std::uint32_t domid, std::uint32_t introduction);
  // nullptr: not mapped.
  const DomainRing* find(std::uint32_t domid) const;

  // ---- event channels: of the owner alone ----

  // Uses the descriptor in custody, and binds nothing to it. Harmless to repeat, likewise the next one.
  Status use_events(CustodyStore& store);
  // Continues with it; the first owner makes it. From then on no other program can watch domains.
  Status adopt_events(CustodyStore& store);
  BorrowedFd events() const { return hypervisor_->events(); }
  // The next port that was signalled, which can be signalled again from now on. nullopt: none.
  std::optional<std::uint32_t> take_event();
  // The domain's end of a port of ours; 0: it is not known.
  std::uint32_t remote_of(std::uint32_t domid, std::uint32_t port) {
    const auto remote = hypervisor_->remote_of(domid, port);
    return remote ? remote->value_or(0) : 0;
  }
  // Our end, bound to the domain's. try_introduction() or a predecessor may have bound it.
  Result<std::uint32_t> bind(std::uint32_t domid, std::uint32_t port);
  // Harmless to repeat.
  void unbind(std::uint32_t port) { (void)hypervisor_->unbind(port); }
  // A domain that is gone cannot be told anything, and is not missed here.
  void notify(std::uint32_t port) { (void)hypervisor_->notify(port); }
  // Who might have been told by somebody who died before he did.
  void expect_again(std::uint32_t port) { (void)hypervisor_->unmask(port); }
  bool is_domain_event(std::uint32_t port) const { return port == domain_events_; }

  // ---- domains ----

  Result<std::vector<hypervisor::Domain>> domains() { return hypervisor_->domains(); }
  // kNotFound: this host's kernel has no ring of its own.
  Result<std::uint32_t> kernel_port() { return hypervisor_->xenstore_port(); }

  // Can this domain, which is not introduced, be? Its page is mapped and its event channel bound, for map()
  // and bind(). kRefused says what is wrong.
  Status try_introduction(std::uint32_t domid, std::uint32_t port);

 private:
  static constexpr std::uint32_t kTried = 0xFFFFFFFF;  // instead of the number of an introduction
  struct Page {
    std::uint32_t introduction;
    std::unique_ptr<hypervisor::Pages> pages;
    DomainRing ring;
  };

  std::unique_ptr<hypervisor::Hypervisor> hypervisor_;
  struct Bound {
    std::uint32_t domid;
    std::uint32_t remote;
    std::uint32_t port;
  };

  std::map<std::uint32_t, Page> pages_;  // by domid
  std::optional<Bound> tried_;           // to ask the hypervisor which port it is takes long
  std::vector<std::uint32_t> followed_;  // the introductions that follow() has dealt with
  bool uses_events_ = false;
  std::uint32_t domain_events_ = 0;
};

}  // namespace bulkhead::xenstore
