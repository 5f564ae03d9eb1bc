// Journal segments with arbitrary content, read by Journal and followed by a Replica: always a record or an
// error that says what is wrong, always forward, and never an unsound engine.
//
// Input: a byte for the mode. 0: a whole segment, whose header is part of the input. 1: records as they stand
// in the ring, behind an arbitrary start. 2: the same, with checksums and positions repaired first. 3: a
// program (request_program.h) journalled as the service does it, then damaged: 1 byte for the number of
// edits, 4 for each.
#include <atomic>
#include <limits>
#include <vector>

#include "components/xenstore/protocol.h"
#include "components/xenstore/replica.h"
#include "components/xenstore/snapshot.h"
#include "runtime/crc32c.h"
#include "runtime/journal.h"
#include "tests/fuzz/fuzz.h"
#include "tests/fuzz/memory_custody.h"
#include "tests/fuzz/request_program.h"

namespace bulkhead::fuzz {
namespace {

using xenstore::Custody;
using xenstore::Engine;
using xenstore::InputKind;
using xenstore::Replica;

constexpr std::uint64_t kAll = std::numeric_limits<std::uint64_t>::max();

// docs/formats/journal.md
constexpr std::size_t kStart = 64;
constexpr std::size_t kTail = 128;
constexpr std::size_t kData = 4096;
struct RecordHeader {
  std::uint32_t crc;
  std::uint32_t length;
  std::uint64_t position;
  std::uint32_t kind;
  std::uint32_t subject;
};

void set_ends(const Mapping& segment, std::uint64_t start, std::uint64_t tail) {
  segment.at<std::atomic<std::uint64_t>>(kStart)->store(start);
  segment.at<std::atomic<std::uint64_t>>(kTail)->store(tail);
}

// ---- reading a segment ----

// From the start to the tail or the first damage.
void read_all(const Journal& journal) {
  JournalRecord record;
  std::uint64_t position = journal.start();
  std::uint64_t records = 0;
  while (position < journal.tail()) {
    const Status read = journal.read(position, record);
    if (!read) return require(!read.error().message().empty(), "damage is described");
    require(record.next > position && record.next <= journal.tail(),
            "reading goes forward, not beyond the tail");
    require(record.payload.size() <= Journal::kMaxPayload, "a payload is bounded");
    require(++records <= journal.capacity() / 8, "there are no more records than fit");
    position = record.next;
  }
}

void whole_segment(Input& input) {
  // The size as create() makes it, or arbitrary.
  const std::size_t pages = input.pick(4);
  const std::size_t size =
      pages == 3 ? kData + 2 * Journal::kMaxRecord : kData * pages + input.number<std::uint16_t>();
  auto segment = create_memfd("fuzz-journal", std::max<std::size_t>(size, 1));
  require(segment.has_value(), "a segment can be made");
  const bool plausible = input.pick(2) == 0;
  const std::uint64_t start = input.number<std::uint64_t>();
  const std::uint64_t tail = input.number<std::uint64_t>();
  {
    auto mapping = Mapping::map(segment->borrow(), 1);
    require(mapping.has_value(), "it can be mapped");
    const auto rest = input.rest();
    std::memcpy(mapping->data(), rest.data(), std::min(rest.size(), mapping->size()));
    if (plausible && mapping->size() > kData) {
      *mapping->at<std::uint64_t>(0) = 0x316c6e4a'6b6c7542;
      *mapping->at<std::uint64_t>(8) = mapping->size() - kData;
      set_ends(*mapping, start, tail);
    }
  }
  auto journal = Journal::open(segment->borrow());
  if (!journal) return require(!journal.error().message().empty(), "a refusal says why");
  read_all(*journal);
}

// ---- following a ring ----

struct Ring {
  Ring() : store(small_custody()), custody(Custody::open(store).value()), segment(store.map("journal")) {}

  std::span<std::byte> data() const { return segment.bytes().subspan(kData); }
  void write(std::uint64_t position, std::span<const std::byte> bytes) const {
    for (const std::byte byte : bytes) data()[position++ % data().size()] = byte;
  }
  void clear() const { std::memset(data().data(), 0, data().size()); }

