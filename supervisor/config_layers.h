// One source of configuration (the built-in text, a file, a --set) taken apart into single values, each with
// the place it was written at. Unknown keys are found here.
#pragma once

#include <toml++/toml.h>

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "runtime/result.h"
#include "supervisor/config_values.h"

namespace bulkhead::supervisor {

// Where a value was written.
struct Origin {
  std::string where;       // "FILE:LINE", "--set a.b"
  bool names_key = false;  // --set: `where` tells the key already

  // "FILE:LINE: key: what is wrong; what would be right", kInvalid.
  Error complaint(const std::string& key, const std::string& what) const;
};

struct Leaf {
  std::string key;  // below its section
  WrittenValue value;
  Origin origin;
};

struct ComponentLayer {
  Origin origin;
  std::vector<Leaf> leaves;
};

struct Layer {
  std::vector<Leaf> globals;
  std::vector<Leaf> defaults;  // [defaults]
  std::vector<Leaf> edge;      // [api.process]
  std::map<std::string, ComponentLayer> components;
};

// Owns what the leaves point to; must not be copied or moved while they are used.
class Document {
 public:
  // `name` stands for the file in messages.
  static Result<Document> from_text(std::string_view text, const std::string& name);
  // "a.b=value"
  static Result<Document> from_override(const std::string& text);

  Result<Layer> layer() const;

 private:
  Document() = default;

  toml::table root_;
  std::string name_;
  std::string raw_;  // --set: the value's text
  bool override_ = false;
  friend class LayerReader;
};

}  // namespace bulkhead::supervisor
