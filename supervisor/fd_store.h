// The file descriptor store: where everything the core holds is parked, so that the next core gets it back.
// systemd's (FileDescriptorStoreMax=), or any process that speaks the same notify protocol.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

// One per process. Sending to the notify socket may wait for the service manager for an instant; nothing else
// here blocks. Protocol: sd_notify(3), sd_pid_notify_with_fds(3), sd_listen_fds(3).
class FdStore {
 public:
  struct Entry {
    std::string name;
    UniqueFd fd;
  };

  // Reads (and removes) NOTIFY_SOCKET, LISTEN_FDS and LISTEN_FDNAMES from the environment, so that children
  // do not take them for their own. Call once, before anything opens descriptors.
  static FdStore from_environment();

  // False in a foreground run: what is parked dies with this process.
  bool durable() const { return !notify_socket_.empty(); }

  // What a former core parked, in the order of the store. Empty at the second call.
  std::vector<Entry> take_inherited() { return std::exchange(inherited_, {}); }

  // Parks a copy of `fd`. Names: printable ASCII without ':', at most 255 bytes, unique. Once this returns
  // the descriptor survives this process: the service manager reads its notify queue before it reaps us.
  Status park(const std::string& name, BorrowedFd fd) const;
  // Closes the store's copy. Harmless for a name that is not there.
  void remove(const std::string& name) const;

  // READY=1, STATUS=..., WATCHDOG=1, EXTEND_TIMEOUT_USEC=...
  void notify(const std::string& state) const;

 private:
  std::string notify_socket_;
  std::vector<Entry> inherited_;
};

// "a/b/c" -> {"a","b","c"}: the names the core gives to parked descriptors are paths of facts.
std::vector<std::string_view> split_name(std::string_view name);

}  // namespace bulkhead::supervisor
