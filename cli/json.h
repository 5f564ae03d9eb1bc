// A message of the API as JSON for scripts.
#pragma once

#include <google/protobuf/message.h>

#include <string>

namespace bulkhead::cli {

enum class JsonLayout : unsigned char {
  kOneLine,   // for streams: one object per line
  kIndented,  // for people and diffs
};

// Protobuf's JSON with the proto's field names, every field present, enum values by name. One deviation,
// which protobuf's own parsers accept: 64-bit integers are numbers, not strings, so that scripts can compare
// them. No newline at the end.
std::string to_json(const google::protobuf::Message& message, JsonLayout layout);

}  // namespace bulkhead::cli
