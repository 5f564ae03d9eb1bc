// Serves every method of bulkhead.v1.Supervisor by passing the serialised request to the core and its
// serialised answers back. The methods are those of the proto file; nothing here knows any of them.
#pragma once

#include <grpcpp/impl/service_type.h>
#include <grpcpp/support/server_callback.h>

#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "bulkhead/contract/v1/contract.pb.h"
#include "supervisor/api/core_link.h"

namespace bulkhead::edge {

struct ForwarderLimits {
  std::size_t calls = 512;  // below CoreLink::kMaxCalls: the edge's own calls must find room
  std::size_t calls_per_connection = 64;
  std::size_t queued_elements = 256;  // per stream: a watcher that lets more pile up is ended
  // For unary calls, whatever the client's own deadline: nobody waits for ever.
  std::int64_t unary_deadline_ns = 300'000'000'000;
};

// Runs on gRPC's threads and on the link's.
class Forwarder final : public grpc::Service {
 public:
  // Who makes the call; nothing if that cannot be told. Any thread.
  using Identify = std::function<std::optional<contract::v1::Caller>(const grpc::CallbackServerContext&)>;

  // `link` must outlive the server this is registered with.
  Forwarder(CoreLink& link, Identify identify, ForwarderLimits limits = {});

 private:
  class Slot;
  class UnaryCall;
  class StreamCall;

  // Places in progress, overall and by connection. Outlives the forwarder together with the calls that hold a
  // slot.
  struct Places {
    std::mutex mutex;
    std::size_t taken = 0;
    std::map<std::string, std::size_t> taken_by_connection;
  };

  grpc::ServerUnaryReactor* unary(const std::string& method, grpc::CallbackServerContext* context,
                                  const grpc::ByteBuffer* request, grpc::ByteBuffer* response);
  grpc::ServerWriteReactor<grpc::ByteBuffer>* stream(const std::string& method,
                                                     grpc::CallbackServerContext* context,
                                                     const grpc::ByteBuffer* request);
  template <typename Call>
  void begin(const std::shared_ptr<Call>& call, const std::string& method,
             grpc::CallbackServerContext& context, const grpc::ByteBuffer& request, std::int64_t deadline_ns);
  std::unique_ptr<Slot> take_slot(const std::string& connection);

  std::deque<std::string> paths_;  // of the methods; gRPC keeps pointers into them
  CoreLink& link_;
  const Identify identify_;
  const ForwarderLimits limits_;
  const std::shared_ptr<Places> places_ = std::make_shared<Places>();
};

}  // namespace bulkhead::edge
