// Arbitrary bytes as a snapshot. What is accepted must be sound, be written back as it is read, and go on as
// a sound engine.
//
// Input: a byte for the mode. 0: a snapshot as it stands. 1: a snapshot whose checksums are repaired first,
// so that what lies behind them is reached. 2: a program (request_program.h) that makes an engine, whose
// snapshot is edited and repaired: 1 byte for the number of edits, 8 for each, then the program.
#include <vector>

#include "components/xenstore/protocol.h"
#include "components/xenstore/snapshot.h"
#include "runtime/crc32c.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/request_program.h"

namespace bulkhead::fuzz {
namespace {

using Bytes = std::vector<std::byte>;
using xenstore::Engine;

// docs/formats/snapshot.md
constexpr std::size_t kFileHeader = 16;
constexpr std::size_t kRecordHead = 8;
constexpr std::size_t kRecordTail = 4;

template <typename Number>
Number get(const Bytes& bytes, std::size_t at) {
  Number value{};
  std::memcpy(&value, bytes.data() + at, sizeof value);
  return value;
}
template <typename Number>
void put(Bytes& bytes, std::size_t at, Number value) {
  std::memcpy(bytes.data() + at, &value, sizeof value);
}

// ---- repair ----

// Makes every checksum right. A length that leads beyond the end is cut to what is left.
void repair(Bytes& bytes) {
  if (bytes.size() < kFileHeader) return;
  put(bytes, kFileHeader - 4, crc32c(std::span(bytes).first(kFileHeader - 4)));
  std::size_t at = kFileHeader;
  while (bytes.size() - at >= kRecordHead + kRecordTail) {
    const std::size_t most = bytes.size() - at - kRecordHead - kRecordTail;
    if (get<std::uint32_t>(bytes, at + 4) > most) put(bytes, at + 4, static_cast<std::uint32_t>(most));
    const std::size_t length = get<std::uint32_t>(bytes, at + 4);
    const std::size_t end = at + kRecordHead + length;
    put(bytes, end, crc32c(std::span(bytes).subspan(at, kRecordHead + length)));
    at = end + kRecordTail;
  }
}

// ---- edits ----

struct Edit {
  std::uint8_t kind;
  std::uint8_t record;
  std::uint8_t offset;
  std::uint8_t other;
  std::uint32_t value;
};

std::vector<Bytes> records_of(const Bytes& snapshot) {
  std::vector<Bytes> records;
  for (std::size_t at = kFileHeader; at < snapshot.size();) {
    const std::size_t size = kRecordHead + get<std::uint32_t>(snapshot, at + 4) + kRecordTail;
    records.emplace_back(snapshot.begin() + static_cast<std::ptrdiff_t>(at),
                         snapshot.begin() + static_cast<std::ptrdiff_t>(at + size));
    at += size;
  }
  return records;
}

// The edited field is in the payload, except for one place in 16: the record's type.
std::size_t place(const Bytes& record, const Edit& edit) {
  const std::size_t payload = record.size() - kRecordHead - kRecordTail;
  if (payload == 0 || edit.offset % 16 == 15) return 0;
  return kRecordHead + edit.offset % payload;
}

void edit_bytes(Bytes& record, const Edit& edit) {
  if (record.size() < kRecordHead + kRecordTail) return;  // an edit before this one took its head
  const std::size_t at = place(record, edit);
  const auto position = record.begin() + static_cast<std::ptrdiff_t>(at);
  const std::size_t room = record.size() - kRecordTail - at;
  switch (edit.kind % 8) {
    case 0:
      record[at] = static_cast<std::byte>(edit.value);
      break;
    case 1:
      if (room >= sizeof edit.value) put(record, at, edit.value);
      break;
    case 2:
      if (room >= sizeof(std::uint64_t)) put(record, at, std::uint64_t{0} - edit.value);
      break;
    case 3:
      if (room >= sizeof edit.value) put(record, at, get<std::uint32_t>(record, at) + (edit.value % 5) - 2);
      break;
    case 4:
      record.insert(position, 1 + edit.value % 8, static_cast<std::byte>(edit.other));
      break;
    default:
      record.erase(position,
                   position + static_cast<std::ptrdiff_t>(std::min<std::size_t>(room, edit.value % 8)));
  }
  if (record.size() >= kRecordHead + kRecordTail) {
    put(record, 4, static_cast<std::uint32_t>(record.size() - kRecordHead - kRecordTail));
  }
}

void apply(std::vector<Bytes>& records, const Edit& edit) {
  if (records.empty()) return;
  const std::size_t at = edit.record % records.size();
  const std::size_t other = edit.other % records.size();
  const auto position = records.begin() + static_cast<std::ptrdiff_t>(at);
  switch (edit.kind % 16) {
    case 12:
      records.erase(position);
      return;
    case 13:
      records.insert(position, Bytes(records[other]));
      return;
    case 14:
      std::swap(records[at], records[other]);
      return;
    case 15:
      records.resize(at + 1);
      return;
    default:
      edit_bytes(records[at], edit);
  }
}

Bytes edited_snapshot(Input& input) {
  std::vector<Edit> edits(input.pick(6));
  for (Edit& edit : edits) edit = input.number<Edit>();
  const Engine engine = run_program(input, 100);
  Bytes snapshot = write_snapshot(engine);
  std::vector<Bytes> records = records_of(snapshot);
  for (const Edit& edit : edits) apply(records, edit);
  snapshot.resize(kFileHeader);
  for (const Bytes& record : records) snapshot.insert(snapshot.end(), record.begin(), record.end());
  repair(snapshot);
  return snapshot;
}

Bytes read_input(Input& input) {
  const std::size_t mode = input.pick(3);
  if (mode == 2) return edited_snapshot(input);
  const auto rest = std::as_bytes(input.rest());
  Bytes bytes(rest.begin(), rest.end());
  if (mode == 1) repair(bytes);
  return bytes;
}

// ---- what is accepted ----

void require_sound(const Engine& engine, const char* what) {
  const Status sound = engine.check();
  require(sound.has_value(), sound ? "" : std::string(what) + ": " + sound.error().message());
}

Engine read_back(const Bytes& bytes) {
  auto read = xenstore::read_snapshot(bytes);
  require(read.has_value(), read ? "" : "what was accepted cannot be read again: " + read.error().message());
  return std::move(*read);
}

// Both must say the same, whatever they hold.
void go_on(Engine& engine, Engine& twin, std::span<const std::uint8_t> bytes) {
  Input input(bytes);
  RequestProgram program(input);
  for (std::size_t steps = 0; steps < 60; ++steps) {
    const auto step = program.next();
    if (!step) return;
    ReplyOnly out;
    ReplyOnly out_of_twin;
    carry_out(engine, *step, out);
    carry_out(twin, *step, out_of_twin);
    require(out.type == out_of_twin.type && out.payload == out_of_twin.payload, "the twin disagrees");
    require(out.payload.size() <= xenstore::kMaxPayload, "a reply fits a message");
    program.learn(*step, out.type, out.payload);
  }
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  Input input(data, size);
  auto engine = bulkhead::xenstore::read_snapshot(read_input(input));
  if (!engine) {
    require(!engine.error().message().empty(), "a refusal says why");
    return 0;
  }
  require_sound(*engine, "accepted");
  const Bytes written = write_snapshot(*engine);
  Engine twin = read_back(written);
  require(write_snapshot(twin) == written, "written as it is read");
  require_sound(twin, "read back");
  go_on(*engine, twin, {data, size});
  require_sound(*engine, "went on");
  require(write_snapshot(twin) == write_snapshot(*engine), "the twin went on identically");
  (void)read_back(write_snapshot(*engine));
  return 0;
}
