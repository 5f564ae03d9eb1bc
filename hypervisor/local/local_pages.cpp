#include "hypervisor/local/local_pages.h"

#include <sys/mman.h>

namespace bulkhead::hypervisor::local {
namespace {

class MappedPages final : public Pages {
 public:
  MappedPages(void* data, std::size_t size) : Pages(static_cast<std::byte*>(data), size) {}
  ~MappedPages() override { ::munmap(data(), size()); }
};

int protection(Access access) {
  return access == Access::kReadOnly ? PROT_READ : PROT_READ | PROT_WRITE;
}

}  // namespace

Result<std::unique_ptr<Pages>> map_range(BorrowedFd memfd, std::size_t offset, std::size_t count,
                                         Access access) {
  const std::size_t size = count * kPageBytes;
  void* data = ::mmap(nullptr, size, protection(access), MAP_SHARED, memfd.get(), static_cast<off_t>(offset));
  if (data == MAP_FAILED) return os_failure("cannot map pages");
  return std::make_unique<MappedPages>(data, size);
}

Result<std::unique_ptr<Pages>> map_pages(BorrowedFd memfd, std::span<const std::size_t> offsets,
                                         Access access) {
  if (offsets.size() == 1) return map_range(memfd, offsets[0], 1, access);
  const std::size_t size = offsets.size() * kPageBytes;
  // The range is ours before pages go into it, so that no other mapping can come between them.
  void* range = ::mmap(nullptr, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (range == MAP_FAILED) return os_failure("cannot reserve addresses");
  auto pages = std::make_unique<MappedPages>(range, size);
  for (std::size_t i = 0; i < offsets.size(); ++i) {
    if (::mmap(pages->data() + i * kPageBytes, kPageBytes, protection(access), MAP_SHARED | MAP_FIXED,
               memfd.get(), static_cast<off_t>(offsets[i])) == MAP_FAILED) {
      return os_failure("cannot map pages");
    }
  }
  return pages;
}

}  // namespace bulkhead::hypervisor::local
