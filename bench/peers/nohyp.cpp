// Preload library that lets Debian's xenstored and oxenstored serve their Unix socket on a machine without
// Xen: it answers the hypervisor calls they make at start, hands out an empty page and a port number for
// dom0's own ring, and moves oxenstored's fixed paths below $XENSTORED_RUNDIR. Nothing on the request path is
// touched. $NOHYP_LAST_DOMAIN is the highest id of a domain that exists, 0 if it is not set.
#include <dlfcn.h>
#include <fcntl.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <sys/un.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstdarg>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string_view>

extern "C" {
#include <xenctrl.h>
#include <xenevtchn.h>
#include <xengnttab.h>
}

namespace {

constexpr size_t kPage = 4096;
// Compiled into oxenstored.
constexpr std::array<std::string_view, 3> kFixedFolders{"/var/run/xenstored", "/var/run/xen", "/var/log/xen"};

template <typename Function>
Function* next(const char* name) {
  return reinterpret_cast<Function*>(::dlsym(RTLD_NEXT, name));
}

// A path in one of the fixed folders, moved to ours.
class Path {
 public:
  explicit Path(const char* path) : path_(path) {
    const char* const rundir = std::getenv("XENSTORED_RUNDIR");
    if (path == nullptr || rundir == nullptr) return;
    for (const std::string_view folder : kFixedFolders) {
      if (!std::string_view(path).starts_with(folder) || path[folder.size()] != '/') continue;
      const int length = std::snprintf(moved_.data(), moved_.size(), "%s%s", rundir, path + folder.size());
      if (length > 0 && static_cast<size_t>(length) < moved_.size()) path_ = moved_.data();
    }
  }
  const char* c_str() const { return path_; }

