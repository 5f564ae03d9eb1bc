// Clients that attack a xenstore service, described by data: what they send, how fast, whether they read.
// Driven one turn at a time by whoever runs them; nothing here blocks after open() or sleeps.
#pragma once

#include <poll.h>

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "tests/support/hostile_socket.h"

namespace bulkhead::xs {

enum class Behaviour : unsigned char {
  kRequests,      // the requests of the script, again and again
  kHalfMessages,  // a header and the beginning of its payload, and then nothing more
  kOversized,     // a header that promises more than the protocol allows
  kGarbage,       // bytes that are no messages
  kPayloads,      // whole messages of every type, of random bytes
  kResets,        // connects, sends half a message, leaves; again and again
};
enum class Reading : unsigned char { kAlways, kNever, kByte };  // kByte: one byte a turn

struct HostileScript {
  Behaviour behaviour = Behaviour::kRequests;
  Reading reads = Reading::kAlways;
  bool byte_by_byte = false;  // sends one byte a turn
  std::uint32_t domain = 0;   // whom it acts for; arranged by whoever runs it
  std::uint32_t connections = 1;
  std::uint64_t messages = 1000;  // on each connection; kResets: how often it leaves
  std::uint32_t length = 4097;    // kOversized: what the header claims
  std::uint64_t in_flight = 16;  // requests on a connection without an answer; not for those that do not read
  std::vector<std::string> begin;   // requests, sent first on each connection
  std::uint64_t begin_times = 1;    // so many times
  std::vector<std::string> repeat;  // requests, in turn
  std::vector<std::string> must_not_hear;
};

// "WRITE a/b value": type and arguments, each of which ends with NUL except the last one of WRITE. In an
// argument {n} is the message's number, {c} the connection's, {x*20} twenty times x, {nul} a NUL; the prefix
// "tx:" puts the request into the transaction that the connection began last. kInvalid: no such type.
Status check_request(std::string_view text);
std::string encode_request(std::string_view text, std::uint64_t number, std::uint32_t connection,
                           std::uint32_t transaction);

class HostileClients {
 public:
  HostileClients(HostileScript script, std::string socket_path)
      : script_(std::move(script)), socket_path_(std::move(socket_path)) {}

  // Connects them all. Each has proved that it acts for its domain when this returns.
  Status open();
  // One turn of each connection.
  void step();
  // Everything is sent and, by those that read, answered; or the connection is gone.
  bool done() const;
  // Adds the connections on which something to read would let it go on.
  void await_answers(std::vector<pollfd>& to) const;

  const HostileScript& script() const { return script_; }
  const Heard& heard() const { return heard_; }
  std::size_t open_connections() const;
  // Bytes that the service's side has taken from all connections so far.
  std::uint64_t sent() const { return sent_; }
  // Some connection has bytes to send that the service does not take.
  bool stuck() const;
  // Error that ended open() or a later connect.
  const std::string& error() const { return error_; }

 private:
  struct Link {
    HostileSocket socket;
    std::uint32_t number;
    std::uint64_t made = 0;  // messages put into the socket so far
    std::uint64_t transaction = 0;
    std::uint64_t first_reply = 0;  // replies of open()
    bool begins = false;            // the last request made begins a transaction
  };

  Result<HostileSocket> connect_as_domain() const;
  void fill(Link& link);
  void fill_requests(Link& link);
  void read(Link& link);
  void reset(Link& link);
  std::string random_bytes(std::size_t most);
  bool link_done(const Link& link) const;
  std::uint64_t beginning() const { return script_.begin.size() * script_.begin_times; }
  std::uint64_t wanted() const;

  HostileScript script_;
  std::string socket_path_;
  std::vector<Link> links_;
  Heard heard_;
  std::string error_;
  std::uint64_t sent_ = 0;
  std::uint64_t random_ = 0x9e3779b97f4a7c15;
};

}  // namespace bulkhead::xs
