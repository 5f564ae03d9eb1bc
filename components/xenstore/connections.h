// The connection table in custody: each client's stream positions and its input and output bytes. Output is
// staged first (invisible to a successor) and becomes real with a commit.
#pragma once

#include <algorithm>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "components/xenstore/custody.h"
#include "components/xenstore/engine.h"

namespace bulkhead::xenstore {

class Connections {
 public:
  // What stands in a connection's input buffer.
  enum class Input : std::uint8_t { kIncomplete, kMessage, kOversized };

  explicit Connections(const Custody& custody);

  std::uint32_t capacity() const { return geometry_.max_connections; }
  // Slots from here on have never been used.
  std::uint32_t slots_used() const {
    return std::min(control_.slots_used.load(std::memory_order_relaxed), geometry_.max_connections);
  }
  Slot& slot(std::uint32_t index) const { return slots_[index]; }

  // Makes a free slot ready for a new connection's first byte. Harmless to repeat.
  void prepare(std::uint32_t index);

  // Takeover from another program: a prepared slot goes on with bytes that were received and not executed,
  // and bytes that were produced, of which `sent` have been sent. Both fit. Call count_unsent() when all are.
  void restore(std::uint32_t index, std::span<const std::byte> input, std::span<const std::byte> output,
               std::uint32_t sent);

  // Where the next received bytes go; empty when the buffer is full. Call only while no receive is in flight
  // for the slot.
  std::span<std::byte> receive_space(std::uint32_t index);

  // The next whole message. `request.payload` stays valid until the next call for any slot, or until it is
  // consumed.
  Input next_message(std::uint32_t index, Request& request);

  // Bytes that can still be staged.
  std::uint32_t room(std::uint32_t index) const;
  // Stages bytes behind what is staged already; false (nothing staged) if they do not fit.
  bool stage(std::uint32_t index, const Header& header, std::span<const std::byte> payload);
  // The stream offset after everything staged.
  std::uint64_t staged(std::uint32_t index) const { return staged_[index].end; }
  // CRC32C of the stream up to there.
  std::uint32_t staged_crc(std::uint32_t index) const { return staged_[index].crc; }
  // Forgets what is staged beyond the committed offset.
  void unstage(std::uint32_t index) {
    const Slot& s = slot(index);
    staged_[index] = {s.produced.load(std::memory_order_relaxed), s.out_crc.load(std::memory_order_relaxed)};
  }

  // Of a message that is still kept: it begins at or after the slot's boundary.
  Header output_header(std::uint32_t index, std::uint64_t offset) const;
  // Bytes that are staged or committed and not sent.
  std::uint64_t unsent(std::uint32_t index) const {
    return staged_[index].end - slot(index).sent.load(std::memory_order_relaxed);
  }

  // Bytes that wait for all clients together.
  std::uint64_t unsent_of_all() const { return unsent_of_all_; }
  // A commit or a completion moved a connection's output; both keep the sum above and the checksums.
  void count_unsent();
  void set_produced(std::uint32_t index, std::uint64_t produced, std::uint32_t crc);
  void set_sent(std::uint32_t index, std::uint64_t sent);
  // Takeover, of a domain's ring: a predecessor that died between the checksum and `sent` had copied the
  // bytes, so they count as sent. `most`: more than that are never under way.
  void finish_sent(std::uint32_t index, std::uint32_t most);
  // Gives memory back that a connection needed in bad times. Call when none of its output is in flight or
  // waiting.
  void shrink_output(std::uint32_t index) const;

  // Committed bytes not yet sent, as far as they are contiguous, and not more than 64 KiB.
  std::span<const std::byte> send_source(std::uint32_t index) const;
  bool output_pending(std::uint32_t index) const;

  // Checksums (connection_seals.cpp). While nobody works on a connection's input it is sealed: positions and
  // bytes. Is it as it was sealed? True as well while it is worked on.
  bool input_sound(std::uint32_t index) const;
  // Before input changes or is executed: checks it and breaks the seal. False: damaged, nothing changed.
  bool open_input(std::uint32_t index);
  void seal_input(std::uint32_t index);
  // Do the positions of its output agree with their checksum and with what was staged? Cheap. Not between
  // staging and commit.
  bool output_positions_sound(std::uint32_t index) const;
  // Are the next `length` bytes to be sent what was produced?
  bool output_sound(std::uint32_t index, std::size_t length) const;
  // Takeover, after completions were counted: likewise for all that waits. Call before output_sound().
  bool adopt_output(std::uint32_t index);

  // Damage (connection_damage.cpp). What cannot be true of a slot that a predecessor left, whatever instant
  // it died at; empty: nothing. For a slot that is not free, before anything else relies on it.
  std::string_view implausible(std::uint32_t index) const;
  // Marks a slot as damaged and empties its streams, so that it can be closed like any other. Harmless to
  // repeat. Call count_unsent() when all are.
  void write_off(std::uint32_t index);
  // Fault `corrupt`: flips a bit of what waits for the newest connection for which something does, or of the
  // newest connection's positions. False: there is none.
  enum class Place : std::uint8_t { kInput, kOutput, kPositions };
  bool flip_bit(Place place);
  // Repairs slots_used() if it is damaged or leaves out a slot below `at_least`. True if it did.
  bool repair_slots_used(std::uint32_t at_least);

 private:
  std::byte* victim_of(std::uint32_t index, Place place) const;
  struct Staged {
    std::uint64_t end = 0;
    std::uint32_t crc = 0;  // of the stream before `end`
  };
  // As much output as waits between two marks at least: points up to which the checksum is known, so that
  // checking what is sent next does not mean checking all that waits.
  static constexpr std::uint64_t kMarkEvery = std::uint64_t{16} * 1024;

  std::uint32_t crc_of_output(std::uint32_t index, std::uint64_t from, std::uint64_t to,
                              std::uint32_t crc) const;
  std::uint32_t crc_of_input(std::uint32_t index) const;
  void mark_output(std::uint32_t index);
  void seal_empty_output(std::uint32_t index);
  Staged mark_from(std::uint32_t index, std::uint64_t offset) const;
  std::byte* in_buffer(std::uint32_t index) const { return in_ + std::size_t{index} * geometry_.in_bytes; }
  std::byte* out_buffer(std::uint32_t index) const { return out_ + std::size_t{index} * geometry_.out_bytes; }
  void copy_in(std::uint32_t index, std::uint64_t offset, std::span<std::byte> to) const;
  void copy_out(std::uint32_t index, std::uint64_t offset, std::span<const std::byte> from) const;

  Geometry geometry_;
  Control& control_;
  Slot* slots_;
  std::byte* in_;
  std::byte* out_;
  std::vector<Staged> staged_;
  std::unordered_map<std::uint32_t, std::vector<Staged>> marks_;  // of those for whom much waits
  std::uint64_t unsent_of_all_ = 0;
  std::vector<std::byte> scratch_;  // a message that wraps, made contiguous
};

}  // namespace bulkhead::xenstore
