#include "components/xenstore/migration_internal.h"

#include <algorithm>
#include <cstring>

#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::migration {
namespace {

// Of the message whose header is at the front; nothing if no message can be that long.
std::optional<std::size_t> message_size(std::span<const std::byte> bytes) {
  Header header{};
  std::memcpy(&header, bytes.data(), sizeof header);
  if (header.length > kMaxPayload) return std::nullopt;
  return kHeaderSize + header.length;
}

}  // namespace

bool is_whole_output(std::span<const std::byte> output, std::size_t partial) {
  if (partial > output.size()) return false;
  for (auto rest = output.subspan(partial); !rest.empty();) {
    const auto size = rest.size() < kHeaderSize ? std::nullopt : message_size(rest);
    if (!size || *size > rest.size()) return false;
    rest = rest.subspan(*size);
  }
  return true;
}

bool is_possible_input(std::span<const std::byte> input) {
  while (input.size() >= kHeaderSize) {
    const auto size = message_size(input);
    if (!size) return false;
    input = input.subspan(std::min(*size, input.size()));
  }
  return true;
}

std::vector<std::byte> with_requests_reversed(std::span<const std::byte> input) {
  std::vector<std::span<const std::byte>> whole;
  while (input.size() >= kHeaderSize) {
    const std::size_t size = message_size(input).value_or(input.size());
    if (size > input.size()) break;
    whole.push_back(input.first(size));
    input = input.subspan(size);
  }
  std::vector<std::byte> out;
  for (auto message = whole.rbegin(); message != whole.rend(); ++message) {
    out.insert(out.end(), message->begin(), message->end());
  }
  out.insert(out.end(), input.begin(), input.end());
  return out;
}

std::string printable(std::string_view text) {
  constexpr std::size_t kMost = 200;
  std::string out(text.substr(0, kMost));
  std::ranges::replace_if(out, [](char c) { return c < ' ' || c > '~'; }, '?');
  return out;
}

std::string describe(const std::variant<Ring, Socket>& end) {
  if (const auto* socket = std::get_if<Socket>(&end)) {
    return "the client on descriptor " + std::to_string(socket->descriptor);
  }
  return "the ring of domain " + std::to_string(std::get<Ring>(end).domid);
}

}  // namespace bulkhead::xenstore::migration
