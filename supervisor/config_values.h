// Values of the configuration: from TOML to the types of config.h, with errors that say what would be right.
#pragma once

#include <toml++/toml.h>

#include <cstdint>
#include <string>
#include <string_view>

#include "runtime/result.h"
#include "supervisor/config_keys.h"

namespace bulkhead::supervisor {

// Errors read "what is wrong; what would be right".
Result<std::int64_t> parse_duration(std::string_view text);  // "50ms"
Result<std::uint64_t> parse_size(std::string_view text);     // "64MiB", "4096"
std::string format_duration(std::int64_t ns);                // the largest unit that needs no fraction
std::string format_size(std::uint64_t bytes);

// A value as written. `raw` is its text when it came from --set, where quotes around strings are not asked
// for.
struct WrittenValue {
  const toml::node* node;
  const std::string* raw;  // null: from a file
};

// Stores the value where the key says; kInvalid with the text above when it does not fit.
template <typename Target>
Status assign(const KeyOf<Target>& key, Target& target, const WrittenValue& value);
extern template Status assign(const KeyOf<Config>&, Config&, const WrittenValue&);
extern template Status assign(const KeyOf<ComponentConfig>&, ComponentConfig&, const WrittenValue&);

// "a duration such as \"50ms\"": for messages and documentation.
template <typename Target>
std::string_view type_of(const KeyOf<Target>& key);
extern template std::string_view type_of(const KeyOf<Config>&);
extern template std::string_view type_of(const KeyOf<ComponentConfig>&);

}  // namespace bulkhead::supervisor
