#include "tests/fault/process_figures.h"

#include <filesystem>
#include <fstream>
#include <string>

namespace bulkhead::campaign {
namespace {

// A line "NAME: NUMBER kB" of /proc/PID/status.
std::uint64_t status_kib(pid_t pid, const std::string& name) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/status");
  for (std::string word; file >> word;) {
    std::uint64_t kib = 0;
    if (word == name && file >> kib) return kib;
  }
  return 0;
}

}  // namespace

std::uint64_t resident_bytes(pid_t pid) {
  return status_kib(pid, "VmRSS:") << 10;
}

std::uint64_t peak_resident_bytes(pid_t pid) {
  return status_kib(pid, "VmHWM:") << 10;
}

std::size_t open_descriptors(pid_t pid) {
  std::error_code gone;
  std::size_t count = 0;
  std::filesystem::directory_iterator entry("/proc/" + std::to_string(pid) + "/fd", gone);
  for (; !gone && entry != std::filesystem::directory_iterator(); entry.increment(gone)) ++count;
  return count;
}

}  // namespace bulkhead::campaign
