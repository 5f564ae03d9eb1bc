#include "cli/json.h"

#include <google/protobuf/descriptor.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>
#include <string_view>

namespace bulkhead::cli {
namespace {

using google::protobuf::FieldDescriptor;
using google::protobuf::Message;
using google::protobuf::Reflection;

class JsonWriter {
 public:
  explicit JsonWriter(JsonLayout layout) : indented_(layout == JsonLayout::kIndented) {}

  void message(const Message& message);
  std::string take() && { return std::move(text_); }

 private:
  void field(const Message& message, const FieldDescriptor& field);
  void value(const Message& message, const FieldDescriptor& field, int index);
  void string(std::string_view value);
  template <typename T>
  void number(T value);
  void open(char bracket);
  void close(char bracket, bool empty);
  void separate(bool first);

  const bool indented_;
  int depth_ = 0;
  std::string text_;
};

void JsonWriter::open(char bracket) {
  text_ += bracket;
  ++depth_;
}

void JsonWriter::separate(bool first) {
  if (!first) text_ += ',';
  if (indented_) text_.append("\n").append(static_cast<std::size_t>(depth_) * 2, ' ');
}

void JsonWriter::close(char bracket, bool empty) {
  --depth_;
  if (!empty) separate(true);
  text_ += bracket;
}

void JsonWriter::string(std::string_view value) {
  text_ += '"';
  for (const char c : value) {
    if (c == '"' || c == '\\') {
      text_.append({'\\', c});
    } else if (static_cast<unsigned char>(c) < 0x20 || c == 0x7f) {
      std::array<char, 8> escape{};
      std::snprintf(escape.data(), escape.size(), "\\u%04x",
                    static_cast<unsigned>(static_cast<unsigned char>(c)));
      text_ += escape.data();
    } else {
      text_ += c;
    }
  }
  text_ += '"';
}

template <typename T>
void JsonWriter::number(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value))
      return string(std::isnan(value) ? "NaN" : value < 0 ? "-Infinity" : "Infinity");
  }
  std::array<char, 40> digits{};
  const auto [end, error] = std::to_chars(digits.data(), digits.data() + digits.size(), value);
  text_.append(digits.data(), error == std::errc() ? static_cast<std::size_t>(end - digits.data()) : 0);
}

void JsonWriter::message(const Message& message) {
  open('{');
  bool first = true;
  for (int i = 0; i < message.GetDescriptor()->field_count(); ++i) {
    const FieldDescriptor& described = *message.GetDescriptor()->field(i);
    // As protobuf's JSON does: what has no default (an absent message) is left out.
    if (described.has_presence() && !message.GetReflection()->HasField(message, &described)) continue;
    separate(first);
    first = false;
    string(described.name());
    text_ += indented_ ? ": " : ":";
    field(message, described);
  }
  close('}', first);
}

void JsonWriter::field(const Message& message, const FieldDescriptor& field) {
  if (!field.is_repeated()) return value(message, field, -1);
  const int count = message.GetReflection()->FieldSize(message, &field);
  open('[');
  for (int i = 0; i < count; ++i) {
    separate(i == 0);
    value(message, field, i);
  }
  close(']', count == 0);
}

// `index` is -1 for a singular field.
void JsonWriter::value(const Message& message, const FieldDescriptor& field, int index) {
  const Reflection& r = *message.GetReflection();
  const bool one = index < 0;
  const FieldDescriptor* f = &field;
  switch (field.cpp_type()) {
    case FieldDescriptor::CPPTYPE_INT32:
      return number(one ? r.GetInt32(message, f) : r.GetRepeatedInt32(message, f, index));
    case FieldDescriptor::CPPTYPE_INT64:
      return number(one ? r.GetInt64(message, f) : r.GetRepeatedInt64(message, f, index));
    case FieldDescriptor::CPPTYPE_UINT32:
      return number(one ? r.GetUInt32(message, f) : r.GetRepeatedUInt32(message, f, index));
    case FieldDescriptor::CPPTYPE_UINT64:
      return number(one ? r.GetUInt64(message, f) : r.GetRepeatedUInt64(message, f, index));
    case FieldDescriptor::CPPTYPE_DOUBLE:
      return number(one ? r.GetDouble(message, f) : r.GetRepeatedDouble(message, f, index));
    case FieldDescriptor::CPPTYPE_FLOAT:
      return number(one ? r.GetFloat(message, f) : r.GetRepeatedFloat(message, f, index));
    case FieldDescriptor::CPPTYPE_BOOL:
      text_ += (one ? r.GetBool(message, f) : r.GetRepeatedBool(message, f, index)) ? "true" : "false";
      return;
    case FieldDescriptor::CPPTYPE_ENUM: {
      const int raw = one ? r.GetEnumValue(message, f) : r.GetRepeatedEnumValue(message, f, index);
      const auto* known = field.enum_type()->FindValueByNumber(raw);
      if (known == nullptr) return number(raw);  // a newer supervisor's
      return string(known->name());
    }
    case FieldDescriptor::CPPTYPE_STRING:
      return string(one ? r.GetString(message, f) : r.GetRepeatedString(message, f, index));
    case FieldDescriptor::CPPTYPE_MESSAGE:
      return this->message(one ? r.GetMessage(message, f) : r.GetRepeatedMessage(message, f, index));
  }
}

}  // namespace

std::string to_json(const Message& message, JsonLayout layout) {
  JsonWriter writer(layout);
  writer.message(message);
  return std::move(writer).take();
}

}  // namespace bulkhead::cli
