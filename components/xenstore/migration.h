// Taking over from another xenstored, and handing over to one: the records of a migration stream as an engine
// and its connections, and back. Deterministic: the same input gives the same engine, the same records and
// the same notes. What one side knows and the other has no word for is told in the notes.
// docs/formats/xenstore-migration.md.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "components/xenstore/engine.h"
#include "components/xenstore/migration_stream.h"

namespace bulkhead::xenstore::migration {

// A connection of an engine, and what it is in the world.
struct Attachment {
  ConnectionId id = 0;  // in the engine
  // The target of a ring is not looked at: the engine knows it.
  std::variant<Ring, Socket> end;
  std::vector<std::byte>
      input;  // received and not executed: whole messages, then perhaps the beginning of one
  std::vector<std::byte> output;           // not sent yet: `partial` bytes, then whole messages
  std::uint16_t partial = 0;               // the rest of a message of which the client has the beginning
  std::optional<std::uint64_t> unique_id;  // the hypervisor's, of the ring's domain, if it was told
};

// Lines for the operator, in the order of their reasons; the last one counts those that were too many.
using Notes = std::vector<std::string>;

struct Import {
  // Sound: check() holds. No watch has fired, and none does for what was imported. Each domain with a ring is
  // introduced, with a number; the domain's own port is not in a stream: introduced_domains() has what
  // `port_of` said.
  Engine engine;
  std::optional<Descriptors> descriptors;
  std::vector<Attachment> connections;  // by id, which begin at 0 without gaps
  Notes notes;
};

// As whoever imports has no one to go back to (a live update replaces the process), all that can be taken is
// taken: what cannot is left out, and noted. Transactions are connected, but can only end as in a conflict,
// since a stream does not say what happened since they began. `limits` are the global ones where the stream
// has none. `port_of` tells the domain's own port of a ring's event channel; not given, or 0: it is not
// known. kExhausted: more connections than an engine can have.
Result<Import> import_stream(const Stream& stream, const Limits& limits = {},
                             const std::function<std::uint32_t(const Ring&)>& port_of = {});

struct Destination {
  std::uint32_t version = kVersion1;  // what it can read
  Descriptors descriptors;
  // Does the hypervisor know this domain (it is not asked about domain 0)? What others are granted is stale.
  // Not given: it knows all.
  std::function<bool(std::uint32_t domid)> exists;
};

struct Export {
  Stream stream;
  Notes notes;
};

// Connections of the engine that are not among `connections` are not handed over. Every introduced domain
// gets a ring, without a port if it has none in `connections`: the other side then knows the domain and
// ignores its ring. Open transactions are named in the stream, and end with an error in the C xenstored: who
// can, waits until there are none. kInvalid: a connection that the engine does not know or whose output is
// not whole messages. kFailed: the engine holds a damaged node.
Result<Export> export_engine(const Engine& engine, const std::vector<Attachment>& connections,
                             const Destination& destination);

}  // namespace bulkhead::xenstore::migration
