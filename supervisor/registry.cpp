#include "supervisor/registry.h"

#include <algorithm>

namespace bulkhead::supervisor {

Component& Registry::add(std::unique_ptr<Component> component) {
  return *components_.emplace_back(std::move(component));
}

Component* Registry::find(std::string_view name) const {
  const auto found = std::ranges::find_if(components_, [name](const auto& c) { return c->name() == name; });
  return found == components_.end() ? nullptr : found->get();
}

std::string Registry::names() const {
  std::string text;
  for (const auto& component : components_) text += (text.empty() ? "" : ", ") + component->name();
  return text.empty() ? "none" : text;
}

bool Registry::dependants_gone(const std::string& name) const {
  return std::ranges::none_of(components_, [&name](const auto& component) {
    const auto& needs = component->config().depends_on;
    return component->facts().running && std::ranges::find(needs, name) != needs.end();
  });
}

}  // namespace bulkhead::supervisor
