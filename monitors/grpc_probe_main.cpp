// bulkhead-grpc-probe ADDRESS SERVICE DEADLINE_MS: one grpc.health.v1 Check. Exit status 0: SERVING, or, if
// SERVICE is
// "*", any answer of the server; 1: anything else; 2: wrong usage. A program of its own because the core,
// which forks, links no gRPC.
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <charconv>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>
#include <string_view>

namespace {

constexpr const char* kMethod = "/grpc.health.v1.Health/Check";
constexpr std::uint64_t kServing = 1;
constexpr std::string_view kAnyAnswer = "*";

// HealthCheckRequest { string service = 1; } and HealthCheckResponse { ServingStatus status = 1; } of
// grpc/health/v1/health.proto are one field each: written and read here in protobuf's wire format.
grpc::ByteBuffer request_for(const std::string& service) {
  std::string bytes;
  if (!service.empty()) {
    bytes += '\x0a';
    std::size_t length = service.size();
    for (; length >= 0x80; length >>= 7) bytes += static_cast<char>((length & 0x7f) | 0x80);
    bytes += static_cast<char>(length);
    bytes += service;
  }
  const grpc::Slice slice(bytes);
  return {&slice, 1};
}

std::optional<std::uint64_t> status_of(const grpc::ByteBuffer& reply) {
  grpc::Slice slice;
  if (!reply.DumpToSingleSlice(&slice).ok()) return std::nullopt;
  const std::string_view bytes(reinterpret_cast<const char*>(slice.begin()), slice.size());
  // Absent is the default: 0, UNKNOWN. The values of the enumeration fit into one byte.
  if (bytes.empty()) return 0;
  if (bytes.size() < 2 || bytes[0] != '\x08') return std::nullopt;
  return static_cast<std::uint64_t>(static_cast<unsigned char>(bytes[1]));
}

int check(const std::string& address, const std::string& service, std::chrono::milliseconds patience) {
  const auto deadline = std::chrono::system_clock::now() + patience;
  const auto channel = grpc::CreateChannel(address, grpc::InsecureChannelCredentials());
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(deadline);
  context.set_wait_for_ready(false);
  grpc::CompletionQueue queue;
  const auto call =
      stub.PrepareUnaryCall(&context, kMethod, request_for(service == kAnyAnswer ? "" : service), &queue);
  call->StartCall();
  grpc::ByteBuffer reply;
  grpc::Status status;
  call->Finish(&reply, &status, nullptr);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);  // ends at the deadline at the latest
  // Servers that know no overall service say so, which is an answer.
  const bool answered = status.ok() || status.error_code() == grpc::StatusCode::NOT_FOUND;
  if (service == kAnyAnswer && answered) return 0;
  if (!status.ok()) {
    std::fprintf(stderr, "bulkhead-grpc-probe: %s: %s\n", address.c_str(), status.error_message().c_str());
    return 1;
  }
  const auto serving = status_of(reply);
  if (serving == kServing) return 0;
  std::fprintf(stderr, "bulkhead-grpc-probe: %s: \"%s\" is not serving\n", address.c_str(), service.c_str());
  return 1;
}

}  // namespace

int main(int argc, char** argv) {
  std::uint32_t milliseconds = 0;
  const std::string_view number = argc == 4 ? argv[3] : "";
  const auto [end, bad] = std::from_chars(number.data(), number.data() + number.size(), milliseconds);
  if (argc != 4 || bad != std::errc() || end != number.data() + number.size() || milliseconds == 0) {
    std::fprintf(stderr, "usage: bulkhead-grpc-probe ADDRESS SERVICE DEADLINE_MS\n");
    return 2;
  }
  return check(argv[1], argv[2], std::chrono::milliseconds(milliseconds));
}
