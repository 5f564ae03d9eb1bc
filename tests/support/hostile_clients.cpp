#include "tests/support/hostile_clients.h"

#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <optional>

#include "tests/support/xs_client.h"

namespace bulkhead::xs {
namespace {

constexpr std::string_view kInTransaction = "tx:";
constexpr std::int64_t kProofDeadlineNs = std::int64_t{30} * 1'000'000'000;
constexpr std::size_t kAhead = std::size_t{64} * 1024;  // bytes put but not sent, by those that flood
constexpr std::uint32_t kTypesTried = 30;
constexpr std::size_t kNoLimit = SIZE_MAX;

struct Type {
  std::string_view name;
  xsd_sockmsg_type type;
};
constexpr std::array kTypes{Type{"CONTROL", XS_CONTROL},
                            Type{"DIRECTORY", XS_DIRECTORY},
                            Type{"DIRECTORY_PART", XS_DIRECTORY_PART},
                            Type{"READ", XS_READ},
                            Type{"GET_PERMS", XS_GET_PERMS},
                            Type{"WATCH", XS_WATCH},
                            Type{"UNWATCH", XS_UNWATCH},
                            Type{"TRANSACTION_START", XS_TRANSACTION_START},
                            Type{"TRANSACTION_END", XS_TRANSACTION_END},
                            Type{"INTRODUCE", XS_INTRODUCE},
                            Type{"RELEASE", XS_RELEASE},
                            Type{"GET_DOMAIN_PATH", XS_GET_DOMAIN_PATH},
                            Type{"WRITE", XS_WRITE},
                            Type{"MKDIR", XS_MKDIR},
                            Type{"RM", XS_RM},
                            Type{"SET_PERMS", XS_SET_PERMS},
                            Type{"IS_DOMAIN_INTRODUCED", XS_IS_DOMAIN_INTRODUCED},
                            Type{"RESUME", XS_RESUME},
                            Type{"SET_TARGET", XS_SET_TARGET},
                            Type{"RESET_WATCHES", XS_RESET_WATCHES}};

std::optional<xsd_sockmsg_type> type_of(std::string_view text) {
  if (text.starts_with(kInTransaction)) text.remove_prefix(kInTransaction.size());
  const std::string_view name = text.substr(0, text.find(' '));
  const auto* found = std::ranges::find(kTypes, name, &Type::name);
  if (found == kTypes.end()) return std::nullopt;
  return found->type;
}

std::uint64_t number_in(std::string_view text) {
  std::uint64_t number = 0;
  std::from_chars(text.data(), text.data() + text.size(), number);
  return number;
}

// One placeholder, without its braces.
void expand(std::string& to, std::string_view what, std::uint64_t number, std::uint32_t connection) {
  if (what == "n") {
    to += std::to_string(number);
  } else if (what == "c") {
    to += std::to_string(connection);
  } else if (what == "nul") {
    to += '\0';
  } else if (const std::size_t star = what.rfind('*'); star != std::string_view::npos) {
    for (std::uint64_t i = number_in(what.substr(star + 1)); i > 0; --i) to += what.substr(0, star);
  }
}

bool succeeds(HostileSocket& socket, const std::string& request) {
  Heard heard;
  const std::uint64_t before = socket.replies();
  const std::int64_t end = monotonic_ns() + kProofDeadlineNs;
  socket.put(request);
  while (socket.replies() == before && !socket.closed() && monotonic_ns() < end) {
    socket.push(kNoLimit);
    pollfd ready{socket.fd().get(), POLLIN, 0};
    (void)::poll(&ready, 1, 1000);
    socket.pull(heard, {});
  }
  return socket.replies() > before && !socket.last_failed();
}

}  // namespace

Status check_request(std::string_view text) {
  if (type_of(text)) return {};
  return failure(ErrorKind::kInvalid, "\"" + std::string(text) + "\" does not begin with a request's type");
}

std::string encode_request(std::string_view text, std::uint64_t number, std::uint32_t connection,
                           std::uint32_t transaction) {
  const xsd_sockmsg_type type = type_of(text).value_or(XS_INVALID);
  const bool within = text.starts_with(kInTransaction);
  std::string payload;
  std::size_t at = text.find(' ');
  while (at < text.size()) {
    const char c = text[at++];
    if (c == ' ') {
      if (at > text.find(' ') + 1) payload += '\0';  // ends the argument before
    } else if (const std::size_t end = text.find('}', at); c == '{' && end != std::string_view::npos) {
      expand(payload, text.substr(at, end - at), number, connection);
      at = end + 1;
    } else {
      payload += c;
    }
  }
  if (type != XS_WRITE) payload += '\0';
  return wire_message(type, within ? transaction : 0, payload);
}

Status HostileClients::open() {
  for (std::uint32_t i = 0; i < script_.connections; ++i) {
    auto socket = connect_as_domain();
    if (!socket) return forward(std::move(socket));
    links_.push_back({std::move(*socket), i});
    links_.back().first_reply = links_.back().socket.replies();
  }
  return {};
}

// The service may not know yet whom new clients act for: tried until it does.
Result<HostileSocket> HostileClients::connect_as_domain() const {
  const std::int64_t end = monotonic_ns() + kProofDeadlineNs;
  while (monotonic_ns() < end) {
    auto socket = HostileSocket::connect(socket_path_);
    if (!socket) return socket;
    // Nobody but domain 0 may write to the root; another domain's home is not for a guest to read.
    const bool privileged = succeeds(*socket, wire_message(XS_WRITE, 0, std::string("/") + '\0'));
    const std::string home = "/local/domain/" + std::to_string(script_.domain);
    if (script_.domain == 0 && privileged) return socket;
    if (script_.domain != 0 && !privileged && succeeds(*socket, encode_request("READ " + home, 0, 0, 0))) {
      return socket;
    }
  }
  return failure(ErrorKind::kTimeout, "no client acts for domain " + std::to_string(script_.domain));
}

void HostileClients::step() {
  const std::size_t most = script_.byte_by_byte ? 1 : kNoLimit;
  for (Link& link : links_) {
    if (link.socket.closed()) continue;
    fill(link);
    sent_ += link.socket.push(most);
    read(link);
    if (script_.behaviour == Behaviour::kResets) reset(link);
  }
}

void HostileClients::read(Link& link) {
  if (script_.reads == Reading::kAlways) link.socket.pull(heard_, script_.must_not_hear);
  char byte = 0;
  if (script_.reads == Reading::kByte) (void)!::recv(link.socket.fd().get(), &byte, 1, MSG_DONTWAIT);
  if (script_.reads != Reading::kAlways) link.socket.notice_close();
}

// Makes what it sends next, up to a bound.
void HostileClients::fill(Link& link) {
  switch (script_.behaviour) {
    case Behaviour::kRequests:
      return fill_requests(link);
    case Behaviour::kHalfMessages:
      if (link.made < wanted()) link.socket.put(wire_message(XS_WRITE, 0, "half", 4096));
      link.made = wanted();
      return;
    case Behaviour::kResets:
      if (link.socket.unsent() == 0) {
        link.socket.put(wire_message(XS_READ, 0, std::string("/") + '\0'));
        link.socket.put(wire_message(XS_WRITE, 0, "half", 400));
      }
      return;
    case Behaviour::kOversized:
      if (link.made < wanted()) link.socket.put(wire_message(XS_WRITE, 0, "much", script_.length));
      link.made = wanted();
      return;
    case Behaviour::kGarbage:
      while (link.made < wanted() && link.socket.unsent() < kAhead) {
        link.socket.put(random_bytes(512) + '\xff');
        ++link.made;
      }
      return;
    case Behaviour::kPayloads:
      while (link.made < wanted() &&
             link.made < link.socket.replies() - link.first_reply + script_.in_flight) {
        // The types of errors and events, and some beyond the last one, too.
        const auto type = static_cast<std::uint32_t>(link.made % kTypesTried);
        const std::string payload = random_bytes(64);
        link.socket.put(wire_message(type, link.made % 5 == 0 ? 7 : 0, payload));
        ++link.made;
      }
      return;
  }
}

void HostileClients::fill_requests(Link& link) {
  const std::uint64_t answered = link.socket.replies() - link.first_reply;
  if (link.begins && link.made == answered) link.transaction = number_in(link.socket.last_reply());
  const bool reads = script_.reads == Reading::kAlways;
  // What follows the beginning of a transaction may be meant for it.
  const auto knows_transaction = [&] { return !reads || !link.begins || link.made == answered; };
  while (link.made < wanted() && link.socket.unsent() < kAhead && knows_transaction() &&
         (!reads || link.made < answered + script_.in_flight)) {
    const bool first = link.made < beginning();
    const auto& from = first ? script_.begin : script_.repeat;
    const std::uint64_t number = first ? link.made : link.made - beginning();
    const std::string& text = from[number % from.size()];
    link.begins = type_of(text) == XS_TRANSACTION_START;
    link.socket.put(encode_request(text, number, link.number, static_cast<std::uint32_t>(link.transaction)));
    ++link.made;
  }
}

// Has sent half a message: leaves in the middle of it, and comes back.
void HostileClients::reset(Link& link) {
  if (link.socket.unsent() > 0 || link.made >= wanted()) return;
  ++link.made;
  auto socket = HostileSocket::connect(socket_path_);
  if (socket) {
    link.socket = std::move(*socket);
  } else {
    error_ = socket.error().message();
  }
}

// The same in every run (xorshift).
std::string HostileClients::random_bytes(std::size_t most) {
  std::string bytes;
  const auto next = [this] {
    random_ ^= random_ << 13;
    random_ ^= random_ >> 7;
    random_ ^= random_ << 17;
    return random_;
  };
  for (std::size_t left = next() % most; left > 0; --left) bytes += static_cast<char>(next());
  return bytes;
}

std::uint64_t HostileClients::wanted() const {
  return script_.messages + (script_.behaviour == Behaviour::kRequests ? beginning() : 0);
}

bool HostileClients::link_done(const Link& link) const {
  if (link.socket.closed()) return true;
  if (link.made < wanted() || link.socket.unsent() > 0) return false;
  const bool answered =
      script_.behaviour == Behaviour::kRequests || script_.behaviour == Behaviour::kPayloads;
  if (!answered || script_.reads != Reading::kAlways) return true;
  return link.socket.replies() - link.first_reply >= link.made;
}

bool HostileClients::done() const {
  return std::ranges::all_of(links_, [this](const Link& link) { return link_done(link); });
}

void HostileClients::await_answers(std::vector<pollfd>& to) const {
  if (script_.reads != Reading::kAlways || script_.byte_by_byte) return;
  for (const Link& link : links_) {
    if (!link.socket.closed() && !link_done(link)) to.push_back({link.socket.fd().get(), POLLIN, 0});
  }
}

std::size_t HostileClients::open_connections() const {
  return static_cast<std::size_t>(
      std::ranges::count_if(links_, [](const Link& link) { return !link.socket.closed(); }));
}

bool HostileClients::stuck() const {
  return std::ranges::any_of(
      links_, [](const Link& link) { return !link.socket.closed() && link.socket.unsent() > 0; });
}

}  // namespace bulkhead::xs
