// The service's custody in this process's memory: real segments, no core.
#pragma once

#include <map>
#include <string>
#include <utility>

#include "components/xenstore/custody.h"
#include "tests/fuzz/fuzz.h"

namespace bulkhead::fuzz {

class MemoryCustody : public CustodyStore {
 public:
  const CustodyEntry* custody(const std::string& name) const override {
    const auto found = items_.find(name);
    return found == items_.end() ? nullptr : &found->second;
  }
  Status deposit(const std::string& name, const std::string& kind, UniqueFd fd) override {
    items_.insert_or_assign(name, CustodyEntry{kind, std::move(fd)});
    return {};
  }
  std::vector<std::string> names() const override {
    std::vector<std::string> all;
    for (const auto& [name, item] : items_) all.push_back(name);
    return all;
  }
  Status withdraw(const std::string& name) override {
    items_.erase(name);
    return {};
  }
  Mapping map(const std::string& name) const { return Mapping::map(items_.at(name).fd.borrow(), 1).value(); }

 private:
  std::map<std::string, CustodyEntry> items_;
};

inline xenstore::CustodySettings small_custody_settings() {
  return {.geometry = {.max_connections = 8, .in_bytes = 8192, .out_bytes = 16384},
          .journal_bytes = 1,  // the smallest there is
          .snapshot_bytes = 256 * 1024};
}

inline MemoryCustody small_custody() {
  MemoryCustody store;
  require(xenstore::Custody::create(store, small_custody_settings()).has_value(), "custody can be made");
  return store;
}

}  // namespace bulkhead::fuzz
