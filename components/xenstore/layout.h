// What the xenstore service keeps in custody, byte for byte. Every structure here is shared between processes
// and outlives them; docs/formats/xenstore-custody.md tells the meaning and the rules. A killed process may
// stop between any two stores.
#pragma once

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

namespace bulkhead::xenstore {

inline constexpr std::uint64_t kControlMagic = 0x31747358'6b6c7542;  // "BulkXst1"
inline constexpr std::uint32_t kLayoutVersion = 4;
inline constexpr std::size_t kSnapshotSlots = 3;  // one published, one per possible writer (active, standby)
inline constexpr std::size_t kSuspects = 8;       // see Control::suspects
inline constexpr std::size_t kDeadlyRecords = 4;  // see Control::deadly_records

// Chosen when custody is created; a successor with other settings keeps what it finds.
struct Geometry {
  std::uint32_t max_connections;
  std::uint32_t in_bytes;   // input buffer of a connection, a power of two, more than one whole message
  std::uint32_t out_bytes;  // output buffer of a connection, a power of two
};

enum class SlotState : std::uint32_t {
  kFree = 0,     // the ring's file table is empty here (or an accept into it is in flight)
  kOpen = 1,     // a client
  kClosing = 2,  // the engine has forgotten it; the socket is still in the ring's file table
};

// One connection: a client's socket, or a domain's ring (xen/io/xs_wire.h, struct xenstore_domain_interface).
// Offsets count the bytes of a stream since the connection began. Who advances which, and by what witness:
//   received, sent    socket: from completions of the io_uring: base (carried in user_data) + result
//                     domain's ring: one store here, when the bytes are copied; the ring's own indexes are
//                     derived from it and published behind it, so that this is ahead of what the domain sees
//   parsed, produced  from commits
// The bytes of offset o stand at (o - base) modulo the buffer's size; a base changes only while its buffer is
// empty.
struct alignas(128) Slot {
  std::atomic<SlotState> state;
  std::uint32_t domid;
  std::atomic<std::uint64_t> serial;  // which connection this is; never reused
  std::atomic<std::uint64_t> received;
  std::atomic<std::uint64_t> parsed;
  std::atomic<std::uint64_t> produced;
  std::atomic<std::uint64_t> sent;
  std::atomic<std::uint64_t> in_base;
  std::atomic<std::uint64_t> out_base;
  // The client will send no more. Of a domain's ring: the domain is cut off, until it begins anew.
  std::atomic<std::uint32_t> end_of_input;
  // Output did not fit: the client has to be cut off. Stored before the commit that leaves the output out.
  std::atomic<std::uint32_t> overflowed;
  // Unprivileged domains only: where the first message begins that is not sent as a whole. Follows `sent`;
  // what stands between the two is kept, so that a successor can count what waits (delivery.h).
  std::atomic<std::uint64_t> boundary;
  // count << 48 | low bits of the offset of the newest: requests of this client that killed owner after owner
  // and were refused. One word, so that counting one twice is counting it once.
  std::atomic<std::uint64_t> strikes;
  // Checksums, each one word with the low half of the offset it is of (connection_seals.cpp). Of all output
  // before `sent`: stored before `sent`, so the two agree once completions are counted.
  std::atomic<std::uint64_t> sent_seal;
  // Of the input between `parsed` and `received`, while it rests; 0 while it is worked on.
  std::atomic<std::uint64_t> rest_seal;
  std::atomic<std::uint32_t> out_crc;  // CRC32C of all output before `produced`; changes with it
  // Something here was found to be damaged: the client is cut off, by a successor if not by its finder.
  std::atomic<std::uint32_t> damaged;
  // Of a domain's ring, stored before the slot is open and not changed until it is used again; 0 in a
  // socket's.
  std::uint32_t ring_port;      // our end of its event channel
  std::uint32_t introduction;   // which of the domain's (Engine::introduced_domains)
  std::uint32_t request_base;   // index of the domain's ring at offset 0 of the input
  std::uint32_t response_base;  // likewise of the output

