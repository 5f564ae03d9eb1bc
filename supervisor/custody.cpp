#include "supervisor/custody.h"

#include <fcntl.h>
#include <linux/kcmp.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#include <algorithm>
#include <charconv>
#include <optional>
#include <vector>

#include "runtime/crash_point.h"
#include "runtime/memfd.h"

namespace bulkhead::supervisor {
namespace {

CrashPoint deposit_before_park{"core-deposit-before-park"};
CrashPoint deposit_after_park{"core-deposit-after-park"};
CrashPoint withdraw_before_remove{"core-withdraw-before-remove"};
CrashPoint withdraw_after_remove{"core-withdraw-after-remove"};

constexpr std::size_t kMaxNameBytes = 64;
// Parked names: c/COMPONENT/KIND/DEPOSITED_UNIX_US/DEPOSITOR/NAME
constexpr std::size_t kNameParts = 6;

bool valid_item_name(std::string_view name) {
  return !name.empty() && name.size() <= kMaxNameBytes && std::ranges::all_of(name, [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-';
  });
}

bool same_open_file(BorrowedFd a, BorrowedFd b) {
  const pid_t self = ::getpid();
  return ::syscall(SYS_kcmp, self, self, KCMP_FILE, a.get(), b.get()) == 0;
}

Result<std::uint64_t> segment_bytes(BorrowedFd fd) {
  constexpr int kWanted = F_SEAL_SHRINK | F_SEAL_GROW;
  const int seals = ::fcntl(fd.get(), F_GET_SEALS);
  if (seals < 0 || (seals & kWanted) != kWanted) {
    return failure(ErrorKind::kInvalid, "a segment must be a memfd whose size is sealed");
  }
  auto size = file_size(fd);
  if (!size) return forward(std::move(size));
  return *size;
}

// What the item counts against the byte limit; kInvalid if the descriptor is not of this kind.
Result<std::uint64_t> weigh(const std::string& kind, BorrowedFd fd) {
  if (kind == "segment") return segment_bytes(fd);
  struct stat info{};
  if (::fstat(fd.get(), &info) != 0) return os_failure("cannot inspect the descriptor");
  if (kind == "socket") {
    if (!S_ISSOCK(info.st_mode)) return failure(ErrorKind::kInvalid, "the descriptor is not a socket");
    return 0;
  }
  if (kind == "other") return 0;
  return failure(ErrorKind::kInvalid, "unknown kind '" + kind + "', expected segment, socket or other");
}

template <typename T>
std::optional<T> parse_number(std::string_view text) {
  T value{};
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc{} || end != text.data() + text.size()) return std::nullopt;
  return value;
}

}  // namespace

std::string Custody::parked_name(const std::string& name, const HeldItem& item) const {
  return "c/" + component_ + "/" + item.kind + "/" + std::to_string(item.deposited_unix_us) + "/" +
         std::to_string(item.depositor) + "/" + name;
}

Status Custody::check_limits(std::uint64_t more_bytes) const {
  if (items_.size() >= limits_.items) {
    return failure(ErrorKind::kExhausted,
                   "custody is full: " + std::to_string(limits_.items) + " items are allowed");
  }
  if (more_bytes > limits_.bytes || bytes_ > limits_.bytes - more_bytes) {
    return failure(ErrorKind::kExhausted, "custody would hold " + std::to_string(bytes_ + more_bytes) +
                                              " bytes of segments, " + std::to_string(limits_.bytes) +
                                              " are allowed");
  }
  return {};
}

Status Custody::check_total(const std::string& parked) const {
  if (total_->items >= total_->max_items) {
    return failure(ErrorKind::kExhausted, "the custody of all components is full: " +
                                              std::to_string(total_->max_items) + " items are allowed");
  }
  if (total_->name_bytes + parked.size() + 1 > CustodyTotal::kMaxNameBytes) {
    return failure(ErrorKind::kExhausted,
                   "the custody of all components is full: the names of its items may have " +
                       std::to_string(CustodyTotal::kMaxNameBytes) +
                       " bytes together; shorter names are needed");
  }
  return {};
}

