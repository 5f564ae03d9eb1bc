#include "supervisor/manifest.h"

#include <atomic>
#include <new>

#include "runtime/crash_point.h"
#include "runtime/crc32c.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint write_before_flip{"core-manifest-before-flip"};
CrashPoint write_after_flip{"core-manifest-after-flip"};

constexpr std::size_t kHeaderBytes = 4096;

}  // namespace

struct ManifestMemory::Header {
  static constexpr std::uint64_t kMagic = 0x3174736566696e4d;  // "Mnifest1"

  std::uint64_t magic;
  std::atomic<std::uint64_t> sequence;  // of the valid copy; 0: none was written. Copies alternate.
  std::atomic<std::uint64_t> in_hand;   // source of the message being handled; 0: none
  std::atomic<std::uint64_t> suspect;   // source of a message in which a core died; 0: none
  std::atomic<std::uint32_t> suspect_deaths;
};

struct ManifestMemory::Copy {
  std::uint64_t sequence;
  std::uint32_t length;
  std::uint32_t checksum;  // CRC32C of the content
  std::byte content[kMaxBytes];
};

ManifestMemory::Copy* ManifestMemory::copy(std::uint64_t sequence) const {
  return mapping_.at<Copy>(kHeaderBytes + (sequence % 2) * sizeof(Copy));
}

Result<ManifestMemory> ManifestMemory::create() {
  static_assert(sizeof(Header) <= kHeaderBytes);
  auto fd = create_memfd("bulkhead-manifest", kHeaderBytes + 2 * sizeof(Copy));
  if (!fd) return forward(std::move(fd));
  auto mapping = Mapping::map(fd->borrow(), kHeaderBytes + 2 * sizeof(Copy));
  if (!mapping) return forward(std::move(mapping));
  auto* header = new (mapping->data()) Header{};
  header->magic = Header::kMagic;
  return ManifestMemory(std::move(*fd), std::move(*mapping));
}

Result<ManifestMemory> ManifestMemory::open(UniqueFd fd) {
  auto mapping = Mapping::map(fd.borrow(), kHeaderBytes + 2 * sizeof(Copy));
  if (!mapping) return forward(std::move(mapping), "cannot open the manifest");
  if (mapping->at<Header>(0)->magic != Header::kMagic) {
    return failure(ErrorKind::kInvalid, "cannot open the manifest: not one of this layout");
  }
  return ManifestMemory(std::move(fd), std::move(*mapping));
}

Result<manifest::v1::Manifest> ManifestMemory::read_copy(std::uint64_t sequence) const {
  const Copy* from = copy(sequence);
  if (from->sequence != sequence || from->length > kMaxBytes ||
      crc32c({from->content, from->length}) != from->checksum) {
    return failure(ErrorKind::kInvalid, "the manifest is damaged");
  }
  manifest::v1::Manifest manifest;
  if (!manifest.ParseFromArray(from->content, static_cast<int>(from->length))) {
    return failure(ErrorKind::kInvalid, "the manifest cannot be parsed");
  }
  return manifest;
}

Result<manifest::v1::Manifest> ManifestMemory::read() const {
  const std::uint64_t sequence = header()->sequence.load();
  if (sequence == 0) return failure(ErrorKind::kNotFound, "the manifest is empty");
  auto newest = read_copy(sequence);
  if (newest || sequence == 1) return newest;
  return read_copy(sequence - 1);
}

Status ManifestMemory::write(const manifest::v1::Manifest& manifest) {
  const std::size_t length = manifest.ByteSizeLong();
  if (length > kMaxBytes) {
    return failure(ErrorKind::kExhausted, "the manifest would have " + std::to_string(length) + " bytes, " +
                                              std::to_string(kMaxBytes) + " are allowed");
  }
  const std::uint64_t sequence = header()->sequence.load() + 1;
  Copy* to = copy(sequence);
  to->sequence = 0;
  manifest.SerializeToArray(to->content, static_cast<int>(length));
  to->length = static_cast<std::uint32_t>(length);
  to->checksum = crc32c({to->content, length});
  to->sequence = sequence;
  write_before_flip.pass();
  header()->sequence.store(sequence);
  write_after_flip.pass();
  return {};
}

void ManifestMemory::begin_message(std::uint64_t source) const {
  header()->in_hand.store(source);
}

void ManifestMemory::end_message() const {
  const std::uint64_t source = header()->in_hand.exchange(0);
  if (header()->suspect.load() == source) header()->suspect.store(0);
}

void ManifestMemory::count_death() const {
  const std::uint64_t source = header()->in_hand.exchange(0);
  if (source == 0) return;
  if (header()->suspect.exchange(source) != source) header()->suspect_deaths.store(0);
  header()->suspect_deaths.fetch_add(1);
}

std::uint32_t ManifestMemory::deaths_of(std::uint64_t source) const {
  return header()->suspect.load() == source ? header()->suspect_deaths.load() : 0;
}

}  // namespace bulkhead::supervisor
