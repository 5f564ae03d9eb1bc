#include "monitors/process_activity.h"

#include <fcntl.h>

#include <array>
#include <charconv>
#include <ctime>

#include "monitors/proc_files.h"
#include "runtime/clock.h"
#include "runtime/unique_fd.h"

namespace bulkhead::monitors {

std::optional<std::string> read_proc(pid_t pid, const char* name) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + name;
  const UniqueFd file(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::array<char, 4096> buffer{};
  const ssize_t got = file.valid() ? ::read(file.get(), buffer.data(), buffer.size()) : -1;
  if (got <= 0) return std::nullopt;
  return std::string(buffer.data(), static_cast<std::size_t>(got));
}

// The clock is exact to the nanosecond; /proc/PID/stat counts in ticks of 10 ms.
std::optional<std::int64_t> process_cpu_ns(pid_t pid) {
  clockid_t clock{};
  timespec time{};
  if (::clock_getcpuclockid(pid, &clock) != 0 || ::clock_gettime(clock, &time) != 0) return std::nullopt;
  return time.tv_sec * kSecond + time.tv_nsec;
}

std::optional<ProcessActivity> read_activity(pid_t pid) {
  const auto stat = read_proc(pid, "stat");
  const auto cpu = process_cpu_ns(pid);
  if (!stat || !cpu) return std::nullopt;
  // "PID (name) state ...": the name may hold anything, also ") R".
  const auto name_end = stat->rfind(')');
  if (name_end == std::string::npos || name_end + 2 >= stat->size()) return std::nullopt;
  ProcessActivity activity;
  activity.state = (*stat)[name_end + 2];
  activity.cpu_ns = *cpu;
  // "time on CPU, time waiting, slices"
  const std::string schedule = read_proc(pid, "schedstat").value_or("");
  const auto space = schedule.find(' ');
  if (space != std::string::npos)
    std::from_chars(schedule.data() + space + 1, schedule.data() + schedule.size(), activity.run_delay_ns);
  return activity;
}

}  // namespace bulkhead::monitors