  bool is_ring() const { return ring_port != 0; }
  // Of the domain's ring, where the stream has this offset.
  std::uint32_t request_index(std::uint64_t offset) const {
    return request_base + static_cast<std::uint32_t>(offset);
  }
  std::uint32_t response_index(std::uint64_t offset) const {
    return response_base + static_cast<std::uint32_t>(offset);
  }
};
static_assert(sizeof(Slot) == 128);

// What one executed input changes, as absolute values, so that applying it twice is applying it once.
struct CommitEntry {
  std::uint32_t slot;
  SlotState state;
  std::uint64_t parsed;
  std::uint64_t produced;
  std::uint32_t out_crc = 0;  // of all output before `produced`
  std::uint32_t unused = 0;
};

struct CommitRecord {
  std::uint64_t journal_tail;
  std::uint64_t next_serial;
  std::uint32_t entries;  // CommitEntry[entries] follow
  // CRC32C of the commit's number, of everything before this field, and of the entries. Checked by a
  // successor that applies the record, so that nobody is moved to a position that was never true.
  std::uint32_t crc;
};

struct Control {
  std::uint64_t magic;
  std::uint32_t version;
  Geometry geometry;
  // CRC32C of version and geometry. They never change.
  std::uint32_t seal;
  // Of the ring the connections live in: its low 40 bits, and 24 bits of their CRC32C above them. One store.
  std::atomic<std::uint64_t> ring_generation;

  std::atomic<std::uint64_t> next_serial;

  // The commit: records alternate by the parity of the number; storing `committed` makes record (committed &
  // 1) true; then it is applied and `applied` follows. applied != committed: the owner died in between, apply
  // it again.
  alignas(64) std::atomic<std::uint64_t> committed;
  std::atomic<std::uint64_t> applied;

  // (count << 2 | snapshot slot) of the newest complete snapshot, 0: none.
  alignas(64) std::atomic<std::uint64_t> published;
  // The standby sleeps and wants its doorbell rung when the journal grows.
  alignas(64) std::atomic<std::uint32_t> follower_waiting;
  // How far the standby has come; the owner slows down a little for one that moves but falls behind.
  std::atomic<std::uint64_t> follower_position;
  // The last snapshot did not fit its segment: the journal cannot be shortened, the state must not grow.
  std::atomic<std::uint32_t> state_too_large;
  // A standby cannot read on in the journal: a new snapshot would take it past the damage.
  std::atomic<std::uint32_t> snapshot_wanted;

  // Quarantine (quarantine.h). What the owner does at this instant, and what owners have died of lately: the
  // identity of a piece of work, and how many died in it. 0: nothing.
  alignas(64) std::atomic<std::uint64_t> working;
  std::array<std::atomic<std::uint64_t>, kSuspects> suspects;

  // Rehearsals (rehearsal.h): until when (CLOCK_MONOTONIC ns; 0: not at all) requests made to be poison are
  // poison, and new clients act for a guest. Here, since they must hold for successors too.
  std::atomic<std::int64_t> poison_until_ns;
  std::atomic<std::int64_t> guest_until_ns;
  std::atomic<std::uint32_t> guest_domid;

  // Slots at and above this index have never been used: nobody needs to look there.
  std::atomic<std::uint32_t> slots_used;
  // What the last salvage gave up, for the next owner to tell the core: records, and the position of the
  // first. Stored before the salvaged state counts.
  std::atomic<std::uint64_t> lost_records;
  std::atomic<std::uint64_t> lost_from;

  // Quarantine of journal records (journal_quarantine.h): what the standby [0] and an owner in its take-over
  // [1] are executing, position + 1, 0: nothing; and records that such have died of: deaths << 56 |
  // position + 1, 0: none.
  // A line of their own: a standby writes there with each record.
  alignas(64) std::array<std::atomic<std::uint64_t>, 2> following;
  std::array<std::atomic<std::uint64_t>, kDeadlyRecords> deadly_records;
};

// Head of a snapshot segment; the data stands at kSnapshotData.
struct SnapshotHead {
  // Odd while being written; a reader that sees it change reads again.
  std::atomic<std::uint64_t> version;
  std::uint64_t journal_position;
  std::uint64_t length;
  // CRC32C of position and length, and kHeadSealed; 0: written by a program that did not know it yet.
  std::uint64_t seal;
  alignas(64) std::byte writer_lock[128];  // a robust mutex: whoever writes here holds it
};
inline constexpr std::size_t kSnapshotData = 4096;
inline constexpr std::uint64_t kHeadSealed = std::uint64_t{1} << 32;

constexpr std::size_t commit_record_bytes(std::uint32_t max_connections) {
  return (sizeof(CommitRecord) + sizeof(CommitEntry) * (std::size_t{max_connections} + 1) + 63) / 64 * 64;
}
inline constexpr std::size_t kCommitRecords =
    4096;  // offset of the two commit records in the control segment
constexpr std::size_t control_bytes(std::uint32_t max_connections) {
  return kCommitRecords + 2 * commit_record_bytes(max_connections);
}
constexpr std::size_t connections_bytes(const Geometry& g) {
  return std::size_t{g.max_connections} * (sizeof(Slot) + std::size_t{g.in_bytes} + g.out_bytes) + 4096;
}

static_assert(sizeof(Control) <= kCommitRecords);
static_assert(std::atomic<SlotState>::is_always_lock_free);

}  // namespace bulkhead::xenstore
