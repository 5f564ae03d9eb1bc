#include "supervisor/programs.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <span>

#include "runtime/crash_point.h"
#include "runtime/crc32c.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint program_parked{"core-program-parked"};
CrashPoint program_removed{"core-program-removed"};

constexpr std::size_t kPiece = std::size_t{64} * 1024;

Status read_whole(Program& program) {
  std::array<std::byte, kPiece> buffer{};
  std::uint32_t sum = 0;
  off_t at = 0;
  for (;;) {
    const ssize_t got = ::pread(program.file.get(), buffer.data(), buffer.size(), at);
    if (got < 0) return os_failure("cannot read " + program.path);
    if (got == 0) break;
    if (at == 0) program.is_script = got > 1 && buffer[0] == std::byte{'#'} && buffer[1] == std::byte{'!'};
    sum = crc32c(std::span(buffer.data(), static_cast<std::size_t>(got)), sum);
    at += got;
  }
  std::array<char, 48> text{};
  const int length = std::snprintf(text.data(), text.size(), "%08x-%lld", sum, static_cast<long long>(at));
  program.id.assign(text.data(), static_cast<std::size_t>(length));
  return {};
}

Result<Program> open_as(const std::string& file, const std::string& path) {
  Program program;
  program.path = path;
  program.file.reset(::open(file.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
  if (!program.file.valid()) {
    auto missing = os_failure("cannot open " + path);
    if (errno != ENOENT && errno != ENOTDIR) return missing;
    return failure(ErrorKind::kNotFound, "there is no program " + path);
  }
  struct stat info{};
  if (::fstat(program.file.get(), &info) != 0) return os_failure("cannot look at " + path);
  constexpr mode_t kAnyExecute = 0111;
  if (!S_ISREG(info.st_mode) || (info.st_mode & kAnyExecute) == 0) {
    return failure(ErrorKind::kInvalid, path + " is not an executable file");
  }
  if (auto read = read_whole(program); !read) return forward(std::move(read));
  return program;
}

}  // namespace

Result<Program> open_program(const std::string& path) {
  return open_as(path, path);
}

Result<Program> program_of_process(pid_t pid, const std::string& path) {
  const std::string link = "/proc/" + std::to_string(pid) + "/exe";
  std::error_code error;
  const std::string runs = std::filesystem::read_symlink(link, error);
  // An interpreter is not the script that it runs.
  if (error || (runs != path && runs != path + " (deleted)")) {
    return failure(ErrorKind::kNotFound,
                   "process " + std::to_string(pid) + " runs " + runs + ", not " + path);
  }
  return open_as(link, path);
}

Status check_trusted(const Program& program) {
  struct stat info{};
  if (::fstat(program.file.get(), &info) != 0) return os_failure("cannot look at " + program.path);
  if (info.st_uid != 0 && info.st_uid != ::geteuid()) {
    return failure(ErrorKind::kRefused, program.path + " belongs neither to root nor to the supervisor");
  }
  if ((info.st_mode & (S_IWGRP | S_IWOTH)) != 0) {
    return failure(ErrorKind::kRefused, program.path + " can be written to by others than its owner");
  }
  return {};
}

const Program* Programs::find(std::uint64_t number) const {
  const auto found = programs_.find(number);
  return found == programs_.end() ? nullptr : &found->second;
}

void Programs::learn_version(std::uint64_t number, const std::string& version) {
  if (const auto found = programs_.find(number); found != programs_.end()) found->second.version = version;
}

Status Programs::park(const Program& program) const {
  auto parked = store_->park(program_name(component_, program.number), program.file.borrow());
  if (parked) program_parked.pass();
  return parked;
}

Status Programs::begin(Program program) {
  if (auto parked = park(program); !parked) return parked;
  in_use_ = program.number;
  programs_[in_use_] = std::move(program);
  return {};
}

Status Programs::propose(Program program) {
  if (auto parked = park(program); !parked) return parked;
  candidate_ = program.number;
  programs_[candidate_] = std::move(program);
  return {};
}

void Programs::commit(std::int64_t probation_ends_ns) {
  const bool back = returning();
  if (!back) give_up(kept_);
  kept_ = std::exchange(in_use_, std::exchange(candidate_, 0));
  probation_ends_ns_ = back ? 0 : probation_ends_ns;
}

void Programs::abandon() {
  if (!returning()) give_up(candidate_);
  candidate_ = 0;
}

void Programs::go_back() {
  give_up(in_use_);
  in_use_ = std::exchange(kept_, 0);
  candidate_ = 0;
  probation_ends_ns_ = 0;
}

void Programs::try_again() {
  candidate_ = std::exchange(in_use_, std::exchange(kept_, 0));
  probation_ends_ns_ = 0;
}

void Programs::give_up(std::uint64_t number) {
  if (programs_.erase(number) > 0) given_up_.push_back(number);
}

void Programs::sweep() {
  for (const std::uint64_t number : std::exchange(given_up_, {})) {
    store_->remove(program_name(component_, number));
    program_removed.pass();
  }
}

void Programs::release() {
  while (!programs_.empty()) give_up(programs_.begin()->first);
  in_use_ = kept_ = candidate_ = 0;
  sweep();
}

void Programs::adopt(const manifest::v1::Component& record, std::map<std::uint64_t, UniqueFd>& parked) {
  for (const manifest::v1::Program& each : record.programs()) {
    const auto file = parked.find(each.number());
    if (file == parked.end()) continue;  // of a store that lost it: it cannot be started any more
    programs_[each.number()] = {each.number(),  each.path(),      each.id(),
                                each.version(), each.is_script(), std::move(file->second)};
    parked.erase(file);
  }
  const auto held = [this](std::uint64_t number) { return programs_.contains(number) ? number : 0; };
  in_use_ = held(record.program_in_use());
  kept_ = held(record.program_kept());
  candidate_ = held(record.program_candidate());
  probation_ends_ns_ = record.probation_ends_ns();
}

void Programs::record(manifest::v1::Component& into) const {
  for (const auto& [number, program] : programs_) {
    manifest::v1::Program& each = *into.add_programs();
    each.set_number(number);
    each.set_path(program.path);
    each.set_id(program.id);
    each.set_version(program.version);
    each.set_is_script(program.is_script);
  }
  into.set_program_in_use(in_use_);
  into.set_program_kept(kept_);
  into.set_program_candidate(candidate_);
  into.set_probation_ends_ns(probation_ends_ns_);
}

std::string program_name(const std::string& component, std::uint64_t number) {
  return "p/" + component + "/" + std::to_string(number);
}

v1::Program public_program(const Program& program) {
  v1::Program out;
  out.set_path(program.path);
  out.set_id(program.id);
  out.set_version(program.version);
  return out;
}

std::string told(const Program& program) {
  return program.path + " (" + (program.version.empty() ? program.id : program.version) + ")";
}

}  // namespace bulkhead::supervisor
