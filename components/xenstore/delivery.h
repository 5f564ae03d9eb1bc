// What waits to be read by the clients of unprivileged domains, message by message: their quota of
// outstanding requests counts replies that were not read. Exact across owners: it is counted from the output
// buffers in custody.
#pragma once

#include <cstdint>
#include <unordered_map>
#include <vector>

#include "components/xenstore/connections.h"

namespace bulkhead::xenstore {

class Delivery {
 public:
  struct Waiting {
    std::uint32_t replies = 0;
    std::uint32_t events = 0;
  };

  explicit Delivery(Connections& connections) : connections_(connections), counted_(connections.capacity()) {}

  // A connection is open: new, or found at the takeover with output that waits. Nothing here does anything
  // for a connection of domain 0.
  void opened(std::uint32_t slot);
  // After a commit that may have produced output for it.
  void produced(std::uint32_t slot);
  // After bytes were sent: messages that went out as a whole wait no more.
  void sent(std::uint32_t slot);
  // The engine has forgotten it; what waits is nobody's.
  void closed(std::uint32_t slot);

  Waiting of_connection(std::uint32_t slot) const { return counted_[slot].waiting; }
  // Of all connections of the domain.
  Waiting of_domain(std::uint32_t domid) const;
  // Bytes that wait for the connection of the domain for which most do.
  std::uint64_t most_bytes_of_domain(std::uint32_t domid) const;

 private:
  struct Counted {
    bool open = false;
    std::uint64_t up_to = 0;  // messages before this offset have been counted
    Waiting waiting;
  };
  struct Domain {
    Waiting waiting;
    std::vector<std::uint32_t> slots;
  };
  void count(std::uint32_t slot, const Header& header, std::uint32_t by);

  Connections& connections_;
  std::vector<Counted> counted_;
  std::unordered_map<std::uint32_t, Domain> domains_;
};

}  // namespace bulkhead::xenstore
