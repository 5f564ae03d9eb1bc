#include "supervisor/config_layers.h"

#include <algorithm>
#include <numeric>
#include <utility>

namespace bulkhead::supervisor {

namespace {

constexpr const char* kComponentsSection = "components";
constexpr const char* kDefaultsSection = "defaults";
constexpr const char* kEdgeSection = "api.process";

std::size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::size_t> row(b.size() + 1);
  std::iota(row.begin(), row.end(), std::size_t{0});
  for (std::size_t i = 1; i <= a.size(); ++i) {
    std::size_t diagonal = std::exchange(row[0], i);
    for (std::size_t j = 1; j <= b.size(); ++j) {
      const std::size_t substituted = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = std::exchange(row[j], std::min({row[j] + 1, row[j - 1] + 1, substituted}));
    }
  }
  return row.back();
}

// The known key that was probably meant: the same name in another place, or few letters away.
std::string closest(const std::string& path, const std::vector<std::string>& known) {
  const std::size_t last_name = path.size() - (path.rfind('.') + 1);  // npos + 1 is 0
  std::size_t best_distance = std::max<std::size_t>(2, last_name / 3) + 1;
  std::string best;
  for (const auto& candidate : known) {
    if (candidate.ends_with("." + path)) return candidate;
    const std::size_t distance = edit_distance(path, candidate);
    if (distance >= best_distance) continue;
    best_distance = distance;
    best = candidate;
  }
  return best;
}

template <typename Key>
std::vector<std::string> names_with_sections(std::span<const Key> keys) {
  std::vector<std::string> names;
  for (const Key& key : keys) {
    names.emplace_back(key.name);
    for (auto dot = key.name.find('.'); dot != std::string_view::npos; dot = key.name.find('.', dot + 1))
      names.emplace_back(key.name.substr(0, dot));
  }
  std::sort(names.begin(), names.end());
  names.erase(std::unique(names.begin(), names.end()), names.end());
  return names;
}

bool valid_component_name(std::string_view name) {
  constexpr std::size_t kMost = 32;
  if (name.empty() || name.size() > kMost || name[0] < 'a' || name[0] > 'z') return false;
  return std::all_of(name.begin(), name.end(),
                     [](char c) { return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-'; });
}

std::string trimmed(std::string_view text) {
  const auto begin = text.find_first_not_of(" \t");
  if (begin == std::string_view::npos) return {};
  return std::string(text.substr(begin, text.find_last_not_of(" \t") - begin + 1));
}

}  // namespace

Error Origin::complaint(const std::string& key, const std::string& what) const {
  return {ErrorKind::kInvalid, where + ": " + (names_key ? "" : key + ": ") + what};
}

class LayerReader {
 public:
  explicit LayerReader(const Document& document) : document_(document) {
    known_globals_ = names_with_sections(global_keys());
    for (const char* section : {kComponentsSection, kDefaultsSection, kEdgeSection})
      known_globals_.emplace_back(section);
    known_component_keys_ = names_with_sections(component_keys());
  }

  Result<Layer> read() {
    if (auto done = globals(document_.root_, ""); !done) return forward(std::move(done));
    return std::move(layer_);
  }

 private:
  Origin origin(const toml::node& node) const {
    if (document_.override_) return {document_.name_, true};
    return {document_.name_ + ":" + std::to_string(node.source().begin.line), false};
  }
  Leaf leaf(const std::string& key, const toml::node& node) const {
    return {key, {&node, document_.override_ ? &document_.raw_ : nullptr}, origin(node)};
  }
  Result<const toml::table*> need_table(const toml::node& node, const std::string& key) const {
    if (const toml::table* table = node.as_table()) return table;
    return std::unexpected(origin(node).complaint(key, "is a single value; a table is needed"));
  }
  Error unknown(const toml::node& node, const std::string& section, const std::string& path,
                const std::vector<std::string>& known) const {
    const std::string meant = closest(path, known);
    return origin(node).complaint(section + path,
                                  meant.empty() ? "unknown key; docs/configuration.md lists the known ones"
                                                : "unknown key; did you mean " + section + meant + "?");
  }

  Status globals(const toml::table& table, const std::string& prefix) {
    for (const auto& [name, node] : table) {
      const std::string path = prefix + std::string(name.str());
      Status done;
      if (path == kComponentsSection) {
        done = components(node);
      } else if (path == kDefaultsSection) {
        done = section(node, path, layer_.defaults);
      } else if (path == kEdgeSection) {
        done = section(node, path, layer_.edge);
      } else {
        done = value(
            node, "", path, global_keys(), known_globals_, layer_.globals,
            [this](const toml::table& inner, const std::string& below) { return globals(inner, below); });
      }
      if (!done) return done;
    }
    return {};
  }

  Status components(const toml::node& node) {
    auto table = need_table(node, kComponentsSection);
    if (!table) return forward(std::move(table));
    for (const auto& [name, component] : **table) {
      const std::string key = std::string(kComponentsSection) + "." + std::string(name.str());
      if (!valid_component_name(name.str())) {
        return std::unexpected(origin(component).complaint(key,
                                                           "is no name for a component; up to 32 of a-z, 0-9 "
                                                           "and \"-\", beginning with a letter, are needed"));
      }
      ComponentLayer& into = layer_.components[std::string(name.str())];
      into.origin = origin(component);
      if (auto done = section(component, key, into.leaves); !done) return done;
    }
    return {};
  }

  Status section(const toml::node& node, const std::string& name, std::vector<Leaf>& into) {
    auto table = need_table(node, name);
    if (!table) return forward(std::move(table));
    return component_values(**table, name + ".", "", into);
  }

  Status component_values(const toml::table& table, const std::string& section_prefix,
                          const std::string& prefix, std::vector<Leaf>& into) {
    for (const auto& [name, node] : table) {
      const auto below = [&](const toml::table& inner, const std::string& path) {
        return component_values(inner, section_prefix, path, into);
      };
      auto done = value(node, section_prefix, prefix + std::string(name.str()), component_keys(),
                        known_component_keys_, into, below);
      if (!done) return done;
    }
    return {};
  }

  // A known key, a table of known keys, or unknown.
  template <typename Key>
  Status value(const toml::node& node, const std::string& section_prefix, const std::string& path,
               std::span<const Key> keys, const std::vector<std::string>& known, std::vector<Leaf>& into,
               const auto& descend) {
    if (std::any_of(keys.begin(), keys.end(), [&](const Key& key) { return key.name == path; })) {
      into.push_back(leaf(path, node));
      return {};
    }
    if (std::find(known.begin(), known.end(), path) == known.end())
      return std::unexpected(unknown(node, section_prefix, path, known));
    auto table = need_table(node, section_prefix + path);
    if (!table) return forward(std::move(table));
    return descend(**table, path + ".");
  }
  const Document& document_;
  Layer layer_;
  std::vector<std::string> known_globals_;
  std::vector<std::string> known_component_keys_;
};

Result<Document> Document::from_text(std::string_view text, const std::string& name) {
  Document document;
  document.name_ = name;
  try {
    document.root_ = toml::parse(text);
  } catch (const toml::parse_error& error) {
    return failure(ErrorKind::kInvalid, name + ":" + std::to_string(error.source().begin.line) +
                                            ": not valid TOML: " + std::string(error.description()));
  }
  return document;
}

Result<Document> Document::from_override(const std::string& text) {
  const auto equals = text.find('=');
  const std::string key = trimmed(text.substr(0, equals));
  Document document;
  document.name_ = "--set " + key;
  document.override_ = true;
  if (equals == std::string::npos)
    return failure(ErrorKind::kInvalid, document.name_ + ": has no value; --set KEY=VALUE is needed");
  document.raw_ = trimmed(text.substr(equals + 1));
  // A value that is not TOML by itself (50ms, /a/path, plain words) is text.
  toml::table parsed;
  try {
    parsed = toml::parse("value = " + document.raw_);
  } catch (const toml::parse_error&) {
    parsed = toml::table();
  }
  if (parsed.size() != 1) parsed = toml::table{{"value", document.raw_}};
  toml::table* table = &document.root_;
  std::string_view rest = key;
  for (auto dot = rest.find('.'); dot != std::string_view::npos; dot = rest.find('.')) {
    table = table->insert_or_assign(rest.substr(0, dot), toml::table()).first->second.as_table();
    rest.remove_prefix(dot + 1);
  }
  table->insert_or_assign(rest, std::move(*parsed.get("value")));
  return document;
}

Result<Layer> Document::layer() const {
  return LayerReader(*this).read();
}

}  // namespace bulkhead::supervisor
