// A connection to a xenstore service for a client that does not keep the rules: it sends whatever bytes it is
// given, as slowly as it likes, and reads only if it likes to. Never blocks.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::xs {

// A message as it goes over the wire (xen/io/xs_wire.h); `claimed` instead of the payload's length, if given.
std::string wire_message(std::uint32_t type, std::uint32_t transaction, std::string_view payload,
                         std::int64_t claimed = -1);

// What came back on one or many connections.
struct Heard {
  std::uint64_t replies = 0;  // with errors
  std::uint64_t events = 0;
  std::map<std::string, std::uint64_t> errors;  // by name
  std::vector<std::string> forbidden;           // texts that should never be heard, and were
  std::string broken;                           // what the service sent that is no message; empty: nothing
};

class HostileSocket {
 public:
  // Waits for room in the listener's backlog, at most 20 s.
  static Result<HostileSocket> connect(const std::string& socket_path);

  void put(std::string_view bytes) { output_ += bytes; }
  std::size_t unsent() const { return output_.size() - written_; }
  // Writes what the socket takes of up to `most` bytes; returns how many.
  std::size_t push(std::size_t most);
  // Reads up to 64 KiB and counts the messages into `heard`. `forbidden`: texts no message may contain.
  void pull(Heard& heard, const std::vector<std::string>& forbidden);

  // For those that do not read: is the service's end still there?
  void notice_close();

  bool closed() const { return closed_; }  // by the service
  // Messages that were answered, the last reply's payload, and whether that was an error.
  std::uint64_t replies() const { return replies_; }
  const std::string& last_reply() const { return last_reply_; }
  bool last_failed() const { return last_failed_; }
  std::uint64_t sent() const { return sent_; }  // bytes
  BorrowedFd fd() const { return socket_.borrow(); }

 private:
  explicit HostileSocket(UniqueFd socket) : socket_(std::move(socket)) {}
  void message(std::uint32_t type, std::string_view payload, Heard& heard,
               const std::vector<std::string>& forbidden);

  UniqueFd socket_;
  std::string output_;
  std::size_t written_ = 0;
  std::string input_;
  std::string last_reply_;
  std::uint64_t replies_ = 0;
  std::uint64_t sent_ = 0;
  bool last_failed_ = false;
  bool closed_ = false;
};

}  // namespace bulkhead::xs
