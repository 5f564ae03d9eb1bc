// Calls to the supervisor over its Unix socket. The one file of the CLI that knows gRPC is client.cpp.
#pragma once

#include <google/protobuf/message.h>

#include <chrono>
#include <functional>
#include <optional>
#include <string>

#include "cli/failure.h"

namespace bulkhead::cli {

class Client {
 public:
  // `timeout`: for connecting and for each answer; without one, 5 s for queries and 60 s for actions.
  Client(std::string socket, std::optional<std::chrono::milliseconds> timeout)
      : socket_(std::move(socket)), timeout_(timeout) {}

  // The rpc is the one of bulkhead.v1.Supervisor that takes a message of `request`'s type. `response` is what
  // it returns. A query is asked again, within the timeout, when the connection breaks; an action never.
  Outcome<void> query(const google::protobuf::Message& request, google::protobuf::Message& response) const;
  Outcome<void> act(const google::protobuf::Message& request, google::protobuf::Message& response) const;

  // What to do with a stream: `on_element` looks at the element and says whether to go on.
  struct Watcher {
    std::function<bool()> on_element;
    // The stream was interrupted (the edge was restarted, or we were too slow) and has been opened again:
    // elements may be missing or come twice.
    std::function<void(const std::string& why)> on_gap;
  };
  // Returns when `on_element` says false, or fails: at once if the first attempt does, else when the
  // supervisor has been out of reach for the timeout.
  Outcome<void> watch(const google::protobuf::Message& request, google::protobuf::Message& element,
                      const Watcher& watcher) const;

 private:
  std::chrono::milliseconds query_timeout() const { return timeout_.value_or(std::chrono::seconds(5)); }

  std::string socket_;
  std::optional<std::chrono::milliseconds> timeout_;
};

}  // namespace bulkhead::cli
