#include "monitors/process_activity.h"

#include <fcntl.h>

#include <array>
#include <charconv>
#include <ctime>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

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

namespace {

// "PID (name) state ...": the name may hold anything, also ") R".
char state_in(const std::string& stat) {
  const auto name_end = stat.rfind(')');
  return name_end == std::string::npos || name_end + 2 >= stat.size() ? '?' : stat[name_end + 2];
}

// "time on CPU, time waiting, slices"
std::int64_t run_delay_in(const std::string& schedule) {
  std::int64_t delay = 0;
  const auto space = schedule.find(' ');
  if (space != std::string::npos)
    std::from_chars(schedule.data() + space + 1, schedule.data() + schedule.size(), delay);
  return delay;
}

// How much the state of one thread says of what the process could do.
int weight(char state) {
  return state == 'R' ? 2 : state == 'D' ? 1 : 0;
}

// At most `kMostThreads`; none when the process is gone.
std::vector<std::string> threads_of(pid_t pid) {
  constexpr std::size_t kMostThreads = 16;
  std::vector<std::string> names;
  std::error_code error;
  for (std::filesystem::directory_iterator task("/proc/" + std::to_string(pid) + "/task", error), end;
       !error && task != end && names.size() < kMostThreads; task.increment(error)) {
    names.push_back("task/" + task->path().filename().string());
  }
  return names;
}

}  // namespace

std::optional<ProcessActivity> read_activity(pid_t pid) {
  const auto stat = read_proc(pid, "stat");
  const auto cpu = process_cpu_ns(pid);
  if (!stat || !cpu) return std::nullopt;
  ProcessActivity activity;
  activity.state = state_in(*stat);
  activity.cpu_ns = *cpu;
  for (const std::string& thread : threads_of(pid)) {
    const char state = state_in(read_proc(pid, (thread + "/stat").c_str()).value_or(""));
    if (weight(state) > weight(activity.state)) activity.state = state;
    activity.run_delay_ns += run_delay_in(read_proc(pid, (thread + "/schedstat").c_str()).value_or(""));
  }
  return activity;
}

}  // namespace bulkhead::monitors
