#include "supervisor/config_values.h"

#include <array>
#include <charconv>
#include <cmath>
#include <limits>
#include <sstream>
#include <utility>

#include "runtime/clock.h"

namespace bulkhead::supervisor {

namespace {

struct Unit {
  std::string_view name;
  std::uint64_t factor;
};
constexpr std::array<Unit, 7> kTimeUnits = {{{"ns", 1},
                                             {"us", kMicrosecond},
                                             {"ms", kMillisecond},
                                             {"s", kSecond},
                                             {"min", 60 * kSecond},
                                             {"h", 3600 * kSecond},
                                             {"d", kSecond * 3600 * 24}}};
constexpr std::array<Unit, 5> kSizeUnits = {
    {{"B", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {"TiB", std::uint64_t{1} << 40}}};

constexpr const char* kDurationExample = "a duration such as \"50ms\"";
constexpr const char* kSizeExample = "a size such as \"64MiB\"";

std::string quoted(std::string_view text) {
  return "\"" + std::string(text) + "\"";
}

Error wrong(const std::string& what, std::string_view needed) {
  return {ErrorKind::kInvalid, what + "; " + std::string(needed) + " is needed"};
}

template <std::size_t N>
Result<std::uint64_t> parse_with_unit(std::string_view text, const std::array<Unit, N>& units,
                                      std::string_view needed, std::uint64_t most) {
  std::uint64_t number = 0;
  const auto [end, bad] = std::from_chars(text.data(), text.data() + text.size(), number);
  const std::string_view name(end, static_cast<std::size_t>(text.data() + text.size() - end));
  if (bad == std::errc()) {
    for (const Unit& unit : units) {
      if (unit.name != name) continue;
      if (number > most / unit.factor) return std::unexpected(wrong(quoted(text) + " is too large", "less"));
      return number * unit.factor;
    }
  }
  return std::unexpected(wrong(quoted(text) + " is not valid", needed));
}

template <std::size_t N>
std::string format_with_unit(std::uint64_t value, const std::array<Unit, N>& units) {
  std::size_t i = N - 1;
  while (i > 0 && (value == 0 || value % units[i].factor != 0)) --i;
  return std::to_string(value / units[i].factor) + std::string(units[i].name);
}

// What the value is, for "is a table; ... is needed".
std::string kind_of(const toml::node& node) {
  switch (node.type()) {
    case toml::node_type::table:
      return "is a table";
    case toml::node_type::array:
      return "is a list";
    case toml::node_type::string:
      return "is the text " + quoted(node.ref<std::string>());
    case toml::node_type::integer:
      return "is the number " + std::to_string(node.ref<std::int64_t>());
    case toml::node_type::floating_point:
      return "is a number with a fraction";
    case toml::node_type::boolean:
      return node.ref<bool>() ? "is true" : "is false";
    default:
      return "is a date or time";
  }
}

Result<std::string> text_of(const WrittenValue& value, std::string_view needed) {
  std::string text;
  if (const auto written = value.node->value_exact<std::string>()) {
    text = *written;
  } else if (value.raw != nullptr) {
    text = *value.raw;
  } else {
    return std::unexpected(wrong(kind_of(*value.node), needed));
  }
  if (text.contains('\0')) return std::unexpected(wrong("contains a zero byte", needed));
  return text;
}

template <typename Number>
Status in_range(Number number, Number low, Number high, auto format) {
  if (number >= low && number <= high) return {};
  return failure(ErrorKind::kInvalid,
                 "is " + format(number) + "; must be between " + format(low) + " and " + format(high));
}

template <typename Number>
std::string plain(Number number) {
  std::ostringstream text;
  text << number;
  return text.str();
}

template <typename Target>
struct Assign {
  using Key = KeyOf<Target>;
  Target& target;
  const WrittenValue& value;

  Status operator()(const typename Key::Flag& key) const {
    const auto written = value.node->template value_exact<bool>();
    if (!written) return std::unexpected(wrong(kind_of(*value.node), "true or false"));
    key.at(target) = *written;
    return {};
  }
  Status operator()(const typename Key::Text& key) const {
    auto text = text_of(value, "text in quotes");
    if (!text) return forward(std::move(text));
    key.at(target) = std::move(*text);
    return {};
  }
  Status operator()(const typename Key::Number& key) const {
    // Integers count as numbers too.
    const auto written = value.node->template value<double>();
    if (!written || !value.node->is_number() || !std::isfinite(*written))
      return std::unexpected(wrong(kind_of(*value.node), "a number"));
    key.at(target) = *written;
    return in_range(*written, key.low, key.high, plain<double>);
  }
  Status operator()(const typename Key::Count32& key) const { return count(key); }
  Status operator()(const typename Key::Count64& key) const { return count(key); }
  Status operator()(const typename Key::Integer& key) const { return count(key); }
  Status operator()(const typename Key::Size& key) const {
    auto bytes = size();
    if (!bytes) return forward(std::move(bytes));
    key.at(target) = *bytes;
    return in_range(*bytes, key.low, key.high, format_size);
  }
  Status operator()(const typename Key::Duration& key) const {
    auto text = text_of(value, kDurationExample);
    if (!text) return forward(std::move(text));
    auto ns = parse_duration(*text);
    if (!ns) return forward(std::move(ns));
    key.at(target) = *ns;
    return in_range(*ns, key.low, key.high, format_duration);
  }
  Status operator()(const typename Key::Mode& key) const {
    constexpr const char* kNeeded = "permissions such as \"0660\"";
    auto text = text_of(value, kNeeded);
    if (!text) return forward(std::move(text));
    std::uint32_t mode = 0;
    const auto [end, bad] = std::from_chars(text->data(), text->data() + text->size(), mode, 8);
    if (bad != std::errc() || end != text->data() + text->size() || mode > 0777)
      return std::unexpected(wrong(quoted(*text) + " is not valid", kNeeded));
    key.at(target) = mode;
    return {};
  }
  Status operator()(const typename Key::Limit& key) const {
    const std::string text = value.node->template value_exact<std::string>().value_or("");
    if (text == "inherit" || text == "unlimited") {
      key.at(target) = text == "inherit" ? std::nullopt : std::optional(kUnlimited);
      return {};
    }
    auto number = size();
    if (!number)
      return std::unexpected(wrong(kind_of(*value.node), "a number, a size, \"unlimited\" or \"inherit\""));
    key.at(target) = *number;
    return in_range(*number, key.low, key.high, plain<std::uint64_t>);
  }
  Status operator()(const typename Key::Texts& key) const {
    constexpr const char* kNeeded = "a list of texts";
    const toml::array* list = value.node->as_array();
    if (list == nullptr) return std::unexpected(wrong(kind_of(*value.node), kNeeded));
    std::vector<std::string> texts;
    for (const toml::node& element : *list) {
      auto text = text_of({&element, nullptr}, kNeeded);
      if (!text) return std::unexpected(std::move(text).error().within("an element"));
      texts.push_back(std::move(*text));
    }
    key.at(target) = std::move(texts);
    return {};
  }
  // Tables of later layers add to what is there.
  Status operator()(const typename Key::Table& key) const {
    const toml::table* table = value.node->as_table();
    if (table == nullptr) return std::unexpected(wrong(kind_of(*value.node), "a table of texts"));
    for (const auto& [name, node] : *table) {
      const auto number = node.template value_exact<std::int64_t>();
      const auto flag = node.template value_exact<bool>();
      auto text = number ? Result<std::string>(std::to_string(*number))
                  : flag ? Result<std::string>(*flag ? "true" : "false")
                         : text_of({&node, value.raw}, "text, a number, true or false");
      if (!text) return std::unexpected(std::move(text).error().within(name.str()));
      key.at(target)[std::string(name.str())] = std::move(*text);
    }
    return {};
  }
  Status operator()(const typename Key::Choice& key) const {
    auto text = text_of(value, key.words);
    if (!text) return forward(std::move(text));
    if (!key.set(target, *text)) return std::unexpected(wrong("is the text " + quoted(*text), key.words));
    return {};
  }

 private:
  Status count(const auto& key) const {
    const auto written = value.node->template value_exact<std::int64_t>();
    if (!written) return std::unexpected(wrong(kind_of(*value.node), "a whole number"));
    if (std::cmp_greater(*written, key.high) || std::cmp_less(*written, key.low)) {
      return failure(ErrorKind::kInvalid, "is " + std::to_string(*written) + "; must be between " +
                                              std::to_string(key.low) + " and " + std::to_string(key.high));
    }
    key.at(target) = static_cast<std::remove_cvref_t<decltype(key.at(target))>>(*written);
    return {};
  }
  Result<std::uint64_t> size() const {
    if (const auto number = value.node->template value_exact<std::int64_t>(); number && *number >= 0)
      return static_cast<std::uint64_t>(*number);
    auto text = text_of(value, kSizeExample);
    if (!text) return forward(std::move(text));
    return parse_size(*text);
  }
};

template <typename Target>
struct TypeName {
  using Key = KeyOf<Target>;
  std::string_view operator()(const typename Key::Flag&) const { return "true or false"; }
  std::string_view operator()(const typename Key::Text&) const { return "text"; }
  std::string_view operator()(const typename Key::Number&) const { return "number"; }
  std::string_view operator()(const typename Key::Count32&) const { return "whole number"; }
  std::string_view operator()(const typename Key::Count64&) const { return "whole number"; }
  std::string_view operator()(const typename Key::Integer&) const { return "whole number"; }
  std::string_view operator()(const typename Key::Size&) const { return "size"; }
  std::string_view operator()(const typename Key::Duration&) const { return "duration"; }
  std::string_view operator()(const typename Key::Mode&) const { return "permissions"; }
  std::string_view operator()(const typename Key::Limit&) const { return "limit"; }
  std::string_view operator()(const typename Key::Texts&) const { return "list of texts"; }
  std::string_view operator()(const typename Key::Table&) const { return "table of texts"; }
  std::string_view operator()(const typename Key::Choice& key) const { return key.words; }
};

}  // namespace

Result<std::int64_t> parse_duration(std::string_view text) {
  auto ns = parse_with_unit(text, kTimeUnits, kDurationExample, INT64_MAX);
  if (!ns) return forward(std::move(ns));
  return static_cast<std::int64_t>(*ns);
}

Result<std::uint64_t> parse_size(std::string_view text) {
  const bool bare = !text.empty() && text.find_first_not_of("0123456789") == std::string_view::npos;
  return parse_with_unit(bare ? std::string(text) + "B" : std::string(text), kSizeUnits, kSizeExample,
                         UINT64_MAX - 1);
}

std::string format_duration(std::int64_t ns) {
  return format_with_unit(static_cast<std::uint64_t>(ns), kTimeUnits);
}
std::string format_size(std::uint64_t bytes) {
  return format_with_unit(bytes, kSizeUnits);
}

template <typename Target>
Status assign(const KeyOf<Target>& key, Target& target, const WrittenValue& value) {
  return std::visit(Assign<Target>{target, value}, key.value);
}
template Status assign(const KeyOf<Config>&, Config&, const WrittenValue&);
template Status assign(const KeyOf<ComponentConfig>&, ComponentConfig&, const WrittenValue&);

template <typename Target>
std::string_view type_of(const KeyOf<Target>& key) {
  return std::visit(TypeName<Target>{}, key.value);
}
template std::string_view type_of(const KeyOf<Config>&);
template std::string_view type_of(const KeyOf<ComponentConfig>&);

}  // namespace bulkhead::supervisor
