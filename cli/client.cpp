#include "cli/client.h"

#include <fcntl.h>
#include <google/protobuf/descriptor.h>
#include <grpcpp/create_channel_posix.h>
#include <grpcpp/impl/client_unary_call.h>
#include <grpcpp/impl/codegen/proto_utils.h>
#include <grpcpp/support/sync_stream.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <memory>
#include <thread>

#include "bulkhead/v1/bulkhead.pb.h"
#include "cli/units.h"

namespace bulkhead::cli {
namespace {

using google::protobuf::Message;
using grpc::StatusCode;
using grpc::internal::RpcMethod;
using std::chrono::milliseconds;
using std::chrono::steady_clock;

constexpr milliseconds kActionTimeout(60'000);
constexpr milliseconds kRetryDelay(100);
constexpr milliseconds kSettled(1000);  // a stream that lived so long was a good one, even if nothing came

std::string method_for(const Message& request) {
  const google::protobuf::ServiceDescriptor& service =
      *v1::Component::descriptor()->file()->FindServiceByName("Supervisor");
  for (int i = 0; i < service.method_count(); ++i) {
    if (service.method(i)->input_type() == request.GetDescriptor()) {
      return "/" + service.full_name() + "/" + service.method(i)->name();
    }
  }
  return "";  // the server says UNIMPLEMENTED
}

std::string unreachable(const std::string& socket, const std::string& why) {
  return "cannot reach the supervisor at " + socket + " (" + why +
         "): is bulkheadd running? (systemctl status bulkhead)";
}

// Connecting ourselves tells exactly why it fails, and at once.
Outcome<std::shared_ptr<grpc::Channel>> connect(const std::string& socket, milliseconds timeout) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  if (socket.size() >= sizeof address.sun_path) {
    return fail(ExitCode::kUsage, "the socket's path is too long: " + socket);
  }
  socket.copy(address.sun_path, socket.size());
  const int fd = ::socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  // A full backlog makes connect() wait: bounded by the send timeout (af_unix.c, unix_stream_connect()).
  const timeval limit{timeout.count() / 1000, timeout.count() % 1000 * 1000};
  ::setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
  if (fd < 0 || ::connect(fd, reinterpret_cast<const sockaddr*>(&address), sizeof address) != 0) {
    const int error = errno;
    if (fd >= 0) ::close(fd);
    if (error == EACCES) {
      return fail(ExitCode::kUnreachable,
                  "cannot reach the supervisor at " + socket +
                      " (Permission denied): run this as root or as a member of group bulkhead");
    }
    return fail(ExitCode::kUnreachable, unreachable(socket, ::strerrordesc_np(error)));
  }
  ::fcntl(fd, F_SETFL, O_NONBLOCK);
  return grpc::CreateInsecureChannelFromFd("bulkhead", fd);
}

// The one place where a grpc::Status becomes an exit code and a line for people.
Failure failure_of(const grpc::Status& status, const std::string& socket, milliseconds timeout, bool action) {
  const std::string limit = latency_text(timeout.count() * 1000);
  switch (status.error_code()) {
    case StatusCode::UNAVAILABLE:
      return {ExitCode::kUnreachable, unreachable(socket, status.error_message())};
    case StatusCode::DEADLINE_EXCEEDED:
      if (action) {
        return {ExitCode::kFailed,
                "not done within " + limit +
                    "; it may still be going on: look at 'bulkhead status' (--timeout waits longer)"};
      }
      return {ExitCode::kUnreachable, unreachable(socket, "no answer within " + limit)};
    case StatusCode::UNIMPLEMENTED:
      return {ExitCode::kFailed,
              "the supervisor does not know this request: is it older than this program? " +
                  status.error_message()};
    default:
      return {ExitCode::kFailed, status.error_message().empty()
                                     ? "refused with status " + std::to_string(status.error_code())
                                     : status.error_message()};
  }
}

grpc::Status call_once(const std::shared_ptr<grpc::Channel>& channel, const Message& request,
                       Message& response, steady_clock::time_point deadline) {
  const std::string path = method_for(request);
  const RpcMethod method(path.c_str(), RpcMethod::NORMAL_RPC);
  grpc::ClientContext context;
  context.set_deadline(
      std::chrono::system_clock::now() +
      std::chrono::duration_cast<std::chrono::system_clock::duration>(deadline - steady_clock::now()));
  return grpc::internal::BlockingUnaryCall<Message, Message, google::protobuf::MessageLite,
                                           google::protobuf::MessageLite>(channel.get(), method, &context,
                                                                          request, &response);
}

Outcome<void> call(const std::string& socket, const Message& request, Message& response, milliseconds timeout,
                   bool action) {
  const auto deadline = steady_clock::now() + timeout;
  for (;;) {
    const Outcome<std::shared_ptr<grpc::Channel>> channel = connect(socket, timeout);
    if (!channel) return std::unexpected(channel.error());
    const grpc::Status status = call_once(*channel, request, response, deadline);
    if (status.ok()) return {};
    const bool again = !action && status.error_code() == StatusCode::UNAVAILABLE;
    if (!again || steady_clock::now() + kRetryDelay >= deadline) {
      return std::unexpected(failure_of(status, socket, timeout, action));
    }
    std::this_thread::sleep_for(kRetryDelay);
  }
}

// One life of a stream. `on_element` saying false cancels it, which counts as success.
grpc::Status read_stream(const std::shared_ptr<grpc::Channel>& channel, const Message& request,
                         Message& element, const std::function<bool()>& on_element) {
  const std::string path = method_for(request);
  const RpcMethod method(path.c_str(), RpcMethod::SERVER_STREAMING);
  grpc::ClientContext context;
  const std::unique_ptr<grpc::ClientReader<Message>> reader(
      grpc::internal::ClientReaderFactory<Message>::Create(channel.get(), method, &context, request));
  while (reader->Read(&element)) {
    if (on_element()) continue;
    context.TryCancel();
    reader->Finish();
    return grpc::Status::OK;
  }
  return reader->Finish();
}

}  // namespace

Outcome<void> Client::query(const Message& request, Message& response) const {
  return call(socket_, request, response, query_timeout(), false);
}

Outcome<void> Client::act(const Message& request, Message& response) const {
  return call(socket_, request, response, timeout_.value_or(kActionTimeout), true);
}

Outcome<void> Client::watch(const Message& request, Message& element, const Watcher& watcher) const {
  v1::GetVersionResponse
      there;  // a stream may be silent for long: make sure that somebody is at the other end
  if (Outcome<void> reached = query(v1::GetVersionRequest(), there); !reached) return reached;
  auto last_heard = steady_clock::now();
  bool enough = false;
  bool interrupted = false;
  std::string why;
  Failure failure;
  const auto on_element = [&] {
    last_heard = steady_clock::now();
    if (std::exchange(interrupted, false)) watcher.on_gap(why);
    enough = !watcher.on_element();
    return !enough;
  };
  for (;;) {
    const Outcome<std::shared_ptr<grpc::Channel>> channel = connect(socket_, query_timeout());
    if (channel) {
      const auto opened = steady_clock::now();
      const grpc::Status status = read_stream(*channel, request, element, on_element);
      if (enough) return {};
      if (steady_clock::now() - opened >= kSettled) last_heard = steady_clock::now();
      failure = failure_of(status, socket_, query_timeout(), false);
      const bool passing = status.ok() || status.error_code() == StatusCode::UNAVAILABLE ||
                           status.error_code() == StatusCode::RESOURCE_EXHAUSTED;
      if (!passing) return std::unexpected(failure);
      why = status.error_message();
      interrupted = true;
    } else {
      failure = channel.error();
    }
    if (steady_clock::now() - last_heard >= query_timeout()) return std::unexpected(failure);
    std::this_thread::sleep_for(kRetryDelay);
  }
}

}  // namespace bulkhead::cli
