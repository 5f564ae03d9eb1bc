// What the local hypervisor's processes share as memory: a domain's memory with its grant table in front,
// made by the frontend and not to be trusted; and the living table, which only the hypervisor writes.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>

#include "hypervisor/hypervisor.h"

namespace bulkhead::hypervisor::local {

// ---- a domain's memory: kGrantTablePages of grant table, then the pages of the domain ----

inline constexpr std::size_t kGrantTablePages = 64;  // what Xen gives a domain unless told otherwise
inline constexpr std::size_t kGrantTableBytes = kGrantTablePages * kPageBytes;
inline constexpr std::size_t kMaxGrants = kGrantTableBytes / sizeof(std::uint64_t);
inline constexpr std::size_t kMaxDomainPages = std::size_t{1} << 20;
inline constexpr GrantRef kXenstoreGrant = 1;  // GNTTAB_RESERVED_XENSTORE, xen/grant_table.h

// One grant as Xen's first table version lays it out (struct grant_entry_v1, xen/grant_table.h), as one word:
// it is read with a single load and never looked at again.
struct GrantEntry {
  static constexpr std::uint16_t kPermitAccess = 1;   // GTF_permit_access
  static constexpr std::uint16_t kTypeMask = 3;       // GTF_type_mask
  static constexpr std::uint16_t kReadOnly = 1 << 2;  // GTF_readonly

  std::uint16_t flags = 0;
  std::uint16_t domid = 0;  // the domain that may map it
  std::uint32_t frame = 0;  // page of the domain, counted behind the grant table

  static GrantEntry from_word(std::uint64_t word) {
    return {static_cast<std::uint16_t>(word), static_cast<std::uint16_t>(word >> 16),
            static_cast<std::uint32_t>(word >> 32)};
  }
  std::uint64_t word() const { return flags | (std::uint64_t{domid} << 16) | (std::uint64_t{frame} << 32); }
};

using GrantWord = std::atomic<std::uint64_t>;
static_assert(GrantWord::is_always_lock_free && sizeof(GrantWord) == sizeof(std::uint64_t));

constexpr std::size_t page_offset(std::size_t frame) {
  return kGrantTableBytes + frame * kPageBytes;
}

// ---- the living table: lets a backend see without a question whether a domain it knows still lives ----

inline constexpr std::size_t kMaxDomains = 1024;

// Slot -> generation of the domain in it, 0 for none. A generation is never used again.
struct LivingTable {
  std::atomic<std::uint64_t> generation[kMaxDomains];
};

}  // namespace bulkhead::hypervisor::local
