#include "components/xenstore/domain_ring.h"

extern "C" {
#include <xen/io/xs_wire.h>
}

#include <algorithm>
#include <atomic>

#include "components/xenstore/ring_pieces.h"

namespace bulkhead::xenstore {
namespace {

using Page = ::xenstore_domain_interface;

static_assert(DomainRing::kBytes == XENSTORE_RING_SIZE);
static_assert(sizeof(Page) <= 4096);
static_assert(offsetof(Page, req_cons) == 2048 && offsetof(Page, error) == 2072);

std::atomic_ref<std::uint32_t> word(std::byte* page, std::size_t offset) {
  return std::atomic_ref(*reinterpret_cast<std::uint32_t*>(page + offset));
}
std::span<std::byte> requests(std::byte* page) {
  return {page + offsetof(Page, req), DomainRing::kBytes};
}
std::span<std::byte> responses(std::byte* page) {
  return {page + offsetof(Page, rsp), DomainRing::kBytes};
}

}  // namespace

std::optional<std::size_t> DomainRing::take(std::uint32_t at, std::span<std::byte> to) const {
  const std::uint32_t waits = word(page_, offsetof(Page, req_prod)).load(std::memory_order_acquire) - at;
  if (waits > kBytes) return std::nullopt;
  const auto [first, second] = ring_pieces(requests(page_), at, std::min<std::size_t>(waits, to.size()));
  std::ranges::copy(second, std::ranges::copy(first, to.begin()).out);
  return first.size() + second.size();
}

std::optional<std::size_t> DomainRing::put(std::uint32_t at, std::span<const std::byte> from) const {
  const std::uint32_t unread = at - word(page_, offsetof(Page, rsp_cons)).load(std::memory_order_acquire);
  if (unread > kBytes) return std::nullopt;
  const auto [first, second] =
      ring_pieces(responses(page_), at, std::min<std::size_t>(kBytes - unread, from.size()));
  std::ranges::copy(from.first(first.size()), first.begin());
  std::ranges::copy(from.subspan(first.size(), second.size()), second.begin());
  return first.size() + second.size();
}

// Sequentially consistent, as is the load in take() behind it: what the domain writes after it has seen this
// makes an event, what it wrote before is seen by whoever looks again.
void DomainRing::consumed(std::uint32_t index) const {
  word(page_, offsetof(Page, req_cons)).store(index);
}
void DomainRing::produced(std::uint32_t index) const {
  word(page_, offsetof(Page, rsp_prod)).store(index);
}

std::uint32_t DomainRing::consumed_so_far() const {
  return word(page_, offsetof(Page, req_cons)).load();
}
std::uint32_t DomainRing::produced_so_far() const {
  return word(page_, offsetof(Page, rsp_prod)).load();
}

bool DomainRing::wants_reconnection() const {
  return word(page_, offsetof(Page, connection)).load() == XENSTORE_RECONNECT;
}

void DomainRing::clear() const {
  for (const std::size_t index : {offsetof(Page, req_cons), offsetof(Page, req_prod),
                                  offsetof(Page, rsp_cons), offsetof(Page, rsp_prod)}) {
    word(page_, index).store(0);
  }
}

void DomainRing::announce(std::uint32_t features) const {
  word(page_, offsetof(Page, server_features)).store(features);
}
void DomainRing::set_fault(Fault fault) const {
  word(page_, offsetof(Page, error)).store(static_cast<std::uint32_t>(fault));
}
void DomainRing::set_connected() const {
  word(page_, offsetof(Page, connection)).store(XENSTORE_CONNECTED);
}

}  // namespace bulkhead::xenstore
