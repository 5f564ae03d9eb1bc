// Custody: the descriptors and shared-memory segments of one component that outlive its processes.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <string_view>

#include "runtime/result.h"
#include "runtime/unique_fd.h"
#include "supervisor/fd_store.h"

namespace bulkhead::supervisor {

struct CustodyLimits {
  std::size_t items = 0;
  std::uint64_t bytes = 0;  // of all segments together, by their size, touched or not
};

// Over all components: what the service manager's descriptor store has room for. systemd drops what exceeds
// FileDescriptorStoreMax= without a word to the sender, and it hands all names over in one environment
// variable, which the kernel limits to 128 KiB (MAX_ARG_STRLEN): with more, no core could be started any
// more.
struct CustodyTotal {
  static constexpr std::size_t kMaxNameBytes =
      std::size_t{96} * 1024;  // the rest is for the names of processes' descriptors

  std::size_t max_items = 0;
  std::size_t items = 0;
  std::size_t name_bytes = 0;
};

struct HeldItem {
  std::string kind;  // segment, socket, other
  UniqueFd fd;
  std::uint64_t bytes = 0;  // of a segment
  std::int64_t deposited_unix_us = 0;
  std::uint64_t depositor = 0;  // instance; 0: the core made it
};

// The descriptor store is the list: every fact about an item is part of the name it is parked under, so an
// item is in custody exactly from the instant it is parked, and no second record can disagree.
class Custody {
 public:
  enum class Deposited : std::uint8_t { kNew, kAlreadyHeld };

  // `store` and `total` outlive this.
  Custody(std::string component, CustodyLimits limits, const FdStore& store, CustodyTotal& total)
      : component_(std::move(component)), limits_(limits), store_(&store), total_(&total) {}

  // Checks name, kind and limits, parks and keeps the descriptor. The same open file under the same name and
  // kind again is kAlreadyHeld (a deposit whose answer was lost may be repeated); another file under a used
  // name is kRefused. kInvalid: name not [a-z0-9.-]{1,64}, unknown kind, or a descriptor that is not what
  // `kind` says (a segment must be sealed against shrinking and growing). kExhausted: over the limits. What
  // the core itself deposits (`depositor` 0) is not held against the total: a component could not be started
  // without it.
  Result<Deposited> deposit(const std::string& name, const std::string& kind, UniqueFd fd,
                            std::uint64_t depositor, std::int64_t now_unix_us);
  // kNotFound if there is no such item.
  Status withdraw(const std::string& name);

  // Takes back an item parked by a former core; `entry.name` is what parked_name() made.
  Status adopt(FdStore::Entry entry);

  const HeldItem* find(const std::string& name) const;
  const std::map<std::string, HeldItem>& items() const { return items_; }
  std::uint64_t bytes() const { return bytes_; }
  const CustodyLimits& limits() const { return limits_; }
  void set_limits(CustodyLimits limits) { limits_ = limits; }

 private:
  Status check_limits(std::uint64_t more_bytes) const;
  Status check_total(const std::string& parked) const;
  void keep(const std::string& name, HeldItem item);
  std::string parked_name(const std::string& name, const HeldItem& item) const;

  std::string component_;
  CustodyLimits limits_;
  const FdStore* store_;
  CustodyTotal* total_;
  std::map<std::string, HeldItem> items_;
  std::uint64_t bytes_ = 0;
};

// The component a parked name belongs to, if it names a custody item; empty otherwise.
std::string_view custody_component(std::string_view parked_name);
// The instance that deposited it; 0: the core did, or the name is not one of a custody item.
std::uint64_t custody_depositor(std::string_view parked_name);

}  // namespace bulkhead::supervisor
