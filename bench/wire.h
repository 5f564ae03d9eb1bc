// One raw xenstore connection for load generators: no account of what is in flight, no checks, so that it may
// misbehave and costs little. Wire format: xen/io/xs_wire.h.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// The upstream header, not our own.
extern "C" {
#include <xen/io/xs_wire.h>
}

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::bench {

// Payload of a WRITE.
std::string write_payload(std::string_view path, std::string_view value);
// A path with its NUL.
std::string path_payload(std::string_view path);

class Wire {
 public:
  struct Message {
    std::uint32_t type = 0;
    std::uint32_t transaction = 0;
    std::string_view payload;  // valid until the next call
  };

  static Result<Wire> connect(const std::string& socket_path);

  // Appends to what flush() will send.
  void queue(std::uint32_t type, std::uint32_t transaction, std::string_view payload);
  void queue_bytes(std::string_view bytes) { output_.append(bytes); }
  std::size_t queued() const { return output_.size() - written_; }

  // Sends what the socket takes. False when the connection has ended.
  bool flush();
  // Reads once without waiting. False when the connection has ended.
  bool fill();
  // The next whole message that was read, if any.
  bool next(Message& message);
  // Waits until there is something to read, or room for what is queued.
  void wait(int timeout_ms) const;

  // Sends one request and waits for its reply; watch events that come first are dropped. An error reply is a
  // failure with the error's name. For setup: nothing else may be in flight.
  Result<std::string> call(std::uint32_t type, std::uint32_t transaction, std::string_view payload);

  BorrowedFd socket() const { return socket_.borrow(); }

 private:
  explicit Wire(UniqueFd socket) : socket_(std::move(socket)) {}

  UniqueFd socket_;
  std::string output_;
  std::size_t written_ = 0;
  std::vector<char> input_ = std::vector<char>(std::size_t{64} * 1024);
  std::size_t begin_ = 0;
  std::size_t end_ = 0;
};

}  // namespace bulkhead::bench
