// The manifest's memory: a memfd with two copies of a serialised message and one word that says which is
// valid.
#pragma once

#include <cstdint>

#include "bulkhead/manifest/v1/manifest.pb.h"
#include "runtime/memfd.h"
#include "runtime/result.h"

namespace bulkhead::supervisor {

// Dying at any instant of write() leaves the former or the new content, never a mixture: the copy that is not
// valid is written first, then one store makes it valid. A checksum guards against stray writes.
class ManifestMemory {
 public:
  static constexpr std::size_t kMaxBytes = std::size_t{1} << 20;

  static Result<ManifestMemory> create();
  // Opens what a former core left. kInvalid if it is not a manifest or of another layout.
  static Result<ManifestMemory> open(UniqueFd fd);

  BorrowedFd fd() const { return fd_.borrow(); }

  // kNotFound if nothing was ever written; kInvalid if both copies are damaged.
  Result<manifest::v1::Manifest> read() const;
  Status write(const manifest::v1::Manifest& manifest);

  // The message being worked on, so that one that kills every core is found out: set before, cleared after.
  // `source` is the instance it came from, never 0.
  void begin_message(std::uint64_t source) const;
  void end_message() const;
  // Once at start: if the former core died within a message, counts it.
  void count_death() const;
  // How many cores in a row died in the message at the head of `source`'s queue.
  std::uint32_t deaths_of(std::uint64_t source) const;

 private:
  struct Header;
  struct Copy;
  ManifestMemory(UniqueFd fd, Mapping mapping) : fd_(std::move(fd)), mapping_(std::move(mapping)) {}
  Header* header() const { return mapping_.at<Header>(0); }
  Copy* copy(std::uint64_t sequence) const;
  Result<manifest::v1::Manifest> read_copy(std::uint64_t sequence) const;

  UniqueFd fd_;
  Mapping mapping_;
};

}  // namespace bulkhead::supervisor
