// The domains of the local hypervisor. No I/O besides the living table.
#pragma once

#include <map>
#include <optional>
#include <vector>

#include "hypervisor/local/layout.h"
#include "runtime/memfd.h"

namespace bulkhead::hypervisor::local {

class Domains {
 public:
  struct Entry {
    Domain domain;
    UniqueFd memory;
    std::uint32_t pages = 0;  // without the grant table
    std::uint32_t slot = 0;
    std::uint64_t generation = 0;
  };

  static Result<Domains> create();

  // `memory`: a memfd laid out as layout.h says, its size sealed. Without `domid` the next free one.
  // kInvalid: no such memory or domid; kRefused: the domid is in use; kExhausted: too many domains.
  Result<Domid> add(std::optional<Domid> domid, UniqueFd memory);
  // The domain has stopped; it stays.
  void shut_down(Domid domid);
  // Destroyed: nothing of it can be mapped any more. It is listed as dying until remove().
  void destroy(Domid domid);
  void remove(Domid domid);

  // nullptr: there is none. Domain 0 has an entry only if a frontend plays its kernel.
  const Entry* find(Domid domid) const;
  // Sorted; domain 0 is always there.
  std::vector<Domain> list() const;
  // The table as backends get it: nobody but us can write to it.
  BorrowedFd living_table() const { return table_fd_.borrow(); }

 private:
  Domains(UniqueFd table_fd, Mapping table) : table_fd_(std::move(table_fd)), table_(std::move(table)) {}
  std::optional<Domid> next_domid();
  std::uint32_t free_slot() const;
  void set_living(const Entry& entry, std::uint64_t generation);

  UniqueFd table_fd_;
  Mapping table_;
  std::map<Domid, Entry> domains_;
  Domid last_domid_ = 0;
  std::uint64_t last_generation_ = 0;
};

}  // namespace bulkhead::hypervisor::local
