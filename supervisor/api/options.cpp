#include "supervisor/api/options.h"

#include <fcntl.h>
#include <sys/socket.h>

#include <CLI/CLI.hpp>
#include <charconv>
#include <cstdlib>
#include <cstring>
#include <iostream>

namespace bulkhead::edge {
namespace {

Result<int> socket_option(int fd, int option, const char* variable) {
  int value = 0;
  socklen_t bytes = sizeof value;
  if (::getsockopt(fd, SOL_SOCKET, option, &value, &bytes) != 0) {
    return os_failure(std::string(variable) + "=" + std::to_string(fd) + " is not a usable socket");
  }
  return value;
}

Result<UniqueFd> inherited(const char* variable, int type, bool listening) {
  const char* text = std::getenv(variable);
  if (text == nullptr) {
    return failure(ErrorKind::kInvalid,
                   std::string(variable) + " is not set: bulkheadd starts this program, not a person");
  }
  int number = -1;
  const auto [end, error] = std::from_chars(text, text + std::strlen(text), number);
  if (error != std::errc() || *end != '\0' || number < 0) {
    return failure(ErrorKind::kInvalid, std::string(variable) + "=" + text + " is not a descriptor number");
  }
  const Result<int> is_type = socket_option(number, SO_TYPE, variable);
  if (!is_type) return std::unexpected(is_type.error());
  const Result<int> is_listening = socket_option(number, SO_ACCEPTCONN, variable);
  if (!is_listening) return std::unexpected(is_listening.error());
  if (*is_type != type || (*is_listening != 0) != listening) {
    return failure(ErrorKind::kInvalid, std::string(variable) + "=" + text + " is a socket of another kind");
  }
  ::fcntl(number, F_SETFD, FD_CLOEXEC);
  if (!listening) ::fcntl(number, F_SETFL, ::fcntl(number, F_GETFL) | O_NONBLOCK);
  ::unsetenv(variable);
  return UniqueFd(number);
}

}  // namespace

Result<std::optional<Options>> parse_options(int argc, char** argv) {
  CLI::App app("gRPC edge of the Bulkhead supervisor; started by bulkheadd", "bulkhead-api");
  app.set_version_flag("--version", BULKHEAD_VERSION);
  Options options;
  TcpOptions tcp;
  app.add_option("--tcp", tcp.address, "also listen on ADDRESS:PORT, with mutual TLS");
  app.add_option("--tls-cert", tcp.certificate_file, "certificate chain to show (PEM)");
  app.add_option("--tls-key", tcp.key_file, "its private key (PEM)");
  app.add_option("--tls-client-ca", tcp.client_ca_file,
                 "authority that must have signed a client's certificate (PEM)");
  app.add_option("--log-level", options.log_level, "trace, debug, info, warning or error")
      ->check(CLI::IsMember({"trace", "debug", "info", "warning", "error"}));
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& printed) {
    app.exit(printed);
    return std::optional<Options>();
  } catch (const CLI::Error& error) {
    return failure(ErrorKind::kInvalid, error.what());
  }
  const bool tls = !tcp.certificate_file.empty() && !tcp.key_file.empty() && !tcp.client_ca_file.empty();
  const bool any_tls = !tcp.certificate_file.empty() || !tcp.key_file.empty() || !tcp.client_ca_file.empty();
  if (!tcp.address.empty() && !tls) {
    return failure(ErrorKind::kInvalid,
                   "--tcp needs mutual TLS: give --tls-cert, --tls-key and --tls-client-ca as well");
  }
  if (tcp.address.empty() && any_tls)
    return failure(ErrorKind::kInvalid, "--tls-... is of no use without --tcp");
  if (!tcp.address.empty()) options.tcp = tcp;
  return std::optional(std::move(options));
}

Result<Inherited> inherited_descriptors() {
  Result<UniqueFd> core = inherited("BULKHEAD_EDGE_FD", SOCK_SEQPACKET, false);
  if (!core) return forward(std::move(core));
  Result<UniqueFd> listening = inherited("BULKHEAD_LISTEN_FD", SOCK_STREAM, true);
  if (!listening) return forward(std::move(listening));
  return Inherited{std::move(*core), std::move(*listening)};
}

}  // namespace bulkhead::edge
