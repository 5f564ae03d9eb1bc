// For tests of the migration stream: streams to try, and bytes in one line.
#pragma once

#include <algorithm>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/migration_stream.h"
#include "components/xenstore/protocol.h"

namespace bulkhead::xenstore::migration {

inline std::vector<std::byte> bytes_of(std::string_view text) {
  const auto bytes = as_bytes(text);
  return {bytes.begin(), bytes.end()};
}

// A message as it stands on a connection.
inline std::vector<std::byte> message(std::uint32_t type, std::string_view payload) {
  const Header header{.type = type,
                      .request_id = 7,
                      .transaction_id = 0,
                      .length = static_cast<std::uint32_t>(payload.size())};
  std::vector<std::byte> bytes(sizeof header + payload.size());
  std::memcpy(bytes.data(), &header, sizeof header);
  std::ranges::copy(as_bytes(payload), bytes.begin() + sizeof header);
  return bytes;
}

inline Connection connection_to(std::uint32_t id, std::variant<Ring, Socket> end) {
  Connection made;
  made.id = id;
  made.end = end;
  return made;
}

// Something of everything that this version has.
inline Stream sample(std::uint32_t version) {
  Stream stream;
  stream.version = version;
  stream.descriptors = Descriptors{.listener = 5, .event_channels = -1};
  stream.quotas = GlobalQuotas{.of_domains = {{"nodes", 500}, {"soft-memory", 0}}, .of_all = {{"odd", 3}}};
  Connection dom0 = connection_to(1, Ring{.domid = 0, .target = {}, .port = 2});
  dom0.unique_id = 77;
  dom0.watches = {{"@releaseDomain", "t", {}}, {"device/vif", "", {}}};
  Connection guest = connection_to(2, Ring{.domid = 3, .target = 4, .port = 9});
  guest.input = message(kRead, std::string("/a\0", 3));
  guest.input.pop_back();
  guest.output = bytes_of("rest");
  guest.partial = 4;
  const auto whole = message(kWrite, std::string("OK\0", 3));
  guest.output.insert(guest.output.end(), whole.begin(), whole.end());
  Connection target = connection_to(9, Ring{.domid = 4, .target = {}, .port = 10});
  Connection client = connection_to(0xFFFFFFFF, Socket{.descriptor = 14});
  client.watches = {{"/local", "token", {}}};
  client.transactions = {1, 0xFFFFFFFF};
  if (version >= kVersion2) client.watches.push_back({"/deep", "token", 3});
  stream.connections = {dom0, guest, target, client};
  stream.domains = {{.domid = 3, .features = version >= kVersion2 ? 5U : 0U, .quotas = {{"nodes", 7}}},
                    {.domid = 4, .features = 0, .quotas = {}}};
  stream.nodes = {{.path = "@releaseDomain", .value = {}, .permissions = {{'n', false, 0}, {'r', false, 3}}},
                  {.path = "/", .value = {}, .permissions = {{'n', false, 0}}},
                  {.path = "/a",
                   .value = bytes_of(std::string("v\0v", 3)),
                   .permissions = {{'r', false, 3}, {'b', true, 8}}},
                  {.path = "/a/b", .value = bytes_of(std::string(8, 'x')), .permissions = {{'w', false, 0}}},
                  {.connection = 0xFFFFFFFF,
                   .transaction = 1,
                   .access = 3,
                   .path = "/a",
                   .value = bytes_of("changed"),
                   .permissions = {{'r', false, 3}}},
                  {.connection = 0xFFFFFFFF,
                   .transaction = 1,
                   .access = 0,
                   .path = "/a/b",
                   .value = {},
                   .permissions = {}}};
  return stream;
}

}  // namespace bulkhead::xenstore::migration
