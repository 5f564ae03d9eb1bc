// Mappings of single pages of a memfd.
#pragma once

#include <memory>
#include <span>

#include "hypervisor/hypervisor.h"

namespace bulkhead::hypervisor::local {

// `count` pages from `offset` on (bytes), shared.
Result<std::unique_ptr<Pages>> map_range(BorrowedFd memfd, std::size_t offset, std::size_t count,
                                         Access access);

// The pages at these offsets, one behind the other; at least one.
Result<std::unique_ptr<Pages>> map_pages(BorrowedFd memfd, std::span<const std::size_t> offsets,
                                         Access access);

}  // namespace bulkhead::hypervisor::local
