// Xen's xenstore migration stream: what one xenstored hands to the next, whoever made either, when it is
// updated live. Bytes to records and back, nothing else: what the records mean to an engine is in
// migration.h. Source: Xen's docs/designs/xenstore-migration.md. docs/formats/xenstore-migration.md says what
// daemons really write.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "runtime/result.h"

namespace bulkhead::xenstore::migration {

// Versions of the format. Debian 12's C xenstored reads and writes the first alone.
inline constexpr std::uint32_t kVersion1 = 1;
inline constexpr std::uint32_t kVersion2 = 2;  // adds the depth of watches and the features of domains

// Descriptors and ports are numbers that mean something in the process that carries on (live update keeps the
// process). -1: there is none.
struct Descriptors {
  std::int32_t listener = -1;
  std::int32_t event_channels = -1;
  friend bool operator==(const Descriptors&, const Descriptors&) = default;
};

// A domain's shared ring. Its page is not named: it is the domain's grant reference 1, or domain 0's own
// page.
struct Ring {
  std::uint16_t domid = 0;
  std::optional<std::uint16_t> target;  // the domain it acts for (SET_TARGET)
  std::uint32_t port = 0;               // our end of its event channel; 0: there is none
  friend bool operator==(const Ring&, const Ring&) = default;
};

struct Socket {
  std::int32_t descriptor = -1;
  friend bool operator==(const Socket&, const Socket&) = default;
};

struct Watch {
  std::string path;  // as the client gave it: absolute, relative to its home, or a special event
  std::string token;
  std::optional<std::uint16_t> depth;  // levels below the path that match; nothing: all. Version 2
  friend bool operator==(const Watch&, const Watch&) = default;
};

// What a connection has not sent and has not been sent is whole messages, except for the last of `input` and
// the first of `output`.
struct Connection {
  std::uint32_t id = 0;  // within the stream; not 0
  std::variant<Ring, Socket> end;
  std::vector<std::byte> input;   // read from it, not executed
  std::vector<std::byte> output;  // to be written to it
  std::uint16_t partial = 0;      // leading bytes of `output`: the rest of a message it has the beginning of
  std::optional<std::uint64_t> unique_id;  // the hypervisor's, of the ring's domain
  std::vector<Watch> watches;
  std::vector<std::uint32_t> transactions;  // ids of those that are open
  friend bool operator==(const Connection&, const Connection&) = default;
};

struct Permission {
  char access = 'n';   // n, r, w, b as in SET_PERMS
  bool stale = false;  // the domain it names is gone: never applies again
  std::uint16_t domid = 0;
  friend bool operator==(const Permission&, const Permission&) = default;
};

// Parents come before their children. A path that begins with '@' is a special event, which has only
// permissions.
struct Node {
  // Of the transaction that sees the node so; 0: the node is everybody's, and what follows means nothing.
  std::uint32_t connection = 0;
  std::uint32_t transaction = 0;
  std::uint16_t access = 0;  // what the transaction did: 1 read, 2 written, 0 removed
  std::string path;
  std::vector<std::byte> value;
  std::vector<Permission>
      permissions;  // the owner's first; empty only in a transaction that removed the node
  friend bool operator==(const Node&, const Node&) = default;
};

struct QuotaValue {
  std::string name;
  std::uint32_t value = 0;  // 0: unlimited
  friend bool operator==(const QuotaValue&, const QuotaValue&) = default;
};

struct GlobalQuotas {
  std::vector<QuotaValue> of_domains;  // what each domain has by default
  std::vector<QuotaValue> of_all;
  friend bool operator==(const GlobalQuotas&, const GlobalQuotas&) = default;
};

struct DomainData {
  std::uint16_t domid = 0;
  std::uint32_t features = 0;  // as in its ring page; version 2
  std::vector<QuotaValue> quotas;
  friend bool operator==(const DomainData&, const DomainData&) = default;
};

struct Stream {
  std::uint32_t version = kVersion1;
  std::optional<Descriptors> descriptors;
  std::optional<GlobalQuotas> quotas;
  std::vector<Connection> connections;
  std::vector<DomainData> domains;
  std::vector<Node> nodes;
  friend bool operator==(const Stream&, const Stream&) = default;
};

// kInvalid, with the offset and the type of the record at fault: damaged, truncated, a version, byte order or
// record type that is not known, or a record that refers to one that did not come before it. Takes memory for
// a small multiple of `bytes`.
Result<Stream> decode(std::span<const std::byte> bytes);

// kInvalid: something the format cannot hold, such as input of more than 65535 bytes or, in version 1, a
// watch's depth.
Result<std::vector<std::byte>> encode(const Stream& stream);

}  // namespace bulkhead::xenstore::migration
