#include "hypervisor/local/domains.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/mman.h>
#include <sys/vfs.h>

#include <algorithm>

namespace bulkhead::hypervisor::local {
namespace {

// How many pages the domain has. A file that could shrink would kill whoever has it mapped (SIGBUS), and so
// could one of huge pages.
Result<std::uint32_t> pages_of(BorrowedFd memory) {
  // First of all: this fails for everything that is not a memfd, without asking a file system.
  const int seals = ::fcntl(memory.get(), F_GET_SEALS);
  if (seals < 0 || (seals & F_SEAL_SHRINK) == 0 || (seals & F_SEAL_GROW) == 0) {
    return failure(ErrorKind::kInvalid, "a domain's memory has to be a memfd of sealed size");
  }
  struct statfs file_system{};
  if (::fstatfs(memory.get(), &file_system) != 0) return os_failure("cannot inspect a domain's memory");
  if (file_system.f_type != TMPFS_MAGIC)
    return failure(ErrorKind::kInvalid, "a domain's memory has huge pages");
  auto size = file_size(memory);
  if (!size) return forward(std::move(size));
  if (*size <= kGrantTableBytes || *size % kPageBytes != 0 || *size > page_offset(kMaxDomainPages)) {
    return failure(ErrorKind::kInvalid, "a domain's memory of " + std::to_string(*size) + " bytes");
  }
  return static_cast<std::uint32_t>((*size - kGrantTableBytes) / kPageBytes);
}

}  // namespace

Result<Domains> Domains::create() {
  UniqueFd fd(::memfd_create("living-domains", MFD_CLOEXEC | MFD_ALLOW_SEALING));
  if (!fd.valid() || ::ftruncate(fd.get(), sizeof(LivingTable)) != 0) {
    return os_failure("cannot create the table of living domains");
  }
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW) != 0)
    return os_failure("cannot seal a table");
  auto table = Mapping::map(fd.borrow(), sizeof(LivingTable));
  if (!table) return forward(std::move(table));
  // Our mapping, made before, stays writable.
  if (::fcntl(fd.get(), F_ADD_SEALS, F_SEAL_FUTURE_WRITE | F_SEAL_SEAL) != 0) {
    return os_failure("cannot seal a table");
  }
  return Domains(std::move(fd), std::move(*table));
}

// As Xen's toolstack does it: not at once the number of the domain that has just gone.
std::optional<Domid> Domains::next_domid() {
  for (Domid tried = 0; tried < kFirstReservedDomid; ++tried) {
    last_domid_ = last_domid_ + 1 < kFirstReservedDomid ? last_domid_ + 1 : 1;
    if (!domains_.contains(last_domid_)) return last_domid_;
  }
  return std::nullopt;
}

std::uint32_t Domains::free_slot() const {
  std::vector<bool> used(kMaxDomains);
  for (const auto& [domid, entry] : domains_) used[entry.slot] = true;
  return static_cast<std::uint32_t>(std::find(used.begin(), used.end(), false) - used.begin());
}

void Domains::set_living(const Entry& entry, std::uint64_t generation) {
  table_.at<LivingTable>(0)->generation[entry.slot].store(generation, std::memory_order_release);
}

Result<Domid> Domains::add(std::optional<Domid> domid, UniqueFd memory) {
  auto pages = pages_of(memory.borrow());
  if (!pages) return forward(std::move(pages));
  if (domains_.size() >= kMaxDomains) return failure(ErrorKind::kExhausted, "too many domains");
  if (!domid) domid = next_domid();
  if (!domid) return failure(ErrorKind::kExhausted, "no free domid");
  if (*domid >= kFirstReservedDomid) return failure(ErrorKind::kInvalid, "a reserved domid");
  if (domains_.contains(*domid)) {
    return failure(ErrorKind::kRefused, "there is a domain " + std::to_string(*domid));
  }
  Entry entry{{.domid = *domid}, std::move(memory), *pages, free_slot(), ++last_generation_};
  set_living(entry, entry.generation);
  domains_.emplace(*domid, std::move(entry));
  return *domid;
}

void Domains::shut_down(Domid domid) {
  const auto found = domains_.find(domid);
  if (found != domains_.end()) found->second.domain.shut_down = true;
}

void Domains::destroy(Domid domid) {
  const auto found = domains_.find(domid);
  if (found == domains_.end()) return;
  found->second.domain.dying = true;
  found->second.memory.reset();
  set_living(found->second, 0);
}

void Domains::remove(Domid domid) {
  destroy(domid);
  domains_.erase(domid);
}

const Domains::Entry* Domains::find(Domid domid) const {
  const auto found = domains_.find(domid);
  return found == domains_.end() ? nullptr : &found->second;
}

std::vector<Domain> Domains::list() const {
  std::vector<Domain> domains;
  if (!domains_.contains(0)) domains.push_back({.domid = 0});
  for (const auto& [domid, entry] : domains_) domains.push_back(entry.domain);
  return domains;
}

}  // namespace bulkhead::hypervisor::local
