// Arbitrary bytes as a migration stream. What is decoded must be encoded and decoded again unchanged; what is
// imported must be a sound engine, go on as one, and be exported and imported without a difference.
//
// Input: a byte for the mode. 0: a stream as it stands. 1: records, whose header, lengths and end are
// repaired first, so that what lies behind them is reached. 2: a program (request_program.h) that makes an
// engine, whose stream is edited and repaired: 1 byte for the number of edits, 4 for each, then the program.
#include <vector>

#include "components/xenstore/migration.h"
#include "components/xenstore/protocol.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/request_program.h"

namespace bulkhead::fuzz {
namespace {

namespace migration = xenstore::migration;
using Bytes = std::vector<std::byte>;
using migration::Attachment;
using xenstore::Engine;

// docs/formats/xenstore-migration.md
constexpr std::size_t kFileHeader = 16;
constexpr std::size_t kRecordHead = 8;

// ---- repair ----

// Gives `records` a header and an end, and lengths that lead to the next record.
Bytes repaired(std::span<const std::byte> records) {
  Bytes bytes;
  for (char c : {'x', 'e', 'n', 's', 't', 'o', 'r', 'e', '\0', '\0', '\0', '\2', '\0', '\0', '\0', '\0'}) {
    bytes.push_back(static_cast<std::byte>(c));
  }
  bytes.insert(bytes.end(), records.begin(), records.end());
  bytes.resize((bytes.size() + 7) / 8 * 8);
  for (std::size_t at = kFileHeader; at + kRecordHead <= bytes.size();) {
    std::uint32_t length = 0;
    std::memcpy(&length, bytes.data() + at + 4, sizeof length);
    const std::size_t left = bytes.size() - at - kRecordHead;
    length = static_cast<std::uint32_t>(std::min<std::size_t>(length & ~7U, left));
    std::memcpy(bytes.data() + at + 4, &length, sizeof length);
    at += kRecordHead + length;
  }
  bytes.resize(bytes.size() + kRecordHead);
  return bytes;
}

// ---- an engine's stream, edited ----

std::vector<Attachment> attachments_of(const Engine& engine) {
  std::vector<Attachment> made;
  for (xenstore::ConnectionId id = 0; id < engine.connections_end(); ++id) {
    const auto domid = engine.domain_of(id);
    if (!domid) continue;
    Attachment& attachment = made.emplace_back();
    attachment.id = id;
    attachment.end = migration::Socket{.descriptor = static_cast<std::int32_t>(id)};
    if (*domid != 0) {
      attachment.end =
          migration::Ring{.domid = static_cast<std::uint16_t>(*domid), .target = {}, .port = id + 1};
    }
  }
  return made;
}

migration::Stream exported(const Engine& engine, const std::vector<Attachment>& connections) {
  auto given = migration::export_engine(engine, connections,
                                        {.version = migration::kVersion2, .descriptors = {}, .exists = {}});
  require(given.has_value(), given ? "" : "a sound engine is not exported: " + given.error().message());
  return std::move(given->stream);
}

Bytes encoded(const migration::Stream& stream) {
  auto bytes = migration::encode(stream);
  require(bytes.has_value(), bytes ? "" : "not encoded: " + bytes.error().message());
  return std::move(*bytes);
}

struct Edit {
  std::uint16_t at;
  std::uint8_t kind;
  std::uint8_t value;
};

Bytes edited_stream(Input& input) {
  std::vector<Edit> edits(input.pick(6));
  for (Edit& edit : edits) edit = input.number<Edit>();
  const Engine engine = run_program(input, 100);
  Bytes bytes = encoded(exported(engine, attachments_of(engine)));
  for (const Edit& edit : edits) {
    std::byte& edited = bytes[kFileHeader + edit.at % (bytes.size() - kFileHeader)];
    edited =
        edit.kind % 2 == 0 ? static_cast<std::byte>(edit.value) : edited ^ static_cast<std::byte>(edit.value);
  }
  return bytes;
}

Bytes read_input(Input& input) {
  const std::size_t mode = input.pick(3);
  if (mode == 2) return edited_stream(input);
  const auto rest = std::as_bytes(input.rest());
  if (mode == 1) return repaired(rest);
  return {rest.begin(), rest.end()};
}

// ---- what is accepted ----

migration::Stream decoded(const Bytes& bytes) {
  auto stream = migration::decode(bytes);
  require(stream.has_value(), stream ? "" : "not decoded again: " + stream.error().message());
  return std::move(*stream);
}

migration::Import imported(const migration::Stream& stream) {
  auto import = migration::import_stream(stream, tight_limits());
  require(import.has_value(), import ? "" : "not imported: " + import.error().message());
  const Status sound = import->engine.check();
  require(sound.has_value(), sound ? "" : "imported: " + sound.error().message());
  require(import->notes.size() <= 101, "the notes are bounded");
  return std::move(*import);
}

void go_on(Engine& engine, std::span<const std::uint8_t> bytes) {
  Input input(bytes);
  RequestProgram program(input);
  for (std::size_t steps = 0; steps < 60; ++steps) {
    const auto step = program.next();
    if (!step) return;
    ReplyOnly out;
    carry_out(engine, *step, out);
    program.learn(*step, out.type, out.payload);
  }
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  const auto stream = migration::decode(read_input(input));
  if (!stream) {
    require(!stream.error().message().empty(), "a refusal says why");
    return 0;
  }
  require(decoded(encoded(*stream)) == *stream, "encoded as it is decoded");
  migration::Import import = imported(*stream);
  const migration::Stream given = exported(import.engine, import.connections);
  require(decoded(encoded(given)) == given, "what is exported is a stream");
  const migration::Import again = imported(given);
  require(again.engine.node_count() == import.engine.node_count(), "no node is lost");
  require(exported(again.engine, again.connections) == given, "there and back without a difference");
  go_on(import.engine, {data, size});
  const bulkhead::Status sound = import.engine.check();
  require(sound.has_value(), sound ? "" : "went on: " + sound.error().message());
  return 0;
}
