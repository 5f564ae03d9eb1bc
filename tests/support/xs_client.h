// A pipelining xenstore client over the Unix socket, for tests and benchmarks. It keeps its own account of
// what it asked and reports every reply that is lost, repeated, out of order or torn. Wire format:
// xen/io/xs_wire.h.
#pragma once

#include <sys/types.h>

#include <cstddef>
#include <deque>
#include <string>
#include <string_view>
#include <vector>

// The upstream header, not our own: what we test must not be checked against itself.
extern "C" {
#include <xen/io/xs_wire.h>
}

#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "tests/support/anomaly.h"

namespace bulkhead::xs {

// CLOCK_MONOTONIC in nanoseconds.
int64_t monotonic_ns();

class XsClient;

// A reply matched to its request. `payload` is valid during the call only.
struct Reply {
  XsClient* client = nullptr;
  xsd_sockmsg_type type = XS_INVALID;  // the request's type
  bool error = false;                  // `payload` is then the error's name without its NUL
  uint64_t cookie = 0;                 // given to send()
  int64_t sent_ns = 0;
  int64_t received_ns = 0;
  std::string_view payload;
};

class Listener {
 public:
  virtual ~Listener() = default;
  virtual void on_reply(const Reply& reply) = 0;
  virtual void on_event(XsClient& client, std::string_view path, std::string_view token) = 0;
};

// One connection. Non-blocking: send() queues, flush() writes what the socket takes, receive() reads and
// dispatches. Single-threaded. The AnomalyLog must outlive it.
class XsClient {
 public:
  static Result<UniqueFd> connect(const std::string& socket_path);

  XsClient(UniqueFd socket, std::string name, AnomalyLog& log)
      : socket_(std::move(socket)), name_(std::move(name)), log_(log) {}

  // `payload` goes out as it is: the caller adds the NULs the request wants.
  void send(xsd_sockmsg_type type, uint32_t transaction, std::string_view payload, uint64_t cookie = 0);
  void flush();
  // Reads once, up to 64 KiB, and calls `listener` for each whole message. Returns the number of messages.
  size_t receive(Listener& listener);
  // Sends one request and waits for its reply, for setup and tests; nothing else may be in flight. Events
  // that arrive meanwhile go to `listener`, or are dropped without one. An error reply is a failure with the
  // error's name.
  Result<std::string> call(xsd_sockmsg_type type, uint32_t transaction, std::string_view payload,
                           Listener* listener = nullptr);

  // Reports requests that got no answer: those overtaken as lost, those older than `limit_ns` as unanswered.
  void expire(int64_t now_ns, int64_t limit_ns);

  bool connected() const { return !closed_; }
  // Connected, and every request was answered in time so far.
  bool responsive() const { return !closed_ && !unanswered_; }
  bool output_pending() const { return written_ < output_.size(); }
  // Requests without an answer, overtaken ones not counted.
  size_t in_flight() const { return pending_.size() - overtaken_; }
  BorrowedFd socket() const { return socket_.borrow(); }
  const std::string& name() const { return name_; }
  uint64_t replies() const { return replies_; }
  AnomalyLog& log() { return log_; }

 private:
  struct Pending {
    uint32_t id;
    xsd_sockmsg_type type;
    uint32_t transaction;
    bool overtaken;
    uint64_t cookie;
    int64_t sent_ns;
  };

  void disconnected(std::string_view why);
  bool dispatch(Listener& listener, size_t& messages);
  void reply(const xsd_sockmsg& header, std::string_view payload, Listener& listener);
  void event(std::string_view payload, Listener& listener);
  bool take_pending(const xsd_sockmsg& header, Pending& taken);

  UniqueFd socket_;
  std::string name_;
  AnomalyLog& log_;
  std::deque<Pending> pending_;
  size_t overtaken_ = 0;
  std::string output_;
  size_t written_ = 0;
  std::vector<char> input_ = std::vector<char>(size_t{128} * 1024);
  size_t have_ = 0;
  uint32_t next_id_ = 1;
  uint64_t replies_ = 0;
  int64_t read_ns_ = 0;
  bool closed_ = false;
  bool unanswered_ = false;
};

}  // namespace bulkhead::xs