void Custody::keep(const std::string& name, HeldItem item) {
  bytes_ += item.bytes;
  ++total_->items;
  total_->name_bytes += parked_name(name, item).size() + 1;
  items_.emplace(name, std::move(item));
}

Result<Custody::Deposited> Custody::deposit(const std::string& name, const std::string& kind, UniqueFd fd,
                                            std::uint64_t depositor, std::int64_t now_unix_us) {
  if (!valid_item_name(name)) return failure(ErrorKind::kInvalid, "bad item name, expected [a-z0-9.-]{1,64}");
  if (!fd.valid()) return failure(ErrorKind::kInvalid, "no descriptor came with the deposit");
  if (const HeldItem* held = find(name); held != nullptr) {
    if (held->kind == kind && same_open_file(held->fd.borrow(), fd.borrow())) return Deposited::kAlreadyHeld;
    return failure(ErrorKind::kRefused, "another descriptor is held under this name; withdraw it first");
  }
  auto bytes = weigh(kind, fd.borrow());
  if (!bytes) return forward(std::move(bytes));
  if (auto fits = check_limits(*bytes); !fits) return forward(std::move(fits));
  HeldItem item{kind, std::move(fd), *bytes, now_unix_us, depositor};
  const std::string parked_as = parked_name(name, item);
  if (depositor != 0) {
    if (auto fits = check_total(parked_as); !fits) return forward(std::move(fits));
  }
  deposit_before_park.pass();
  if (auto parked = store_->park(parked_as, item.fd.borrow()); !parked) return forward(std::move(parked));
  deposit_after_park.pass();
  keep(name, std::move(item));
  return Deposited::kNew;
}

Status Custody::withdraw(const std::string& name) {
  const auto found = items_.find(name);
  if (found == items_.end()) return failure(ErrorKind::kNotFound, "no item of this name is in custody");
  const std::string parked_as = parked_name(name, found->second);
  withdraw_before_remove.pass();
  store_->remove(parked_as);
  withdraw_after_remove.pass();
  --total_->items;
  total_->name_bytes -= parked_as.size() + 1;
  bytes_ -= found->second.bytes;
  items_.erase(found);
  return {};
}

Status Custody::adopt(FdStore::Entry entry) {
  const auto parts = split_name(entry.name);
  if (parts.size() != kNameParts || parts[0] != "c" || parts[1] != component_) {
    return failure(ErrorKind::kInvalid, "not an item of " + component_);
  }
  const auto deposited = parse_number<std::int64_t>(parts[3]);
  const auto depositor = parse_number<std::uint64_t>(parts[4]);
  const std::string name(parts[5]);
  const std::string kind(parts[2]);
  if (!deposited || !depositor || !valid_item_name(name)) {
    return failure(ErrorKind::kInvalid, "malformed name of a custody item");
  }
  if (items_.contains(name)) return failure(ErrorKind::kRefused, "a second item of the same name");
  auto bytes = weigh(kind, entry.fd.borrow());
  if (!bytes) return forward(std::move(bytes));
  keep(name, HeldItem{kind, std::move(entry.fd), *bytes, *deposited, *depositor});
  return {};
}

const HeldItem* Custody::find(const std::string& name) const {
  const auto found = items_.find(name);
  return found == items_.end() ? nullptr : &found->second;
}

std::string_view custody_component(std::string_view parked_name) {
  const auto parts = split_name(parked_name);
  if (parts.size() != kNameParts || parts[0] != "c") return {};
  return parts[1];
}

std::uint64_t custody_depositor(std::string_view parked_name) {
  if (custody_component(parked_name).empty()) return 0;
  return parse_number<std::uint64_t>(split_name(parked_name)[4]).value_or(0);
}

}  // namespace bulkhead::supervisor
