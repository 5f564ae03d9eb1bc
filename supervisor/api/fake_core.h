// A stand-in for bulkheadd at the other end of the edge's socket, for tests of the edge and the CLI: it
// speaks the EdgeRequest contract, holds a list of components, and answers everything else as the test says.
#pragma once

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "bulkhead/contract/v1/contract.pb.h"
#include "bulkhead/v1/bulkhead.pb.h"
#include "runtime/unique_fd.h"
#include "supervisor/api/core_link.h"

namespace bulkhead::edge {

// Thread-safe. Aborts on failures of the system: it is for tests.
class FakeCore {
 public:
  using Responder = std::function<void(const contract::v1::EdgeRequest& request)>;

  FakeCore();
  FakeCore(const FakeCore&) = delete;
  FakeCore& operator=(const FakeCore&) = delete;
  ~FakeCore();

  // A fresh connection; the returned end is the edge's. The one before is dropped.
  UniqueFd connect();
  // Closes this end for good.
  void hang_up();
  // Not reading, as while the core is dead and its end is parked.
  void pause();
  void resume();
  // A new core takes over: other identity, and whatever the old one was asked is forgotten.
  void restart();

  // Answers `method` from now on; replaces the built-in answers to GetVersion, ListComponents,
  // WatchComponents.
  void on(const std::string& method, Responder responder);
  void set_component(const v1::Component& component);

  void answer(std::uint64_t id, const google::protobuf::MessageLite& body);
  void refuse(std::uint64_t id, Code code, const std::string& message);
  void element(std::uint64_t id, const google::protobuf::MessageLite& body);

  // The nth request for `method` since the beginning, waiting for it up to 10 s. The edge's own calls count
  // too.
  std::optional<contract::v1::EdgeRequest> wait_for(const std::string& method, std::size_t nth = 0);
  bool wait_for_cancel(std::uint64_t id);
  std::size_t count(const std::string& method);

 private:
  void run();
  void receive();
  void handle(const contract::v1::EdgeRequest& request);
  bool answer_built_in(const contract::v1::EdgeRequest& request);
  void send(const contract::v1::EdgeReply& reply);

  UniqueFd wake_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool stopping_ = false;
  bool paused_ = false;
  UniqueFd socket_;
  std::int64_t generation_ = 1;
  std::map<std::string, Responder> responders_;
  std::map<std::string, v1::Component> components_;
  std::set<std::uint64_t> watchers_;
  std::vector<contract::v1::EdgeRequest> requests_;
  std::set<std::uint64_t> cancelled_;
  std::thread thread_;
};

}  // namespace bulkhead::edge
