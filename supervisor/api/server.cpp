#include "supervisor/api/server.h"

#include <grpcpp/ext/proto_server_reflection_plugin.h>
#include <grpcpp/health_check_service_interface.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/server_posix.h>
#include <unistd.h>

#include <charconv>
#include <cstring>
#include <fstream>
#include <iterator>
#include <utility>

#include "supervisor/api/forwarder.h"
#include "supervisor/api/health.h"

namespace bulkhead::edge {
namespace {

constexpr int kMaxRequestBytes = 64 * 1024;  // requests hold a few names and numbers
constexpr int kMaxMetadataBytes = 16 * 1024;
constexpr int kMaxStreamsPerConnection = 128;  // HTTP/2 streams, health watches among them
constexpr std::size_t kMaxMemoryBytes = std::size_t{128} * 1024 * 1024;
// A client that has gone without a word (TCP) or hangs is noticed after the sum of both.
constexpr int kKeepaliveMs = 60'000;
constexpr int kKeepaliveTimeoutMs = 20'000;

contract::v1::Caller own_identity() {
  contract::v1::Caller self;
  self.mutable_unix()->set_uid(::geteuid());
  self.mutable_unix()->set_gid(::getegid());
  self.mutable_unix()->set_pid(::getpid());
  return self;
}

// gRPC 1.51 names a connection made from a descriptor "fd:<number>" (grpc_server_add_channel_from_fd()).
std::optional<int> descriptor_in(std::string_view peer) {
  constexpr std::string_view kPrefix = "fd:";
  if (!peer.starts_with(kPrefix)) return std::nullopt;
  peer.remove_prefix(kPrefix.size());
  int fd = -1;
  const auto [end, error] = std::from_chars(peer.data(), peer.data() + peer.size(), fd);
  if (error != std::errc() || end != peer.data() + peer.size()) return std::nullopt;
  return fd;
}

std::optional<contract::v1::Caller> certified(const grpc::CallbackServerContext& context) {
  const std::shared_ptr<const grpc::AuthContext> auth = context.auth_context();
  if (auth == nullptr || !auth->IsPeerAuthenticated()) return std::nullopt;
  const auto names = auth->FindPropertyValues(GRPC_X509_CN_PROPERTY_NAME);
  if (names.size() != 1 || names[0].empty()) return std::nullopt;
  contract::v1::Caller caller;
  caller.set_certificate(std::string(names[0].data(), names[0].size()));
  return caller;
}

Result<std::string> contents(const std::string& path, std::string_view what) {
  std::ifstream file(path, std::ios::binary);
  if (!file) return os_failure("cannot open the " + std::string(what) + " " + path);
  std::string text{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  if (text.empty())
    return failure(ErrorKind::kInvalid, "the " + std::string(what) + " " + path + " is empty");
  return text;
}

Result<std::shared_ptr<grpc::ServerCredentials>> mutual_tls(const TcpOptions& tcp) {
  Result<std::string> certificate = contents(tcp.certificate_file, "certificate");
  if (!certificate) return forward(std::move(certificate));
  Result<std::string> key = contents(tcp.key_file, "key");
  if (!key) return forward(std::move(key));
  Result<std::string> authority = contents(tcp.client_ca_file, "client certificate authority");
  if (!authority) return forward(std::move(authority));
  grpc::SslServerCredentialsOptions options(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  options.pem_root_certs = *authority;
  options.pem_key_cert_pairs.push_back({*key, *certificate});
  return grpc::SslServerCredentials(options);
}

class GrpcServer final : public Server {
 public:
  explicit GrpcServer(CoreLink& link)
      : forwarder_(link, [this](const grpc::CallbackServerContext& context) { return identify(context); }) {}
  ~GrpcServer() override { stop(std::chrono::milliseconds(0)); }

  Status build(const std::optional<TcpOptions>& tcp);
  Status serve(CoreLink& link, UniqueFd listening, ListenerLimits limits);

  int tcp_port() const override { return tcp_port_; }
  std::uint64_t refused_connections() const override { return listener_->refused(); }
  void stop(std::chrono::milliseconds grace) override;

 private:
  std::optional<contract::v1::Caller> identify(const grpc::CallbackServerContext& context) const;

  Forwarder forwarder_;
  int tcp_port_ = 0;
  std::unique_ptr<UnixListener> listener_;  // set before the first Unix call; calls ask it who their peer is
  std::unique_ptr<grpc::Server> server_;
  std::unique_ptr<HealthFeed> health_;
};

Status GrpcServer::build(const std::optional<TcpOptions>& tcp) {
  grpc::EnableDefaultHealthCheckService(true);
  grpc::reflection::InitProtoReflectionServerBuilderPlugin();
  grpc::ServerBuilder builder;
  builder.SetMaxReceiveMessageSize(kMaxRequestBytes);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxStreamsPerConnection);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIME_MS, kKeepaliveMs);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, kKeepaliveTimeoutMs);
  grpc::ResourceQuota quota("edge");
  quota.Resize(kMaxMemoryBytes);
  builder.SetResourceQuota(quota);
  builder.RegisterService(&forwarder_);
  if (tcp) {
    Result<std::shared_ptr<grpc::ServerCredentials>> credentials = mutual_tls(*tcp);
    if (!credentials) return forward(std::move(credentials));
    builder.AddListeningPort(tcp->address, *credentials, &tcp_port_);
  }
  server_ = builder.BuildAndStart();
  if (tcp && tcp_port_ == 0) {
    return failure(ErrorKind::kFailed,
                   "cannot listen on " + tcp->address +
                       ": the address is taken or not ours, or the certificate and key do not match");
  }
  if (server_ == nullptr) return failure(ErrorKind::kFailed, "cannot start the gRPC server");
  return {};
}

Status GrpcServer::serve(CoreLink& link, UniqueFd listening, ListenerLimits limits) {
  grpc::HealthCheckServiceInterface* health = server_->GetHealthCheckService();
  if (health == nullptr) return failure(ErrorKind::kFailed, "gRPC has no health service");
  health->SetServingStatus("", false);
  health_ = std::make_unique<HealthFeed>(
      link, own_identity(),
      [health](const std::string& service, bool serving) { health->SetServingStatus(service, serving); });
  Result<std::unique_ptr<UnixListener>> listener = UnixListener::create(
      std::move(listening), limits,
      [this](UniqueFd connection) { grpc::AddInsecureChannelFromFd(server_.get(), connection.release()); });
  if (!listener) return forward(std::move(listener));
  listener_ = std::move(*listener);
  listener_->start();
  return {};
}

std::optional<contract::v1::Caller> GrpcServer::identify(const grpc::CallbackServerContext& context) const {
  const std::optional<int> fd = descriptor_in(context.peer());
  if (!fd) return certified(context);
  std::optional<contract::v1::PeerCredentials> peer = listener_->peer(*fd);
  if (!peer) return std::nullopt;
  contract::v1::Caller caller;
  *caller.mutable_unix() = std::move(*peer);
  return caller;
}

void GrpcServer::stop(std::chrono::milliseconds grace) {
  if (server_ == nullptr) return;
  if (listener_ != nullptr) listener_->stop();  // who comes from here on waits for the next edge
  health_.reset();
  server_->Shutdown(std::chrono::system_clock::now() + grace);
  server_->Wait();
  server_.reset();
}

}  // namespace

Result<std::unique_ptr<Server>> Server::start(CoreLink& link, UniqueFd listening,
                                              const std::optional<TcpOptions>& tcp, ListenerLimits limits) {
  auto server = std::make_unique<GrpcServer>(link);
  if (Status s = server->build(tcp); !s) return forward(std::move(s));
  if (Status s = server->serve(link, std::move(listening), limits); !s) return forward(std::move(s));
  return server;
}

}  // namespace bulkhead::edge
