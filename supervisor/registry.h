// All components of this core, in an order in which dependencies come first.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "supervisor/component.h"
#include "supervisor/publisher.h"

namespace bulkhead::supervisor {

class Registry {
 public:
  Component& add(std::unique_ptr<Component> component);

  Component* find(std::string_view name) const;
  const std::vector<std::unique_ptr<Component>>& all() const { return components_; }
  // "a, b, c", for messages to people.
  std::string names() const;
  // Every component that depends on `name` is without a process.
  bool dependants_gone(const std::string& name) const;

  // A component's whole description after each turn in which it changed.
  Publisher<v1::Component>& changes() { return changes_; }

 private:
  std::vector<std::unique_ptr<Component>> components_;
  Publisher<v1::Component> changes_;
};

}  // namespace bulkhead::supervisor
