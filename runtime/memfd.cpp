#include "runtime/memfd.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <utility>

namespace bulkhead {

Result<UniqueFd> create_memfd(const std::string& name, std::size_t bytes) {
  UniqueFd fd(::memfd_create(name.c_str(), MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid()) return os_failure("cannot create segment " + name);
  if (::ftruncate(fd.get(), static_cast<off_t>(bytes)) != 0) return os_failure("cannot size segment " + name);
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) != 0) {
    return os_failure("cannot seal segment " + name);
  }
  return fd;
}

Result<std::size_t> file_size(BorrowedFd fd) {
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return os_failure("cannot stat a segment");
  return static_cast<std::size_t>(info.st_size);
}

Mapping::Mapping(Mapping&& other) noexcept
    : data_(std::exchange(other.data_, nullptr)), size_(std::exchange(other.size_, 0)) {}

Mapping& Mapping::operator=(Mapping&& other) noexcept {
  if (this != &other) {
    if (data_ != nullptr) ::munmap(data_, size_);
    data_ = std::exchange(other.data_, nullptr);
    size_ = std::exchange(other.size_, 0);
  }
  return *this;
}

Mapping::~Mapping() {
  if (data_ != nullptr) ::munmap(data_, size_);
}

Result<Mapping> Mapping::map(BorrowedFd memfd, std::size_t at_least) {
  const int seals = ::fcntl(memfd.get(), F_GET_SEALS);
  if (seals < 0) return os_failure("cannot map: not a sealable segment");
  if ((seals & F_SEAL_SHRINK) == 0) return failure(ErrorKind::kInvalid, "cannot map: the segment may shrink");
  auto size = file_size(memfd);
  if (!size) return forward(std::move(size));
  if (*size < at_least || *size == 0) {
    return failure(ErrorKind::kInvalid, "cannot map: the segment has " + std::to_string(*size) +
                                            " bytes, needs " + std::to_string(at_least));
  }
  void* data = ::mmap(nullptr, *size, PROT_READ | PROT_WRITE, MAP_SHARED, memfd.get(), 0);
  if (data == MAP_FAILED) return os_failure("cannot map a segment");
  return Mapping(static_cast<std::byte*>(data), *size);
}

void Mapping::rest(std::size_t offset, std::size_t length) const {
  constexpr std::size_t kPage = 4096;
  const std::size_t begin = offset / kPage * kPage;
  const std::size_t end = std::min(offset + length, size_) / kPage * kPage;
  // Of a shared mapping only what this process has mapped is dropped (madvise(2), MADV_DONTNEED).
  if (begin < end) (void)::madvise(data_ + begin, end - begin, MADV_DONTNEED);
}

void Mapping::punch(std::size_t offset, std::size_t length) const {
  // Failing to release memory early is harmless; the pages are reused or freed with the segment.
  (void)::madvise(data_ + offset, length, MADV_REMOVE);
}

}  // namespace bulkhead
