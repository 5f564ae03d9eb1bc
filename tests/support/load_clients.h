// The checking clients by name, for whoever runs a LoadLoop.
#pragma once

#include <cstddef>
#include <map>
#include <string>

#include "tests/support/load_loop.h"

namespace bulkhead::xs {

// Adds so many readers, writers, watchers, movers and models. kInvalid: no checker is called so.
Status add_clients(LoadLoop& loop, const std::map<std::string, std::size_t>& counts,
                   const CheckerSettings& settings, AnomalyLog& log);

}  // namespace bulkhead::xs
