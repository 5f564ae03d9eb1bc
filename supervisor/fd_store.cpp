#include "supervisor/fd_store.h"

#include <systemd/sd-daemon.h>

#include <cstdlib>

namespace bulkhead::supervisor {
namespace {

constexpr std::size_t kMaxNameBytes = 255;  // systemd's FDNAME_MAX

bool valid_name(std::string_view name) {
  if (name.empty() || name.size() > kMaxNameBytes) return false;
  for (const char c : name) {
    if (c <= ' ' || c > '~' || c == ':') return false;
  }
  return true;
}

// libsystemd finds the socket in the environment alone; it is put back for the length of one call, because
// children must not inherit it.
class NotifyEnvironment {
 public:
  explicit NotifyEnvironment(const std::string& socket) { ::setenv("NOTIFY_SOCKET", socket.c_str(), 1); }
  ~NotifyEnvironment() { ::unsetenv("NOTIFY_SOCKET"); }
  NotifyEnvironment(const NotifyEnvironment&) = delete;
  NotifyEnvironment& operator=(const NotifyEnvironment&) = delete;
};

}  // namespace

FdStore FdStore::from_environment() {
  FdStore store;
  char** names = nullptr;
  const int count = ::sd_listen_fds_with_names(1, &names);
  for (int i = 0; i < count; ++i) {
    store.inherited_.push_back({names[i], UniqueFd(SD_LISTEN_FDS_START + i)});
    std::free(names[i]);
  }
  std::free(static_cast<void*>(names));
  if (const char* socket = std::getenv("NOTIFY_SOCKET"); socket != nullptr) store.notify_socket_ = socket;
  ::unsetenv("NOTIFY_SOCKET");
  return store;
}

Status FdStore::park(const std::string& name, BorrowedFd fd) const {
  if (!durable()) return {};
  if (!valid_name(name)) {
    return failure(ErrorKind::kInvalid, "cannot park a descriptor: bad name '" + name + "'");
  }
  const NotifyEnvironment environment(notify_socket_);
  const std::string state = "FDSTORE=1\nFDPOLL=0\nFDNAME=" + name;
  const int raw = fd.get();
  const int rc = ::sd_pid_notify_with_fds(0, 0, state.c_str(), &raw, 1);
  if (rc < 0) return os_failure("cannot park " + name + " in the descriptor store", -rc);
  return {};
}

void FdStore::remove(const std::string& name) const {
  notify("FDSTOREREMOVE=1\nFDNAME=" + name);
}

void FdStore::notify(const std::string& state) const {
  if (!durable()) return;
  const NotifyEnvironment environment(notify_socket_);
  ::sd_notify(0, state.c_str());
}

std::vector<std::string_view> split_name(std::string_view name) {
  std::vector<std::string_view> parts;
  for (;;) {
    const std::size_t slash = name.find('/');
    parts.push_back(name.substr(0, slash));
    if (slash == std::string_view::npos) return parts;
    name.remove_prefix(slash + 1);
  }
}

}  // namespace bulkhead::supervisor
