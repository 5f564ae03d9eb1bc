#include "hypervisor/xen/host.h"

#include <fcntl.h>
#include <sys/mman.h>

#include <array>
#include <charconv>
#include <fstream>
#include <string>
#include <string_view>

namespace bulkhead::hypervisor::xen {
namespace {

struct Device {
  const char* path;
  const char* module;
};
constexpr std::array kDevices{Device{"/dev/xen/privcmd", "xen-privcmd"},
                              Device{"/dev/xen/evtchn", "xen-evtchn"},
                              Device{"/dev/xen/gntdev", "xen-gntdev"}};

class KernelPage final : public Pages {
 public:
  explicit KernelPage(void* data) : Pages(static_cast<std::byte*>(data), kPageBytes) {}
  ~KernelPage() override { ::munmap(data(), size()); }
};

Status check_device(const Device& device) {
  const UniqueFd fd(::open(device.path, O_RDWR | O_CLOEXEC));
  if (fd.valid()) return {};
  const std::string path = device.path;
  switch (errno) {
    case EACCES:
    case EPERM:
      return failure(ErrorKind::kRefused, "no permission for " + path);
    case ENOENT:
    case ENXIO:
    case ENODEV:
      return failure(ErrorKind::kNotFound, "no " + path + ": load the module " + device.module);
    default:
      return os_failure("cannot open " + path);
  }
}

// Linux has them in xenfs, others in /dev/xen.
Result<UniqueFd> open_kernel_file(const std::string& name, int flags) {
  for (const char* folder : {"/dev/xen/", "/proc/xen/"}) {
    UniqueFd fd(::open((folder + name).c_str(), flags | O_CLOEXEC));
    if (fd.valid()) return fd;
    if (errno != ENOENT) return os_failure("cannot open " + (folder + name));
  }
  return failure(ErrorKind::kNotFound,
                 "no /proc/xen/" + name + ": this is not dom0, or xenfs is not mounted at /proc/xen");
}

}  // namespace

Status check_host() {
  std::string type;
  std::ifstream("/sys/hypervisor/type") >> type;
  if (type != "xen") return failure(ErrorKind::kNotFound, "this host does not run on Xen");
  for (const Device& device : kDevices) {
    if (auto checked = check_device(device); !checked) return checked;
  }
  return {};
}

Result<std::unique_ptr<Pages>> map_kernel_xenstore_page() {
  auto file = open_kernel_file("xsd_kva", O_RDWR);
  if (!file) return forward(std::move(file));
  void* page = ::mmap(nullptr, kPageBytes, PROT_READ | PROT_WRITE, MAP_SHARED, file->get(), 0);
  if (page == MAP_FAILED) return os_failure("cannot map the kernel's xenstore page");
  return std::make_unique<KernelPage>(page);
}

Result<Port> kernel_xenstore_port() {
  auto file = open_kernel_file("xsd_port", O_RDONLY);
  if (!file) return forward(std::move(file));
  std::array<char, 16> text{};
  const ssize_t got = ::read(file->get(), text.data(), text.size());
  if (got < 0) return os_failure("cannot read the kernel's xenstore port");
  Port port = 0;
  const auto parsed = std::from_chars(text.data(), text.data() + got, port);
  if (parsed.ec != std::errc() || port == 0) {
    return failure(ErrorKind::kNotFound, "the kernel has no port for its xenstore");
  }
  return port;
}

}  // namespace bulkhead::hypervisor::xen
