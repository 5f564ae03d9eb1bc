// Bytes as clients send them, in arbitrary pieces, through the input buffers of two connections; the messages
// that come out, and what the parsers of their payloads say, against a plain reading of the same bytes. Every
// message is then sent back through the output buffers.
//
// Input: where the stream offsets begin (1 byte), the number of pieces (1), each piece's shape (2), then the
// bytes of both clients: the first half is the one's, the second the other's.
#include <array>
#include <cerrno>
#include <cstdlib>
#include <deque>
#include <optional>
#include <vector>

#include "components/xenstore/connections.h"
#include "components/xenstore/permissions.h"
#include "components/xenstore/protocol.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_custody.h"

namespace bulkhead::fuzz {
namespace {

using namespace xenstore;  // NOLINT(google-build-using-namespace): what is tested

// ---- what the protocol's documents say, written down again ----

std::vector<std::string> reference_arguments(const std::string& payload) {
  std::vector<std::string> arguments;
  std::string current;
  for (const char c : payload) {
    if (c == '\0') {
      arguments.push_back(current);
      current.clear();
    } else {
      current += c;
    }
  }
  return arguments;
}

bool reference_is_path(const std::string& path) {
  const std::string allowed = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-/_@";
  if (path == "/") return true;
  return !path.empty() && path.front() == '/' && path.back() != '/' && path.size() <= 3072 &&
         path.find_first_not_of(allowed) == std::string::npos && path.find("//") == std::string::npos;
}

std::size_t reference_domain_prefix(const std::string& path) {
  const std::string prefix = "/local/domain/";
  if (path.compare(0, prefix.size(), prefix) != 0) return 0;
  const std::size_t slash = path.find('/', prefix.size());
  if (slash == std::string::npos) return 0;
  const std::string domid = path.substr(prefix.size(), slash - prefix.size());
  const bool number =
      !domid.empty() && domid.size() <= 5 && domid.find_first_not_of("0123456789") == std::string::npos;
  return number ? slash + 1 : 0;
}

std::optional<std::uint32_t> reference_domid(const std::string& text) {
  if (text.empty() || text.find_first_of(" \t\n\v\f\r") != std::string::npos) return std::nullopt;
  errno = 0;
  char* end = nullptr;
  const unsigned long long value = std::strtoull(text.c_str(), &end, 0);
  if (errno != 0 || end != text.c_str() + text.size() || end == text.c_str()) return std::nullopt;
  return static_cast<std::uint32_t>(value);
}

// ---- the parsers of payloads ----

void check_number(const std::string& text) {
  constexpr std::int64_t kExact = std::int64_t{1} << 58;  // beyond it only the direction is promised
  errno = 0;
  const std::int64_t expected = std::strtoll(text.c_str(), nullptr, 10);
  const std::int64_t got = leading_number(text);
  if (errno == 0 && expected > -kExact && expected < kExact) {
    require(got == expected, "leading_number");
  } else {
    require(expected > 0 ? got >= kExact : got <= -kExact, "leading_number saturates");
  }
}

void check_path(const std::string& path) {
  const bool valid = reference_is_path(path);
  require(is_path(path) == valid, "is_path");
  for (const std::size_t limit : {std::size_t{1}, std::size_t{10}, kMaxRelativePath, kMaxAbsolutePath}) {
    const bool within = valid && path.size() <= reference_domain_prefix(path) + limit;
    require(is_path_within(path, limit) == within, "is_path_within");
  }
  if (!valid || path == "/") return;
  std::string joined;
  std::size_t consumed = 0;
  for (Components components(path); !components.done();) {
    joined += '/';
    joined += components.next();
    consumed = components.consumed();
    require(path.compare(0, consumed, joined) == 0, "Components::consumed");
  }
  require(joined == path && consumed == path.size(), "Components");
  const std::string parent(parent_path(path));
  require((parent == "/" ? parent : parent + "/") + std::string(last_component(path)) == path, "parent_path");
}

void check_permissions(const std::string& payload, const std::vector<std::string>& arguments) {
  using xenstore::core::Permission;
  auto parsed = xenstore::core::parse_permissions(payload, arguments.size());
  std::vector<Permission> expected;
  bool valid = !arguments.empty();
  for (const std::string& text : arguments) {
    const std::size_t letter = std::string("nrwb").find(text.empty() ? '?' : text[0]);
    const auto domid = text.empty() ? std::nullopt : reference_domid(text.substr(1));
    valid = valid && letter != std::string::npos && domid;
    if (!valid) break;
    expected.push_back(
        {.domid = *domid, .rights = static_cast<std::uint8_t>(letter), .ignored = *domid >= 0x7FF0});
  }
  if (!valid) return require(!parsed && parsed.error() == ErrorCode::kInvalid, "bad permissions are EINVAL");
  if (expected[0].ignored != 0) {
    return require(!parsed && parsed.error() == ErrorCode::kNoEntry, "an owner that is no domain is ENOENT");
  }
  require(parsed && std::ranges::equal((*parsed)->view(), expected), "parse_permissions");
  std::string text;
  xenstore::core::append_permissions(**parsed, text);
  auto again = xenstore::core::parse_permissions(text, count_arguments(text));
  require(again && std::ranges::equal((*again)->view(), expected), "what GET_PERMS says is what was set");
}

void check_payload(const std::string& payload) {
  const std::vector<std::string> arguments = reference_arguments(payload);
  require(count_arguments(payload) == arguments.size(), "count_arguments");
  const auto only = only_argument(payload);
  const bool one = arguments.size() == 1 && payload.back() == '\0';
  require(only.has_value() == one && (!one || *only == arguments[0]), "only_argument");
  std::string_view rest = payload;
  for (const std::string& argument : arguments) {
    require(take_argument(rest) == argument, "take_argument");
    check_path(argument);
    check_number(argument);
  }
  const bool nothing_left = !take_argument(rest);
  require(nothing_left, "take_argument needs a NUL");
  check_path(std::string(rest));
  check_number(payload);
  check_permissions(payload, arguments);
}

// ---- the buffers ----

struct Client {
  std::string unsent;    // will arrive
  std::string arrived;   // stands in the input buffer, as far as it is not parsed
  std::string expected;  // was put into the output buffer, as far as it is not sent
  bool cut_off = false;
  std::array<std::size_t, 3> sizes() const { return {unsent.size(), arrived.size(), expected.size()}; }
};

std::uint32_t little_endian(const std::string& bytes, std::size_t at) {
  std::uint32_t value = 0;
  for (std::size_t i = 0; i < 4; ++i) {
    value |= std::uint32_t{static_cast<unsigned char>(bytes[at + i])} << (8 * i);
  }
  return value;
}

Connections::Input reference_message(const std::string& bytes, Header& header) {
  if (bytes.size() < 16) return Connections::Input::kIncomplete;
  header = {little_endian(bytes, 0), little_endian(bytes, 4), little_endian(bytes, 8),
            little_endian(bytes, 12)};
  if (header.length > 4096) return Connections::Input::kOversized;
  return bytes.size() < 16 + header.length ? Connections::Input::kIncomplete : Connections::Input::kMessage;
}

// The output ring, at its committed end.
void send_back(Connections& connections, std::uint32_t index, Client& client, const Header& header,
               const std::string& payload) {
  const std::string bytes = std::string(reinterpret_cast<const char*>(&header), sizeof header) + payload;
  const bool fits = client.expected.size() + bytes.size() <= small_custody_settings().geometry.out_bytes;
  require(connections.stage(index, header, as_bytes(payload)) == fits, "stage takes what there is room for");
  if (!fits) return;
  connections.set_produced(index, connections.staged(index), connections.staged_crc(index));
  client.expected += bytes;
}

void drain(Connections& connections, std::uint32_t index, Client& client, std::size_t most) {
  while (most > 0 && connections.output_pending(index)) {
    const auto source = connections.send_source(index);
    require(!source.empty(), "what is pending can be sent");
    const auto sent = source.first(std::min(source.size(), most));
    require(client.expected.compare(0, sent.size(), as_text(sent)) == 0, "output is what was put in");
    client.expected.erase(0, sent.size());
    require(connections.output_sound(index, sent.size()), "output that nobody damaged is sound");
    connections.set_sent(index, connections.slot(index).sent.load() + sent.size());
    most -= sent.size();
  }
  require(connections.output_pending(index) == !client.expected.empty(), "output_pending");
}

// As the server does it. False when no whole message stands there.
bool take_message(Connections& connections, std::uint32_t index, Client& client) {
  Request request{};
  Header header{};
  const Connections::Input expected = reference_message(client.arrived, header);
  require(connections.next_message(index, request) == expected, "next_message");
  client.cut_off = expected == Connections::Input::kOversized;
  if (expected != Connections::Input::kMessage) return false;
  require(std::memcmp(&request.header, &header, sizeof header) == 0, "the header");
  const std::string payload = client.arrived.substr(16, header.length);
  require(as_text(request.payload) == payload, "the payload");
  check_payload(payload);
  (void)effect_of(header.type, header.transaction_id);
  send_back(connections, index, client, header, payload);
  require(connections.open_input(index), "input that nobody damaged is sound");
  connections.slot(index).parsed.fetch_add(16 + header.length);
  connections.seal_input(index);
  client.arrived.erase(0, 16 + header.length);
  return true;
}

void arrive(Connections& connections, std::uint32_t index, Client& client, std::size_t count) {
  const std::uint32_t in_bytes = small_custody_settings().geometry.in_bytes;
  while (count > 0 && !client.unsent.empty()) {
    const auto space = connections.receive_space(index);
    require(space.empty() == (client.arrived.size() == in_bytes), "space is left unless the buffer is full");
    const std::size_t piece = std::min({count, client.unsent.size(), space.size()});
    if (piece == 0) return;
    require(connections.open_input(index), "input that nobody damaged is sound");
    std::memcpy(space.data(), client.unsent.data(), piece);
    client.arrived += client.unsent.substr(0, piece);
    client.unsent.erase(0, piece);
    connections.slot(index).received.fetch_add(piece);
    connections.seal_input(index);
    count -= piece;
  }
}

void begin(Connections& connections, std::uint32_t index, std::uint64_t offset) {
  connections.prepare(index);
  Slot& slot = connections.slot(index);
  for (auto* at : {&slot.received, &slot.parsed, &slot.produced, &slot.sent, &slot.in_base, &slot.out_base}) {
    at->store(offset);
  }
  slot.sent_seal.store(static_cast<std::uint32_t>(offset));  // nothing was sent: the checksum of nothing
  connections.unstage(index);
}

struct Piece {
  std::uint32_t client;
  bool parse_all;  // else one message at most
  std::size_t bytes;
  std::size_t send;
};

Piece read_piece(Input& input) {
  const std::uint8_t shape = input.byte();
  const std::size_t size = input.byte();
  const std::size_t scale = (shape & 4U) != 0 ? 64 : 1;
  return {shape & 1U, (shape & 2U) != 0, (size + 1) * scale, (shape >> 3U) * std::size_t{256}};
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  static MemoryCustody store = small_custody();
  static const bulkhead::xenstore::Custody custody = bulkhead::xenstore::Custody::open(store).value();
  static bulkhead::xenstore::Connections connections(custody);

  Input input(data, size);
  constexpr std::uint64_t kOffsets[] = {0, 0xFFFF'FFF0, 0x1234'5678'9ABC};
  const std::uint64_t offset = input.one_of(kOffsets);
  std::vector<Piece> pieces;
  for (std::size_t count = 1 + input.pick(32); count > 0; --count) pieces.push_back(read_piece(input));
  Client clients[2];
  clients[0].unsent = input.text(input.rest().size() / 2);
  clients[1].unsent = input.text(input.rest().size());
  begin(connections, 0, offset);
  begin(connections, 1, offset);
  // The pieces over and over, until nothing moves any more.
  for (std::size_t idle = 0, at = 0; idle < pieces.size(); ++at) {
    const Piece& piece = pieces[at % pieces.size()];
    Client& client = clients[piece.client];
    const auto before = client.sizes();
    if (!client.cut_off) {
      arrive(connections, piece.client, client, piece.bytes);
      while (take_message(connections, piece.client, client) && piece.parse_all) {
      }
    }
    drain(connections, piece.client, client, piece.send);
    idle = client.sizes() != before ? 0 : idle + 1;
  }
  return 0;
}
