// Shared-memory segments: a memfd that can travel between processes, and a mapping of one.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead {

// An anonymous file of `bytes` zeroes. Sparse: pages exist once touched. Its size is sealed (F_SEAL_SHRINK,
// F_SEAL_GROW), so whoever maps it needs no fear of SIGBUS.
Result<UniqueFd> create_memfd(const std::string& name, std::size_t bytes);

// Size of an open file in bytes.
Result<std::size_t> file_size(BorrowedFd fd);

// A shared read-write mapping, unmapped by the destructor. Addresses differ between processes: nothing in a
// segment may hold a pointer.
class Mapping {
 public:
  Mapping() = default;
  Mapping(Mapping&& other) noexcept;
  Mapping& operator=(Mapping&& other) noexcept;
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping();

  // Maps the whole file. Fails if it is smaller than `at_least` bytes, or could shrink under us.
  static Result<Mapping> map(BorrowedFd memfd, std::size_t at_least);

  std::byte* data() const { return data_; }
  std::size_t size() const { return size_; }
  bool valid() const { return data_ != nullptr; }
  std::span<std::byte> bytes() const { return {data_, size_}; }

  // The segment's content as a T at `offset`. T must be made for shared memory: fixed layout, lock-free
  // atomics.
  template <typename T>
  T* at(std::size_t offset) const {
    return reinterpret_cast<T*>(data_ + offset);
  }

  // Stays mapped until the process ends, whatever becomes of this object, which is empty from now on.
  void keep() { data_ = nullptr; }

  // This process is done with a range for now: its pages leave the page tables (that of its end only if the
  // whole page is done with), and nothing else changes. A process that is killed keeps a CPU for as long as
  // it has pages mapped.
  void rest(std::size_t offset, std::size_t length) const;
  // Gives the pages of a range back to the system; they read as zero afterwards, in every process.
  void punch(std::size_t offset, std::size_t length) const;

 private:
  Mapping(std::byte* data, std::size_t size) : data_(data), size_(size) {}

  std::byte* data_ = nullptr;
  std::size_t size_ = 0;
};

}  // namespace bulkhead
