// A xenstore proxy that does one thing wrong: the test of the checking clients.
#pragma once

#include <atomic>
#include <list>
#include <string>
#include <thread>

#include "tests/support/xs_client.h"

namespace bulkhead::xs {

enum class Fault : unsigned char {
  kNone,
  kDrop,           // a message to the client vanishes
  kRepeat,         // ... arrives twice
  kSwap,           // ... arrives after the next one
  kGarble,         // ... arrives with one byte of its payload changed
  kBadHeader,      // ... arrives with an impossible length
  kStale,          // ... arrives with the payload of the first of its type
  kRefuse,         // ... arrives as an error
  kHang,           // it and everything after it never arrive
  kClose,          // the connection ends before it
  kDivertRequest,  // a request goes to another node: the last byte of its path is changed
  kAlterRequest,   // a request's last byte but one is changed: a permission's domain
  kFlipEnd,        // a transaction is committed instead of aborted, or the other way round
  kLoseWrite,      // a WRITE goes to /lost, where nobody looks: acknowledged and not done
};

// Strikes the `nth` message of type `type` (a request's type for the last four faults), counted over all
// connections.
struct FaultPlan {
  Fault fault = Fault::kNone;
  xsd_sockmsg_type type = XS_INVALID;
  uint64_t nth = 0;
  bool lasting = false;  // strikes every such message from then on
};

// Listens on `socket_path` and forwards to `upstream_path` in a thread of its own until it is destroyed.
class FaultProxy {
 public:
  FaultProxy(const std::string& socket_path, std::string upstream_path, FaultPlan plan);
  ~FaultProxy();
  FaultProxy(const FaultProxy&) = delete;
  FaultProxy& operator=(const FaultProxy&) = delete;

  // The fault has struck.
  bool struck() const { return struck_; }

 private:
  struct Message {
    xsd_sockmsg header;
    std::string payload;
  };
  struct Pair {
    UniqueFd client;
    UniqueFd server;
    std::string from_client;
    std::string from_server;
    std::string held;  // waits for the next message (kSwap)
    bool hung = false;
    bool ended = false;
  };

  void run();
  void accept_one();
  void relay(Pair& pair, bool to_client);
  bool strikes(const xsd_sockmsg& header);
  void request(Pair& pair, Message message);
  void answer(Pair& pair, Message message);
  void spoil(Pair& pair, Message message);

  std::string upstream_path_;
  FaultPlan plan_;
  UniqueFd listener_;
  UniqueFd wake_;
  std::list<Pair> pairs_;
  std::string first_payload_;
  uint64_t matched_ = 0;
  std::atomic<bool> struck_ = false;
  std::thread thread_;
};

}  // namespace bulkhead::xs
