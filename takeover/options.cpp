#include "takeover/options.h"

#include <glob.h>
#include <unistd.h>

#include <cstdlib>
#include <string_view>

#include "cli/commands.h"

namespace bulkhead::takeover {
namespace {

std::string from_environment(const char* name, const char* fallback) {
  const char* const set = std::getenv(name);
  return set == nullptr ? fallback : set;
}

// A live update does not say who it is that is replaced: its name in our arguments is our own.
std::string usual_stock_daemon() {
  for (const char* pattern :
       {"/usr/lib/xen-*/bin/xenstored", "/usr/sbin/xenstored", "/usr/local/sbin/xenstored"}) {
    glob_t found{};
    std::string path;
    if (::glob(pattern, 0, nullptr, &found) == 0 && found.gl_pathc == 1) path = found.gl_pathv[0];
    ::globfree(&found);
    if (!path.empty() && ::access(path.c_str(), X_OK) == 0) return path;
  }
  return {};
}

}  // namespace

Options parse_options(const std::vector<std::string>& words) {
  Options options{.api = from_environment("BULKHEAD_SOCKET", cli::kDefaultSocket),
                  .component = "xenstore",
                  .stock = {},
                  .check = false,
                  .arguments = {},
                  .state = from_environment("XENSTORED_RUNDIR", "/run/xenstored") + "/state_dump"};
  const auto take = [](const std::string& word, std::string_view name, std::string& value) {
    if (!word.starts_with(name)) return false;
    if (word.size() > name.size()) value = word.substr(name.size());
    return true;
  };
  for (const std::string& word : words) {
    if (word == "--check") {
      options.check = true;
    } else if (!take(word, "--api=", options.api) && !take(word, "--component=", options.component) &&
               !take(word, "--stock=", options.stock)) {
      options.arguments.push_back(word);
    }
  }
  if (options.stock.empty()) options.stock = usual_stock_daemon();
  return options;
}

}  // namespace bulkhead::takeover
