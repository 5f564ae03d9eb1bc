// Debian's own xenstored, run without Xen: the judge of our checking clients.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <vector>

#include "runtime/result.h"

namespace bulkhead::xs {

// A folder of its own below the temporary directory, removed with everything in it.
class TempFolder {
 public:
  TempFolder();
  ~TempFolder();
  TempFolder(const TempFolder&) = delete;
  TempFolder& operator=(const TempFolder&) = delete;
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

// Runs the C xenstored that scripts/deps unpacked. Ends it when destroyed.
class StockDaemon {
 public:
  StockDaemon() = default;
  ~StockDaemon();
  StockDaemon(const StockDaemon&) = delete;
  StockDaemon& operator=(const StockDaemon&) = delete;

  // Where its executable is.
  static std::string program();

  // Starts it and waits until it accepts connections. It believes that the hypervisor knows the domains 0 to
  // `last_domain`.
  Status start(uint32_t last_domain = 0);
  // Starts it as the new program of a live update, with all descriptors we have that are inherited. It does
  // not wait: what is sent to these meanwhile is answered.
  Status start_from(std::span<const std::byte> state, uint32_t last_domain = 0);
  std::string socket_path() const { return (folder_.path() / "socket").string(); }
  // Its run directory, where it leaves its state for a live update.
  const std::filesystem::path& folder() const { return folder_.path(); }
  pid_t pid() const { return pid_; }
  // Its exit status, once whatever runs in its process has ended by itself; kTimeout, kFailed: it has not.
  Result<int> wait_for_end();

 private:
  Status launch(std::vector<const char*> arguments, uint32_t last_domain);

  TempFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace bulkhead::xs
