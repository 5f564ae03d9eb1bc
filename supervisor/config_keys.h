// The table of configuration keys: what drives parsing, the detection of unknown keys, and the documentation.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <variant>

#include "supervisor/config.h"

namespace bulkhead::supervisor {

// How a value is written; each names where it is stored. `low` and `high` are inclusive.
template <typename Target>
struct KeyOf {
  struct Flag {
    bool& (*at)(Target&);
  };
  struct Text {
    std::string& (*at)(Target&);
  };
  struct Number {
    double& (*at)(Target&);
    double low, high;
  };
  struct Count32 {
    std::uint32_t& (*at)(Target&);
    std::uint32_t low, high;
  };
  struct Count64 {
    std::uint64_t& (*at)(Target&);
    std::uint64_t low, high;
  };
  struct Integer {
    std::int32_t& (*at)(Target&);
    std::int32_t low, high;
  };
  struct Size {
    std::uint64_t& (*at)(Target&);
    std::uint64_t low, high;
  };
  struct Duration {
    std::int64_t& (*at)(Target&);
    std::int64_t low, high;
  };
  struct Mode {
    std::uint32_t& (*at)(Target&);
  };
  struct Limit {
    std::optional<std::uint64_t>& (*at)(Target&);
    std::uint64_t low, high;
  };
  struct Texts {
    std::vector<std::string>& (*at)(Target&);
  };
  struct Table {
    std::map<std::string, std::string>& (*at)(Target&);
  };
  // One of a few words; `set` returns false for any other.
  struct Choice {
    bool (*set)(Target&, std::string_view);
    std::string_view words;  // "native or foreign"
  };

  std::string_view name;  // dotted, below the section
  std::variant<Flag, Text, Number, Count32, Count64, Integer, Size, Duration, Mode, Limit, Texts, Table,
               Choice>
      value;
  std::string_view about;
};

using GlobalKey = KeyOf<Config>;
using ComponentKey = KeyOf<ComponentConfig>;

std::span<const GlobalKey> global_keys();
std::span<const ComponentKey> component_keys();

}  // namespace bulkhead::supervisor
