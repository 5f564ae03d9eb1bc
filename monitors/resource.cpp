#include "monitors/resource.h"

#include <dirent.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <memory>
#include <string>

#include "monitors/proc_files.h"
#include "runtime/clock.h"

namespace bulkhead::monitors {

namespace {

constexpr std::size_t kMaxSamples = 128;
constexpr std::size_t kMinForTrend = 8;
constexpr double kMinExplained = 0.7;

// Linux 6.2 and later tell the number as the directory's size; before, it has to be counted.
std::uint32_t count_fds(pid_t pid) {
  const std::string path = "/proc/" + std::to_string(pid) + "/fd";
  struct stat info{};
  if (::stat(path.c_str(), &info) == 0 && info.st_size > 0) return static_cast<std::uint32_t>(info.st_size);
  const auto close = [](DIR* directory) { ::closedir(directory); };
  const std::unique_ptr<DIR, decltype(close)> directory(::opendir(path.c_str()), close);
  if (!directory) return 0;
  std::uint32_t count = 0;
  while (const dirent* entry = ::readdir(directory.get())) count += entry->d_name[0] != '.' ? 1U : 0U;
  return count;
}

}  // namespace

std::optional<ResourceSample> read_resources(pid_t pid, std::int64_t now_ns) {
  const auto statm = read_proc(pid, "statm");  // "size resident shared ...", in pages
  const auto cpu = process_cpu_ns(pid);
  if (!statm || !cpu) return std::nullopt;
  ResourceSample sample;
  sample.now_ns = now_ns;
  sample.cpu_ns = *cpu;
  const auto field = [&statm](std::size_t before) {
    std::uint64_t pages = 0;
    std::size_t at = 0;
    for (std::size_t i = 0; i < before; ++i) at = statm->find(' ', at) + 1;
    std::from_chars(statm->data() + at, statm->data() + statm->size(), pages);
    return pages * static_cast<std::uint64_t>(::sysconf(_SC_PAGESIZE));
  };
  constexpr std::ptrdiff_t kSeparators = 2;
  if (std::ranges::count(*statm, ' ') < kSeparators) return std::nullopt;
  sample.rss_bytes = field(1);
  // Resident pages are private, or of files, or shared; "shared" are the latter two (proc(5)).
  sample.private_bytes = sample.rss_bytes - std::min(sample.rss_bytes, field(2));
  sample.open_fds = count_fds(pid);
  return sample;
}

std::optional<std::int64_t> time_to_limit(const std::vector<std::pair<std::int64_t, double>>& samples,
                                          double limit) {
  if (samples.size() < kMinForTrend) return std::nullopt;
  const auto n = static_cast<double>(samples.size());
  // Times relative to the last sample: large numbers would cost precision.
  const std::int64_t last = samples.back().first;
  double mean_t = 0;
  double mean_v = 0;
  for (const auto& [time, value] : samples) {
    mean_t += static_cast<double>(time - last) / n;
    mean_v += value / n;
  }
  double tt = 0;
  double tv = 0;
  double vv = 0;
  for (const auto& [time, value] : samples) {
    const double t = static_cast<double>(time - last) - mean_t;
    tt += t * t;
    tv += t * (value - mean_v);
    vv += (value - mean_v) * (value - mean_v);
  }
  if (tt <= 0 || vv <= 0 || tv <= 0 || tv * tv / (tt * vv) < kMinExplained) return std::nullopt;
  const double slope = tv / tt;
  const double now = mean_v - slope * mean_t;
  if (now >= limit) return 0;
  const double ns = (limit - now) / slope;
  return ns < 9e18 ? std::optional(static_cast<std::int64_t>(ns)) : std::nullopt;
}

void ResourceMonitor::reset() {
  samples_.clear();
  reported_ = {};
  cpu_fraction_ = 0;
}

std::vector<Finding> ResourceMonitor::add(const ResourceSample& sample) {
  if (!samples_.empty()) {
    const ResourceSample& before = samples_.back();
    const std::int64_t elapsed = sample.now_ns - before.now_ns;
    if (elapsed <= 0) return {};
    cpu_fraction_ = static_cast<double>(sample.cpu_ns - before.cpu_ns) / static_cast<double>(elapsed);
  }
  samples_.push_back(sample);
  // One sample older than the window is kept, so that the window is known to be full.
  while (samples_.size() > 2 && sample.now_ns - samples_[1].now_ns >= policy_.window_ns) samples_.pop_front();
  if (samples_.size() > kMaxSamples) samples_.pop_front();

  std::vector<Finding> findings;
  judge(kRss, against_limit(kRss, policy_.max_rss), findings);
  judge(kFds, against_limit(kFds, policy_.max_fds), findings);
  judge(kCpu, cpu_without_work(), findings);
  return findings;
}

void ResourceMonitor::judge(Cause cause, std::optional<Finding> finding, std::vector<Finding>& out) {
  auto& reported = reported_[cause];
  if (!finding) {
    reported.reset();
    return;
  }
  // Getting worse is news, staying bad is not.
  if (reported && *reported >= finding->severity) return;
  reported = finding->severity;
  out.push_back(std::move(*finding));
}

std::optional<Finding> ResourceMonitor::against_limit(Cause cause, std::uint64_t limit) const {
  if (limit == 0) return std::nullopt;
  const auto value_of = [cause](const ResourceSample& sample) {
    return cause == kRss ? sample.rss_bytes : std::uint64_t{sample.open_fds};
  };
  const auto text_of = [cause](std::uint64_t value) {
    return cause == kRss ? std::to_string(value >> 20) + " MiB resident"
                         : std::to_string(value) + " open descriptors";
  };
  const std::int64_t now = samples_.back().now_ns;
  const std::uint64_t value = value_of(samples_.back());
  Finding finding{"resource", Severity::kFailed, text_of(value) + ", the limit is " + text_of(limit), now,
                  now};
  if (value > limit) return finding;
  std::vector<std::pair<std::int64_t, double>> series;
  series.reserve(samples_.size());
  for (const auto& sample : samples_)
    series.emplace_back(sample.now_ns, static_cast<double>(value_of(sample)));
  const auto left = time_to_limit(series, static_cast<double>(limit));
  if (!left || *left > policy_.horizon_ns) return std::nullopt;
  finding.severity = Severity::kSuspect;
  finding.evidence = text_of(value) + ", will reach the limit of " + text_of(limit) + " in " +
                     std::to_string(*left / kSecond) + " s";
  finding.since_ns = samples_.front().now_ns;
  return finding;
}

std::optional<Finding> ResourceMonitor::cpu_without_work() const {
  if (policy_.max_cpu <= 0 || !policy_.counts_work) return std::nullopt;
  const ResourceSample& first = samples_.front();
  const ResourceSample& last = samples_.back();
  const std::int64_t elapsed = last.now_ns - first.now_ns;
  if (elapsed < policy_.window_ns || last.work_done != first.work_done) return std::nullopt;
  const double used = static_cast<double>(last.cpu_ns - first.cpu_ns) / static_cast<double>(elapsed);
  if (used <= policy_.max_cpu) return std::nullopt;
  return Finding{"resource", Severity::kFailed,
                 std::to_string(static_cast<int>(used * 100)) + " % of a CPU used for " +
                     std::to_string(elapsed / kSecond) + " s without any work done",
                 first.now_ns, last.now_ns};
}

}  // namespace bulkhead::monitors
