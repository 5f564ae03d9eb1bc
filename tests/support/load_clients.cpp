#include "tests/support/load_clients.h"

#include <algorithm>
#include <array>

#include "tests/support/counter_checkers.h"
#include "tests/support/model_checker.h"
#include "tests/support/transfer_checker.h"
#include "tests/support/watch_checker.h"

namespace bulkhead::xs {
namespace {

// Writers first: they create what the readers read.
constexpr std::array kKinds{"writers", "readers", "watchers", "movers", "models"};

std::unique_ptr<Checker> make_checker(const std::string& kind, size_t index, size_t writers,
                                      const CheckerSettings& settings, AnomalyLog& log) {
  if (kind == "writers") return std::make_unique<CounterWriter>(index, settings, log);
  if (kind == "readers") return std::make_unique<CounterReader>(index, writers, settings, log);
  if (kind == "watchers") return std::make_unique<WatchChecker>(index, settings, log);
  if (kind == "movers") return std::make_unique<TransferChecker>(index, settings, log);
  return std::make_unique<ModelChecker>(index, settings, log);
}

size_t count_of(const std::map<std::string, size_t>& counts, const std::string& kind) {
  const auto found = counts.find(kind);
  return found == counts.end() ? 0 : found->second;
}

}  // namespace

Status add_clients(LoadLoop& loop, const std::map<std::string, size_t>& counts,
                   const CheckerSettings& settings, AnomalyLog& log) {
  for (const auto& [name, count] : counts) {
    if (std::ranges::find(kKinds, name) == kKinds.end())
      return failure(ErrorKind::kInvalid, "no checker is called " + name);
  }
  for (const char* kind : kKinds) {
    for (size_t i = 0; i < count_of(counts, kind); ++i) {
      Status added = loop.add(make_checker(kind, i, count_of(counts, "writers"), settings, log));
      if (!added) return added;
    }
  }
  return {};
}

}  // namespace bulkhead::xs
