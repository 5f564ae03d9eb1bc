// Bounding text that others wrote.
#pragma once

#include <cstddef>
#include <string_view>

namespace bulkhead::supervisor {

// The beginning of `text` (UTF-8), at most `limit` bytes, no character cut in two: protocol buffers do not
// parse a message with half a character in it.
constexpr std::string_view cut_text(std::string_view text, std::size_t limit) {
  if (text.size() <= limit) return text;
  const auto continues = [text](std::size_t at) {
    return (static_cast<unsigned char>(text[at]) & 0xC0U) == 0x80U;
  };
  while (limit > 0 && continues(limit)) --limit;
  return text.substr(0, limit);
}

}  // namespace bulkhead::supervisor
