#include "supervisor/config.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <deque>
#include <fstream>
#include <iterator>
#include <set>

#include "supervisor/config_check.h"
#include "supervisor/config_layers.h"

namespace bulkhead::supervisor {

namespace {

class Loader {
 public:
  explicit Loader(const std::string& source) : origins_(source) { config_.source = source; }

  // Later ones win. `user`: written by the operator, so its components exist and its places are worth naming.
  Status add(Result<Document> document, bool user) {
    if (!document) return forward(std::move(document));
    documents_.push_back(std::move(*document));
    auto layer = documents_.back().layer();
    if (!layer) return forward(std::move(layer));
    layers_.push_back({std::move(*layer), user});
    return {};
  }

  Result<Config> finish() {
    for (const auto& [layer, user] : layers_) {
      auto done = apply(layer.globals, global_keys(), config_, "", user);
      if (!done) return forward(std::move(done));
    }
    config_.api.process.name = "api";
    if (auto done = apply_defaults(config_.api.process); !done) return forward(std::move(done));
    for (const auto& [layer, user] : layers_) {
      auto done = apply(layer.edge, component_keys(), config_.api.process, "api.process.", user);
      if (!done) return forward(std::move(done));
    }
    for (const auto& name : component_names())
      if (auto done = add_component(name); !done) return forward(std::move(done));
    if (auto done = check_and_finish(config_, origins_); !done) return forward(std::move(done));
    return std::move(config_);
  }

 private:
  struct UserLayer {
    Layer layer;
    bool user;
  };

  std::set<std::string> component_names() const {
    std::set<std::string> names;
    for (const auto& [layer, user] : layers_) {
      if (user)
        for (const auto& [name, component] : layer.components) names.insert(name);
    }
    return names;
  }

  Status apply_defaults(ComponentConfig& component) {
    for (const auto& [layer, user] : layers_) {
      if (auto done = apply(layer.defaults, component_keys(), component, "defaults.", user); !done)
        return done;
    }
    return {};
  }

  Status add_component(const std::string& name) {
    ComponentConfig component;
    component.name = name;
    if (auto done = apply_defaults(component); !done) return done;
    for (const auto& [layer, user] : layers_) {
      const auto found = layer.components.find(name);
      if (found == layer.components.end()) continue;
      const std::string at = "components." + name;
      if (user) origins_.note(at, found->second.origin);
      if (auto done = apply(found->second.leaves, component_keys(), component, at + ".", user); !done)
        return done;
    }
    config_.components.push_back(std::move(component));
    return {};
  }

  template <typename Target>
  Status apply(const std::vector<Leaf>& leaves, std::span<const KeyOf<Target>> keys, Target& target,
               const std::string& prefix, bool user) {
    for (const Leaf& leaf : leaves) {
      const auto key =
          std::find_if(keys.begin(), keys.end(), [&](const auto& each) { return each.name == leaf.key; });
      auto done = assign(*key, target, leaf.value);
      if (!done) return std::unexpected(leaf.origin.complaint(prefix + leaf.key, done.error().message()));
      if (user) origins_.note(prefix + leaf.key, leaf.origin);
    }
    return {};
  }

  Config config_;
  Origins origins_;
  std::deque<Document> documents_;  // stay where they are: leaves point into them
  std::vector<UserLayer> layers_;
};

Result<std::string> read_file(const std::string& path) {
  constexpr std::size_t kMost = std::size_t{1} << 20;
  std::ifstream file(path, std::ios::binary);
  if (!file) return os_failure("cannot read " + path);
  std::string text;
  text.resize(kMost + 1);
  file.read(text.data(), static_cast<std::streamsize>(text.size()));
  if (file.bad()) return os_failure("cannot read " + path);
  text.resize(static_cast<std::size_t>(file.gcount()));
  if (text.size() > kMost)
    return failure(ErrorKind::kInvalid, path + ": is larger than 1 MiB; a configuration is needed");
  return text;
}

}  // namespace

const ComponentConfig* Config::find(std::string_view name) const {
  const auto found =
      std::find_if(components.begin(), components.end(), [&](const auto& each) { return each.name == name; });
  return found == components.end() ? nullptr : &*found;
}

Result<Config> parse_config(std::string_view text, const std::string& source,
                            const std::vector<std::string>& overrides) {
  Loader loader(source);
  auto done = loader.add(Document::from_text(builtin_config(), "built-in defaults"), false);
  if (done) done = loader.add(Document::from_text(text, source), true);
  for (const auto& text_of_override : overrides)
    if (done) done = loader.add(Document::from_override(text_of_override), true);
  if (!done) return forward(std::move(done));
  return loader.finish();
}

Result<Config> load_config(const std::string& path, const std::vector<std::string>& overrides) {
  if (path.empty()) return parse_config(builtin_config(), "built-in defaults", overrides);
  auto text = read_file(path);
  if (!text) return forward(std::move(text));
  return parse_config(*text, path, overrides);
}

Result<Config> load_default_config(const std::string& standard, const std::vector<std::string>& overrides) {
  const bool missing = ::access(standard.c_str(), F_OK) != 0 && (errno == ENOENT || errno == ENOTDIR);
  return load_config(missing ? std::string() : standard, overrides);
}

std::vector<KeyDescription> describe_keys() {
  std::vector<KeyDescription> keys;
  for (const auto& key : global_keys()) keys.push_back({std::string(key.name), type_of(key), key.about});
  for (const auto& key : component_keys())
    keys.push_back({"components.NAME." + std::string(key.name), type_of(key), key.about});
  return keys;
}

}  // namespace bulkhead::supervisor
