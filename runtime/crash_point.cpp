#include "runtime/crash_point.h"

#include <unistd.h>
#include <csignal>

namespace bulkhead {
namespace {

// Filled during static initialisation only, so readers need no lock.
std::vector<CrashPoint*>& registry() {
  static std::vector<CrashPoint*> points;
  return points;
}

}  // namespace

CrashPoint::CrashPoint(std::string_view name) : name_(name) {
  registry().push_back(this);
}

void CrashPoint::hit() {
  if (armed_.fetch_sub(1) == 1) {
    ::kill(::getpid(), SIGKILL);
    ::pause();  // unreachable: the signal is fatal before the call above returns to user mode
  }
}

bool CrashPoint::arm(std::string_view name, std::uint32_t count) {
  for (CrashPoint* point : registry()) {
    if (point->name_ == name) {
      point->armed_.store(count);
      return true;
    }
  }
  return false;
}

void CrashPoint::disarm_all() {
  for (CrashPoint* point : registry()) point->armed_.store(0);
}

std::vector<std::string_view> CrashPoint::names() {
  std::vector<std::string_view> result;
  for (const CrashPoint* point : registry()) result.push_back(point->name_);
  return result;
}

}  // namespace bulkhead
