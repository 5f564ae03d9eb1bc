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

  // Takeover: counts what waits for this client. Does nothing for a client of domain 0, like all that follow.
  void resume(std::uint32_t slot);
  // After a commit that may have produced output for it.
  void produced(std::uint32_t slot);
  // After bytes were sent: messages that went out as a whole wait no more.
  void sent(std::uint32_t slot);
  // The connection is no more.
  void ended(std::uint32_t slot);

  Waiting of_connection(std::uint32_t slot) const;
  // Of all connections of the domain.
  Waiting of_domain(std::uint32_t domid) const;

 private:
  struct Counted {
    std::uint64_t up_to = 0;  // messages before this offset have been counted
    Waiting waiting;
  };
  void count(std::uint32_t slot, const Header& header, std::int32_t by);

  Connections& connections_;
  std::vector<Counted> counted_;
  std::unordered_map<std::uint32_t, Waiting> domains_;
};

}  // namespace bulkhead::xenstore
