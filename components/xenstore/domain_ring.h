// A domain's xenstore ring: the page that it shares with us (xen/io/xs_wire.h, struct
// xenstore_domain_interface; rules in Xen's docs/misc/xenstore-ring.txt). The domain may write anything there
// at any time, so nothing is read twice, and of our own two indexes none is ever read back: positions are the
// caller's.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

namespace bulkhead::xenstore {

class DomainRing {
 public:
  static constexpr std::uint32_t kBytes = 1024;  // XENSTORE_RING_SIZE: in each direction

  // What the domain is told when it is cut off (XENSTORE_ERROR_*).
  enum class Fault : std::uint32_t { kNone = 0, kCommunication = 1, kIndexes = 2, kProtocol = 3 };

  // The page stays mapped for as long as this is used.
  explicit DomainRing(std::byte* page) : page_(page) {}

  // Copies what the domain has written behind index `at`, as much as fits; how many bytes that is. nullopt:
  // its index is impossible.
  std::optional<std::size_t> take(std::uint32_t at, std::span<std::byte> to) const;
  // Copies bytes to where the domain will read them, from index `at` on, as many as there is room for. It
  // sees them with produced().
  std::optional<std::size_t> put(std::uint32_t at, std::span<const std::byte> from) const;
  // Tells the domain that requests were taken up to here, and replies written.
  void consumed(std::uint32_t index) const;
  void produced(std::uint32_t index) const;

  // Our indexes as they stand there, which only somebody who has no positions of his own believes.
  std::uint32_t consumed_so_far() const;
  std::uint32_t produced_so_far() const;

  // The domain wants both directions to begin anew, and waits until it is told that it is connected.
  bool wants_reconnection() const;
  // Both directions empty, at index 0.
  void clear() const;
  void announce(std::uint32_t features) const;  // XENSTORE_SERVER_FEATURE_*
  void set_fault(Fault fault) const;
  void set_connected() const;

 private:
  std::byte* page_;
};

}  // namespace bulkhead::xenstore
