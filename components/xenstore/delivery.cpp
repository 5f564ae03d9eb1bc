#include "components/xenstore/delivery.h"

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore {

void Delivery::count(std::uint32_t index, const Header& header, std::int32_t by) {
  Waiting& domain = domains_[connections_.slot(index).domid];
  for (Waiting* waiting : {&counted_[index].waiting, &domain}) {
    std::uint32_t& number = header.type == kWatchEvent ? waiting->events : waiting->replies;
    number += static_cast<std::uint32_t>(by);
  }
}

void Delivery::resume(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (slot.domid == 0) return;
  counted_[index] = {slot.boundary.load(), {}};
  produced(index);
  sent(index);
}

void Delivery::produced(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (slot.domid == 0) return;
  const std::uint64_t end = slot.produced.load(std::memory_order_relaxed);
  for (std::uint64_t& at = counted_[index].up_to; at < end;) {
    const Header header = connections_.output_header(index, at);
    count(index, header, 1);
    at += sizeof header + header.length;
  }
}

void Delivery::sent(std::uint32_t index) {
  Slot& slot = connections_.slot(index);
  if (slot.domid == 0) return;
  const std::uint64_t sent = slot.sent.load(std::memory_order_relaxed);
  std::uint64_t boundary = slot.boundary.load(std::memory_order_relaxed);
  while (boundary < sent) {
    const Header header = connections_.output_header(index, boundary);
    const std::uint64_t end = boundary + sizeof header + header.length;
    if (end > sent) break;
    count(index, header, -1);
    boundary = end;
  }
  slot.boundary.store(boundary);
}

void Delivery::ended(std::uint32_t index) {
  const Slot& slot = connections_.slot(index);
  if (slot.domid == 0) return;
  const Waiting gone = std::exchange(counted_[index], Counted{}).waiting;
  const auto domain = domains_.find(slot.domid);
  if (domain == domains_.end()) return;
  domain->second.replies -= gone.replies;
  domain->second.events -= gone.events;
  if (domain->second.replies == 0 && domain->second.events == 0) domains_.erase(domain);
}

Delivery::Waiting Delivery::of_connection(std::uint32_t index) const {
  return counted_[index].waiting;
}

Delivery::Waiting Delivery::of_domain(std::uint32_t domid) const {
  const auto found = domains_.find(domid);
  return found == domains_.end() ? Waiting{} : found->second;
}

}  // namespace bulkhead::xenstore