 private:
  std::array<char, 4096> moved_{};
  const char* path_;
};

int memory_file(const char* name, std::string_view content, size_t size) {
  const int fd = ::memfd_create(name, MFD_CLOEXEC);
  if (fd < 0) return -1;
  if (::ftruncate(fd, static_cast<off_t>(size)) != 0 ||
      ::pwrite(fd, content.data(), content.size(), 0) != static_cast<ssize_t>(content.size())) {
    ::close(fd);
    return -1;
  }
  return fd;
}

int open_any(const char* function, const char* path, int flags, mode_t mode) {
  const std::string_view wanted(path);
  if (wanted == "/proc/xen/xsd_kva") return memory_file("xsd_kva", "", kPage);
  if (wanted == "/proc/xen/xsd_port") return memory_file("xsd_port", "1", 1);
  using Open = int(const char*, int, ...);
  return next<Open>(function)(Path(path).c_str(), flags, mode);
}

uint32_t last_domain() {
  const char* const last = std::getenv("NOHYP_LAST_DOMAIN");
  return last == nullptr ? 0 : static_cast<uint32_t>(std::strtoul(last, nullptr, 10));
}

mode_t mode_argument(int flags, va_list arguments) {
  return (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
}

}  // namespace

// Opaque in the public header. No port ever becomes pending.
struct xenevtchn_handle {
  int fd;
};

extern "C" {

int open(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_argument(flags, arguments);
  va_end(arguments);
  return open_any("open", path, flags, mode);
}

int open64(const char* path, int flags, ...) {
  va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = mode_argument(flags, arguments);
  va_end(arguments);
  return open_any("open64", path, flags, mode);
}

int bind(int fd, const sockaddr* address, socklen_t length) noexcept {
  if (address->sa_family != AF_UNIX) return next<decltype(bind)>("bind")(fd, address, length);
  sockaddr_un moved{};
  std::memcpy(&moved, address, length < sizeof moved ? length : sizeof moved);
  const Path path(moved.sun_path);
  const size_t path_length = std::strlen(path.c_str());
  if (path_length >= sizeof moved.sun_path) {
    errno = ENAMETOOLONG;
    return -1;
  }
  std::memmove(moved.sun_path, path.c_str(), path_length + 1);
  return next<decltype(bind)>("bind")(fd, reinterpret_cast<const sockaddr*>(&moved), sizeof moved);
}

int unlink(const char* path) noexcept {
  return next<decltype(unlink)>("unlink")(Path(path).c_str());
}
int chmod(const char* path, mode_t mode) noexcept {
  return next<decltype(chmod)>("chmod")(Path(path).c_str(), mode);
}
int mkdir(const char* path, mode_t mode) noexcept {
  return next<decltype(mkdir)>("mkdir")(Path(path).c_str(), mode);
}
int access(const char* path, int mode) noexcept {
  return next<decltype(access)>("access")(Path(path).c_str(), mode);
}

// oxenstored raises its descriptor limit and gives up where that is not allowed.
int setrlimit(__rlimit_resource_t resource, const rlimit* limits) noexcept {
  next<decltype(setrlimit)>("setrlimit")(resource, limits);
  return 0;
}

xenevtchn_handle* xenevtchn_open(xentoollog_logger* /*logger*/, unsigned int flags) {
  const int inherited = (flags & XENEVTCHN_NO_CLOEXEC) != 0 ? 0 : EFD_CLOEXEC;
  return new xenevtchn_handle{::eventfd(0, inherited | EFD_NONBLOCK)};
}
xenevtchn_handle* xenevtchn_fdopen(xentoollog_logger* /*logger*/, int fd, unsigned int /*flags*/) {
  return new xenevtchn_handle{fd};
}
int xenevtchn_close(xenevtchn_handle* handle) {
  ::close(handle->fd);
  delete handle;
  return 0;
}
int xenevtchn_fd(xenevtchn_handle* handle) {
  return handle->fd;
}
int xenevtchn_notify(xenevtchn_handle* /*handle*/, evtchn_port_t /*port*/) {
  return 0;
}
xenevtchn_port_or_error_t xenevtchn_bind_interdomain(xenevtchn_handle* /*handle*/, uint32_t /*domain*/,
                                                     evtchn_port_t /*port*/) {
  return 2;
}
xenevtchn_port_or_error_t xenevtchn_bind_virq(xenevtchn_handle* /*handle*/, unsigned int /*virq*/) {
  return 3;
}
int xenevtchn_unbind(xenevtchn_handle* /*handle*/, evtchn_port_t /*port*/) {
  return 0;
}
xenevtchn_port_or_error_t xenevtchn_pending(xenevtchn_handle* /*handle*/) {
  errno = EAGAIN;
  return -1;
}
int xenevtchn_unmask(xenevtchn_handle* /*handle*/, evtchn_port_t /*port*/) {
  return 0;
}

xengnttab_handle* xengnttab_open(xentoollog_logger* /*logger*/, unsigned int /*flags*/) {
  return reinterpret_cast<xengnttab_handle*>(new int);
}
int xengnttab_close(xengnttab_handle* handle) {
  delete reinterpret_cast<int*>(handle);
  return 0;
}
int xengnttab_set_max_grants(xengnttab_handle* /*handle*/, uint32_t /*count*/) {
  return 0;
}
void* xengnttab_map_grant_ref(xengnttab_handle* /*handle*/, uint32_t /*domain*/, uint32_t /*ref*/,
                              int protection) {
  void* const page = ::mmap(nullptr, kPage, protection, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  return page == MAP_FAILED ? nullptr : page;
}
int xengnttab_unmap(xengnttab_handle* /*handle*/, void* start, uint32_t count) {
  return ::munmap(start, count * kPage);
}

xc_interface* xc_interface_open(xentoollog_logger* /*logger*/, xentoollog_logger* /*dombuild*/,
                                unsigned int /*flags*/) {
  return reinterpret_cast<xc_interface*>(new int);
}
int xc_interface_close(xc_interface* handle) {
  delete reinterpret_cast<int*>(handle);
  return 0;
}
int xc_domain_getinfo(xc_interface* /*handle*/, uint32_t first, unsigned int count, xc_dominfo_t* info) {
  if (count == 0 || first > last_domain()) return 0;
  *info = {};
  info->domid = first;
  return 1;
}
int xc_domain_getinfolist(xc_interface* /*handle*/, uint32_t first, unsigned int count,
                          xc_domaininfo_t* info) {
  if (count == 0 || first > last_domain()) return 0;
  *info = {};
  info->domain = static_cast<domid_t>(first);
  return 1;
}

}  // extern "C"