  MemoryCustody store;
  Custody custody;
  Mapping segment;
};

// Makes position and checksum of each record right; a length that leads beyond the end of the ring is cut.
void repair(const Ring& ring, std::uint64_t position, std::uint64_t tail) {
  const std::uint64_t capacity = ring.data().size();
  while (position < tail) {
    const std::uint64_t room = capacity - position % capacity;
    if (room < sizeof(RecordHeader)) {
      position += room;
      continue;
    }
    std::byte* at = ring.data().data() + position % capacity;
    RecordHeader header{};
    std::memcpy(&header, at, sizeof header);
    header.position = position;
    header.length = static_cast<std::uint32_t>(std::min<std::uint64_t>(header.length, room - sizeof header));
    RecordHeader summed = header;
    if (header.kind == 0) summed.length = 0;
    const auto* bytes = reinterpret_cast<const std::byte*>(&summed);
    header.crc = crc32c({bytes + sizeof header.crc, sizeof header - sizeof header.crc});
    header.crc = crc32c({at + sizeof header, summed.length}, header.crc);
    std::memcpy(at, &header, sizeof header);
    position = header.kind == 0 ? position + room : position + (sizeof header + header.length + 7) / 8 * 8;
  }
}

// Follows until the end or the first error, which then stands: nothing more is executed.
void follow(Ring& ring) {
  Replica replica(ring.custody);
  replica.advance(ring.custody.journal().start());
  auto followed = replica.follow(1);
  while (followed && *followed) followed = replica.follow(kAll);
  const Status sound = replica.engine().check();
  require(sound.has_value(), sound ? "" : sound.error().message());
  if (followed) {
    require(replica.position() == ring.custody.journal().tail(), "the end is the tail");
    return;
  }
  const std::uint64_t position = replica.position();
  auto again = replica.follow(kAll);
  require(!again && again.error().message() == followed.error().message(), "an error stands");
  require(replica.position() == position, "nothing is skipped");
}

void arbitrary_ring(Ring& ring, Input& input, bool repaired) {
  ring.clear();
  const std::uint64_t capacity = ring.data().size();
  // Near the end of the ring, so that records meet it.
  const std::uint64_t start = capacity * (1 + input.pick(3)) - 8 * std::uint64_t{input.byte()};
  const auto bytes = std::as_bytes(input.rest());
  const std::uint64_t tail = start + (bytes.size() + 7) / 8 * 8;
  ring.write(start, bytes);
  set_ends(ring.segment, start, tail);
  if (repaired) repair(ring, start, tail);
  read_all(ring.custody.journal());
  follow(ring);
}

void append(Ring& ring, const Step& step) {
  Journal& journal = ring.custody.journal();
  const auto commit = [&](InputKind kind, std::initializer_list<std::span<const std::byte>> parts) {
    journal.commit(journal.prepare(static_cast<std::uint32_t>(kind), step.connection, parts));
  };
  if (step.kind == Step::Kind::kConnect) {
    const xenstore::ConnectInput connect{1, step.domid, 0};
    commit(InputKind::kConnect, {std::as_bytes(std::span(&connect, 1))});
  } else if (step.kind == Step::Kind::kDisconnect) {
    commit(InputKind::kDisconnect, {});
  } else if (step.kind == Step::Kind::kRequest) {
    const xenstore::Request request = step.request();
    commit(InputKind::kRequest, {std::as_bytes(std::span(&request.header, 1)), request.payload});
  }
}

void journalled_program(Ring& ring, Input& input) {
  struct Edit {
    std::uint16_t place;
    std::uint8_t kind;
    std::uint8_t value;
  };
  std::vector<Edit> edits(input.pick(4));
  for (Edit& edit : edits) edit = input.number<Edit>();
  const bool repaired = input.pick(2) != 0;
  ring.clear();
  const std::uint64_t start = ring.data().size() - 8 * std::uint64_t{input.byte()};
  set_ends(ring.segment, start, start);
  Engine engine;
  RequestProgram program(input);
  for (std::size_t steps = 0; steps < 40; ++steps) {
    const auto step = program.next();
    if (!step || ring.custody.journal().free() < Journal::kMaxRecord) break;
    if (step->kind == Step::Kind::kShutDown) continue;  // the service journals none
    ReplyOnly out;
    if (carry_out(engine, *step, out)) append(ring, *step);
    program.learn(*step, out.type, out.payload);
  }
  const std::uint64_t tail = ring.custody.journal().tail();
  if (edits.empty()) {
    Replica replica(ring.custody);
    replica.advance(start);
    require(replica.follow(kAll).has_value(), "an undamaged journal is followed");
    require(write_snapshot(replica.engine()) == write_snapshot(engine), "to the same state");
    return;
  }
  for (const Edit& edit : edits) {
    std::byte& at =
        ring.data()[(start + edit.place % std::max<std::uint64_t>(tail - start, 1)) % ring.data().size()];
    at = edit.kind % 2 == 0 ? static_cast<std::byte>(edit.value)
                            : at ^ static_cast<std::byte>(1U << edit.value % 8U);
  }
  if (repaired) repair(ring, start, tail);
  read_all(ring.custody.journal());
  follow(ring);
}

}  // namespace
}  // namespace bulkhead::fuzz

int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  using namespace bulkhead::fuzz;  // NOLINT(google-build-using-namespace)
  static Ring ring;
  Input input(data, size);
  switch (input.pick(4)) {
    case 0:
      whole_segment(input);
      break;
    case 1:
      arbitrary_ring(ring, input, false);
      break;
    case 2:
      arbitrary_ring(ring, input, true);
      break;
    default:
      journalled_program(ring, input);
  }
  return 0;
}
