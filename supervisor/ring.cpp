#include "supervisor/ring.h"

#include <fcntl.h>
#include <liburing.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <string_view>

namespace bulkhead::supervisor {
namespace {

constexpr std::uint32_t kMaxCompletions = 65'536;

// Made with liburing rather than the bare system call, because it also fills in the ring's index array, which
// io_uring_queue_mmap() in an instance takes for granted.
Result<Ring> setup(std::uint32_t entries, std::uint32_t flags) {
  io_uring_params params{};
  params.flags = IORING_SETUP_CQSIZE | flags;
  params.cq_entries = std::min(entries * 8, kMaxCompletions);
  io_uring mapped{};
  if (const int error = ::io_uring_queue_init_params(entries, &mapped, &params); error != 0) {
    return os_failure("cannot create an io_uring", -error);
  }
  Ring ring;
  ring.fd.reset(::fcntl(mapped.ring_fd, F_DUPFD_CLOEXEC, 0));
  ::io_uring_queue_exit(&mapped);  // unmaps, and closes the first descriptor
  if (!ring.fd.valid()) return os_failure("cannot create an io_uring");
  ring.params.assign(reinterpret_cast<const char*>(&params), sizeof params);
  return ring;
}

}  // namespace

Result<Ring> create_ring(std::uint32_t entries) {
  auto ring = setup(entries, IORING_SETUP_COOP_TASKRUN);
  // Kernels before 5.19 do not know the flag; it saves interrupts, nothing depends on it.
  if (!ring && ring.error().os_error() == EINVAL) ring = setup(entries, 0);
  if (!ring && ring.error().os_error() == EPERM) {
    return failure(ErrorKind::kRefused,
                   "cannot create an io_uring: the system forbids it; set sysctl kernel.io_uring_disabled=0");
  }
  if (!ring && ring.error().os_error() == ENOSYS) {
    return failure(ErrorKind::kRefused,
                   "cannot create an io_uring: this kernel has none; 5.6 or later is needed");
  }
  return ring;
}

Result<Ring> recover_ring(const PidFd& instance, int number, const std::string& params) {
  auto fd = instance.get_fd(number);
  if (!fd) return forward(std::move(fd), "cannot take back the io_uring");
  std::array<char, 64> target{};
  const std::string link = "/proc/self/fd/" + std::to_string(fd->get());
  const ssize_t length = ::readlink(link.c_str(), target.data(), target.size() - 1);
  if (length < 0 || std::string_view(target.data()) != "anon_inode:[io_uring]") {
    return failure(ErrorKind::kInvalid, "cannot take back the io_uring: descriptor " +
                                            std::to_string(number) + " of process " +
                                            std::to_string(instance.pid()) + " is none");
  }
  return Ring{std::move(*fd), params};
}

}  // namespace bulkhead::supervisor
