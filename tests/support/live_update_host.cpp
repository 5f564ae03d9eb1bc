#include "tests/support/live_update_host.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iterator>

#include "components/xenstore/protocol.h"

namespace bulkhead::test {
namespace {

using xenstore::as_bytes;
using xenstore::as_text;
using xenstore::Header;
using xenstore::kHeaderSize;
using xenstore::Request;
using xenstore::migration::Attachment;
using xenstore::migration::Socket;
using std::string_view_literals::operator""sv;

std::vector<std::byte> content_of(const std::filesystem::path& path) {
  std::ifstream file(path, std::ios::binary);
  const std::string text{std::istreambuf_iterator<char>(file), {}};
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

Status write_file(const std::filesystem::path& path, std::string_view content) {
  std::ofstream file(path, std::ios::binary | std::ios::trunc);
  file.write(content.data(), static_cast<std::streamsize>(content.size()));
  file.close();
  if (!file) return failure(ErrorKind::kFailed, "cannot write " + path.string());
  return {};
}

Header header_of(std::span<const std::byte> bytes) {
  Header header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  return header;
}

std::span<const std::byte> bytes_of(const Header& header) {
  return std::as_bytes(std::span(&header, 1));
}

// What the preload library says of the hypervisor.
bool exists(std::uint32_t domid) {
  const char* const last = std::getenv("NOHYP_LAST_DOMAIN");
  return last != nullptr && domid <= std::strtoul(last, nullptr, 10);
}

}  // namespace

// ---- one client ----

HostedClient::HostedClient(const Attachment& attachment)
    : id(attachment.id), end(attachment.end), input(attachment.input), unique_id(attachment.unique_id) {
  std::span<const std::byte> rest = attachment.output;
  if (attachment.partial > 0) {
    output.push_back({{rest.begin(), rest.begin() + attachment.partial}, true});
    rest = rest.subspan(attachment.partial);
  }
  while (!rest.empty()) {
    const auto size = static_cast<std::ptrdiff_t>(kHeaderSize + header_of(rest).length);
    output.push_back({{rest.begin(), rest.begin() + size}, false});
    rest = rest.subspan(static_cast<std::size_t>(size));
  }
}

int HostedClient::descriptor() const {
  const auto* socket = std::get_if<Socket>(&end);
  return socket != nullptr ? socket->descriptor : -1;
}

Attachment HostedClient::attachment() const {
  Attachment made{.id = id, .end = end, .input = input, .output = {}, .partial = 0, .unique_id = unique_id};
  for (const Outgoing& message : output) {
    if (message.begun) made.partial = static_cast<std::uint16_t>(message.bytes.size());
    made.output.insert(made.output.end(), message.bytes.begin(), message.bytes.end());
  }
  return made;
}

void HostedClient::send(const Header& header, std::span<const std::byte> payload) {
  Outgoing& message = output.emplace_back();
  message.bytes.assign(bytes_of(header).begin(), bytes_of(header).end());
  message.bytes.insert(message.bytes.end(), payload.begin(), payload.end());
}

// ---- taking over ----

Status LiveUpdateHost::take_over() {
  const std::filesystem::path state = folder_ / "state_dump";
  const std::vector<std::byte> bytes = content_of(state);
  std::filesystem::rename(state, folder_ / "state_taken");
  auto stream = xenstore::migration::decode(bytes);
  if (!stream) return forward(std::move(stream));
  auto import = xenstore::migration::import_stream(*stream);
  if (!import) return forward(std::move(import));
  if (Status sound = import->engine.check(); !sound) return sound;
  std::string notes;
  for (const std::string& note : import->notes) notes += note + '\n';
  if (Status ok = write_file(folder_ / "notes_taken", notes); !ok) return ok;
  engine_ = std::move(import->engine);
  descriptors_ = import->descriptors.value_or(xenstore::migration::Descriptors{});
  for (const Attachment& attachment : import->connections) clients_.emplace_back(attachment);
  return {};
}

// ---- serving ----

void LiveUpdateHost::reply(std::uint32_t type, std::span<const std::byte> payload) {
  Header header = *header_;
  header.type = type;
  header.length = static_cast<std::uint32_t>(payload.size());
  client_->send(header, payload);
}

void LiveUpdateHost::event(xenstore::ConnectionId to, std::span<const std::byte> payload) {
  const auto client = std::ranges::find(clients_, to, &HostedClient::id);
  if (client == clients_.end()) return;
  client->send({.type = xenstore::kWatchEvent,
                .request_id = 0,
                .transaction_id = 0,
                .length = static_cast<std::uint32_t>(payload.size())},
               payload);
}

// xenstore-control live-update FILE: "-f", FILE, then "-s" and options, to each of which "OK" is the answer;
// to the last one only when the next program serves.
bool LiveUpdateHost::is_live_update(const HostedClient& client, const Request& request) {
  if (request.header.type != xenstore::kControl || engine_.domain_of(client.id) != 0) return false;
  std::string_view rest = as_text(request.payload);
  if (xenstore::take_argument(rest) != "live-update") return false;
  const auto step = xenstore::take_argument(rest);
  if (step == "-s") {
    asked_by_ = {client.id, request.header};
    return true;
  }
  if (step == "-f") next_program_ = xenstore::take_argument(rest).value_or("");
  reply(xenstore::kControl, as_bytes("OK\0"sv));
  return true;
}

bool LiveUpdateHost::execute_next(HostedClient& client) {
  if (client.input.size() < kHeaderSize) return false;
  Request request{.header = header_of(client.input), .payload = {}};
  const std::size_t size = kHeaderSize + request.header.length;
  if (client.input.size() < size) return false;
  const std::vector<std::byte> message(client.input.begin(),
                                       client.input.begin() + static_cast<std::ptrdiff_t>(size));
  client.input.erase(client.input.begin(), client.input.begin() + static_cast<std::ptrdiff_t>(size));
  request.payload = std::span(message).subspan(kHeaderSize);
  header_ = &request.header;
  client_ = &client;
  if (!is_live_update(client, request)) engine_.execute(client.id, request, *this);
  return true;
}

bool LiveUpdateHost::receive(HostedClient& client) {
  std::array<std::byte, 65536> buffer;
  const ssize_t count = ::recv(client.descriptor(), buffer.data(), buffer.size(), MSG_DONTWAIT);
  if (count <= 0) return count < 0 && (errno == EAGAIN || errno == EINTR);
  client.input.insert(client.input.end(), buffer.begin(), buffer.begin() + count);
  return true;
}

bool LiveUpdateHost::flush(HostedClient& client) {
  while (!client.output.empty()) {
    Outgoing& message = client.output.front();
    const ssize_t count =
        ::send(client.descriptor(), message.bytes.data(), message.bytes.size(), MSG_DONTWAIT | MSG_NOSIGNAL);
    if (count < 0) return errno == EAGAIN || errno == EINTR;
    message.begun = true;
    message.bytes.erase(message.bytes.begin(), message.bytes.begin() + count);
    if (message.bytes.empty()) client.output.pop_front();
  }
  return true;
}

void LiveUpdateHost::accept_clients() {
  const int accepted = ::accept(descriptors_.listener, nullptr, nullptr);  // the next program inherits it
  if (accepted < 0) return;
  xenstore::ConnectionId id = 0;
  while (engine_.domain_of(id)) ++id;
  engine_.connect(id, 0);
  clients_.emplace_back(Attachment{
      .id = id, .end = Socket{.descriptor = accepted}, .input = {}, .output = {}, .unique_id = {}});
}

void LiveUpdateHost::forget(xenstore::ConnectionId id) {
  const auto client = std::ranges::find(clients_, id, &HostedClient::id);
  ::close(client->descriptor());
  clients_.erase(client);
  engine_.disconnect(id, *this);
}

Status LiveUpdateHost::turn() {
  std::vector<pollfd> polled{{.fd = descriptors_.listener, .events = POLLIN, .revents = 0}};
  for (const HostedClient& client : clients_) {
    const int events = client.output.empty() ? POLLIN : POLLIN | POLLOUT;
    polled.push_back({.fd = client.descriptor(), .events = static_cast<short>(events), .revents = 0});
  }
  if (::poll(polled.data(), polled.size(), -1) < 0 && errno != EINTR) return os_failure("poll");
  std::vector<xenstore::ConnectionId> gone;
  for (std::size_t i = 1; i < polled.size(); ++i) {
    HostedClient& client = clients_[i - 1];
    if ((polled[i].revents & (POLLIN | POLLHUP | POLLERR)) != 0 && !receive(client))
      gone.push_back(client.id);
  }
  for (HostedClient& client : clients_) {
    while (!is_update_due() && execute_next(client)) {
    }
    if (client.descriptor() >= 0 && !flush(client)) gone.push_back(client.id);
  }
  std::ranges::sort(gone);
  const auto repeated = std::ranges::unique(gone);
  gone.erase(repeated.begin(), repeated.end());
  for (xenstore::ConnectionId id : gone) forget(id);
  if ((polled.front().revents & POLLIN) != 0) accept_clients();
  return {};
}

// Like a stock xenstored, not while a transaction is open.
bool LiveUpdateHost::is_update_due() const {
  return asked_by_ && std::ranges::none_of(clients_, [&](const HostedClient& client) {
           return engine_.transactions_of(*engine_.domain_of(client.id)) > 0;
         });
}

Status LiveUpdateHost::serve() {
  while (!is_update_due()) {
    if (Status ok = turn(); !ok) return ok;
  }
  return hand_over();
}

// ---- handing over ----

Status LiveUpdateHost::hand_over() {
  const auto asking = std::ranges::find(clients_, asked_by_->first, &HostedClient::id);
  if (asking != clients_.end()) {
    Header header = asked_by_->second;
    header.length = 3;
    asking->send(header, as_bytes("OK\0"sv));
  }
  std::vector<Attachment> attachments;
  attachments.reserve(clients_.size());
  for (const HostedClient& client : clients_) attachments.push_back(client.attachment());
  auto given = xenstore::migration::export_engine(
      engine_, attachments,
      {.version = xenstore::migration::kVersion1, .descriptors = descriptors_, .exists = exists});
  if (!given) return forward(std::move(given));
  std::string notes;
  for (const std::string& note : given->notes) notes += note + '\n';
  auto bytes = xenstore::migration::encode(given->stream);
  if (!bytes) return forward(std::move(bytes));
  Status ok = write_file(folder_ / "notes_given", notes);
  if (ok) ok = write_file(folder_ / "state_given", as_text(*bytes));
  if (ok) ok = write_file(folder_ / "state_dump", as_text(*bytes));
  if (!ok) return ok;
  arguments_.front() = next_program_;
  if (std::ranges::find(arguments_, "-U") == arguments_.end()) arguments_.emplace_back("-U");
  std::vector<char*> words;
  words.reserve(arguments_.size() + 1);
  for (std::string& argument : arguments_) words.push_back(argument.data());
  words.push_back(nullptr);
  ::execv(next_program_.c_str(), words.data());
  return os_failure("cannot start " + next_program_);
}

}  // namespace bulkhead::test
