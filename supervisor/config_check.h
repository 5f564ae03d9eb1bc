// What single values cannot tell: whether a configuration as a whole is possible.
#pragma once

#include <map>
#include <string>

#include "supervisor/config_layers.h"

namespace bulkhead::supervisor {

// Where the operator wrote what, by full key ("components.xenstore.socket"); tables too.
class Origins {
 public:
  explicit Origins(std::string source) : source_(std::move(source)) {}
  void note(const std::string& key, const Origin& origin) { by_key_[key] = origin; }
  // At the place of the key, else of the same key under [defaults], else of something beside or above it,
  // else of the file.
  Error complaint(const std::string& key, const std::string& what) const;

 private:
  const Origin* find(const std::string& key) const;
  const Origin* find_below(const std::string& section) const;

  std::string source_;
  std::map<std::string, Origin> by_key_;
};

// Also resolves relative socket paths and sorts components so that dependencies come first.
Status check_and_finish(Config& config, const Origins& origins);

}  // namespace bulkhead::supervisor
