#include "components/xenstore/delivery.h"

#include <algorithm>
#include <utility>

#include "components/xenstore/crash_points.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {

void Delivery::count(std::uint32_t index, const Header& header, std::uint32_t by) {
  for (Waiting* waiting : {&counted_[index].waiting, &domains_[connections_.slot(index).domid].waiting}) {
    (header.type == kWatchEvent ? waiting->events : waiting->replies) += by;
  }
}

void Delivery::opened(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (slot.domid == 0) return;
  counted_[index] = {.open = true, .up_to = slot.boundary.load(), .waiting = {}};
  domains_[slot.domid].slots.push_back(index);
  produced(index);
  sent(index);
}

void Delivery::produced(std::uint32_t index) {
  if (!counted_[index].open) return;
  const std::uint64_t end = connections_.slot(index).produced.load(std::memory_order_relaxed);
  for (std::uint64_t& at = counted_[index].up_to; at < end;) {
    const Header header = connections_.output_header(index, at);
    count(index, header, 1);
    at += sizeof header + header.length;
  }
}

void Delivery::sent(std::uint32_t index) {
  if (!counted_[index].open) return;
  Slot& slot = connections_.slot(index);
  const std::uint64_t sent = slot.sent.load(std::memory_order_relaxed);
  std::uint64_t boundary = slot.boundary.load(std::memory_order_relaxed);
  while (boundary < sent) {
    const Header header = connections_.output_header(index, boundary);
    const std::uint64_t end = boundary + sizeof header + header.length;
    if (end > sent) break;
    count(index, header, ~std::uint32_t{0});  // one less
    boundary = end;
  }
  if (boundary == slot.boundary.load(std::memory_order_relaxed)) return;
  kBoundaryBehind.pass();
  slot.boundary.store(boundary);
}

void Delivery::closed(std::uint32_t index) {
  const Counted gone = std::exchange(counted_[index], Counted{});
  if (!gone.open) return;
  const auto domain = domains_.find(connections_.slot(index).domid);
  domain->second.waiting.replies -= gone.waiting.replies;
  domain->second.waiting.events -= gone.waiting.events;
  std::erase(domain->second.slots, index);
  if (domain->second.slots.empty()) domains_.erase(domain);
}

Delivery::Waiting Delivery::of_domain(std::uint32_t domid) const {
  const auto found = domains_.find(domid);
  return found == domains_.end() ? Waiting{} : found->second.waiting;
}

std::uint64_t Delivery::most_bytes_of_domain(std::uint32_t domid) const {
  const auto found = domains_.find(domid);
  std::uint64_t most = 0;
  if (found == domains_.end()) return most;
  for (const std::uint32_t slot : found->second.slots) most = std::max(most, connections_.unsent(slot));
  return most;
}

}  // namespace bulkhead::xenstore
