// Debian's own xenstored, run without Xen: the judge of our checking clients.
#pragma once

#include <sys/types.h>

#include <filesystem>
#include <string>

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

  // Starts it and waits until it accepts connections.
  Status start();
  std::string socket_path() const { return (folder_.path() / "socket").string(); }

 private:
  TempFolder folder_;
  pid_t pid_ = -1;
};

}  // namespace bulkhead::xs
