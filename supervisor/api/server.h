// The gRPC server of the edge: the forwarded API, standard health and reflection, on Unix connections handed
// in one by one and, if asked for, on TCP with mutual TLS.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "supervisor/api/core_link.h"
#include "supervisor/api/unix_listener.h"

namespace bulkhead::edge {

struct TcpOptions {
  std::string address;  // "192.0.2.1:8443", "[2001:db8::1]:8443"; port 0: any
  std::string certificate_file;
  std::string key_file;
  std::string client_ca_file;  // clients must show a certificate that this authority signed
};

class Server {
 public:
  // `listening` is a listening Unix stream socket. `link` must outlive the server. From the return on,
  // clients are served; overall health is NOT_SERVING until the core has answered.
  static Result<std::unique_ptr<Server>> start(CoreLink& link, UniqueFd listening,
                                               const std::optional<TcpOptions>& tcp,
                                               ListenerLimits limits = {});
  virtual ~Server() = default;

  virtual int tcp_port() const = 0;  // 0: no TCP
  virtual std::uint64_t refused_connections() const = 0;
  // Takes no new connection, lets calls finish until `grace` is over, then cancels them. Called once.
  virtual void stop(std::chrono::milliseconds grace) = 0;
};

}  // namespace bulkhead::edge
