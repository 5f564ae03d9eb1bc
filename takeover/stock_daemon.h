// The way back: the stock daemon, executed again in this process.
#pragma once

#include <set>
#include <string>
#include <vector>

#include "runtime/result.h"

namespace bulkhead::takeover {

// Numbers of the descriptors that this process has open.
std::set<int> open_descriptors();

// Executes it with its arguments and -U, with which it reads the state that it left, and with `kept` as its
// only descriptors. Returns if that fails.
Error return_to(const std::string& program, std::vector<std::string> arguments, const std::set<int>& kept);

}  // namespace bulkhead::takeover
