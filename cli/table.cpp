#include "cli/table.h"

#include <algorithm>

namespace bulkhead::cli {
namespace {

constexpr std::string_view kGap = "  ";
constexpr std::size_t kLeastLastColumn = 8;

const char* escape_of(Style style) {
  switch (style) {
    case Style::kPlain:
      return "";
    case Style::kBold:
      return "\x1b[1m";
    case Style::kDim:
      return "\x1b[2m";
    case Style::kGood:
      return "\x1b[32m";
    case Style::kWarning:
      return "\x1b[33m";
    case Style::kBad:
      return "\x1b[1;31m";
  }
  return "";
}

unsigned char byte_at(std::string_view text, std::size_t i) {
  return static_cast<unsigned char>(text[i]);
}

// Bytes of the well-formed UTF-8 character at `at`; 0 if there is none.
std::size_t character_length(std::string_view text, std::size_t at) {
  const unsigned char lead = byte_at(text, at);
  const std::size_t length = lead < 0x80   ? 1
                             : lead < 0xc2 ? 0
                             : lead < 0xe0 ? 2
                             : lead < 0xf0 ? 3
                             : lead < 0xf5 ? 4
                                           : 0;
  if (length == 0 || at + length > text.size()) return 0;
  for (std::size_t i = 1; i < length; ++i) {
    if ((byte_at(text, at + i) & 0xc0) != 0x80) return 0;
  }
  return length;
}

// C0, DEL and C1 (U+0080..U+009F, which some terminals obey like ESC).
bool is_control(std::string_view character) {
  const unsigned char lead = byte_at(character, 0);
  if (character.size() == 1) return lead < 0x20 || lead == 0x7f;
  return character.size() == 2 && lead == 0xc2 && byte_at(character, 1) < 0xa0;
}

bool starts_character(char c) {
  return (static_cast<unsigned char>(c) & 0xc0) != 0x80;
}

}  // namespace

std::string printable(std::string_view text) {
  std::string safe;
  safe.reserve(text.size());
  for (std::size_t at = 0; at < text.size();) {
    const std::size_t length = character_length(text, at);
    const std::string_view character = text.substr(at, std::max<std::size_t>(length, 1));
    if (length == 0 || is_control(character)) {
      safe += '?';
    } else {
      safe += character;
    }
    at += character.size();
  }
  return safe;
}

std::size_t display_width(std::string_view text) {
  return static_cast<std::size_t>(std::ranges::count_if(text, starts_character));
}

std::string fitted(std::string_view text, std::size_t width) {
  std::string safe = printable(text);
  if (width == 0 || display_width(safe) <= width) return safe;
  constexpr std::string_view kCut = "...";
  const std::size_t keep = width > kCut.size() ? width - kCut.size() : 0;
  std::size_t at = 0;
  for (std::size_t characters = 0; at < safe.size(); ++at) {
    if (starts_character(safe[at]) && characters++ == keep) break;
  }
  return safe.substr(0, at) + std::string(kCut.substr(0, width));
}

std::string styled(std::string_view text, Style style, const Layout& layout) {
  if (!layout.colour || style == Style::kPlain || text.empty()) return std::string(text);
  return escape_of(style) + std::string(text) + "\x1b[0m";
}

void Table::add(std::vector<Cell> cells) {
  for (Cell& cell : cells) cell.text = cell.text.empty() ? "-" : printable(cell.text);
  cells.resize(columns_.size());
  rows_.push_back(std::move(cells));
}

std::string Table::render(const Layout& layout) const {
  std::vector<Cell> header;
  std::vector<std::size_t> widths;
  for (const Column& column : columns_) {
    header.push_back({column.header, Style::kBold});
    widths.push_back(display_width(column.header));
  }
  for (const auto& row : rows_) {
    for (std::size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], display_width(row[i].text));
  }
  if (layout.width != 0) {
    std::size_t before_last = 0;
    for (std::size_t i = 0; i + 1 < widths.size(); ++i) before_last += widths[i] + kGap.size();
    const std::size_t left = layout.width > before_last ? layout.width - before_last : 0;
    widths.back() = std::min(widths.back(), std::max(left, kLeastLastColumn));
  }
  std::string text = line(header, widths, layout);
  for (const auto& row : rows_) text += line(row, widths, layout);
  return text;
}

std::string Table::line(const std::vector<Cell>& cells, const std::vector<std::size_t>& widths,
                        const Layout& layout) const {
  std::string text;
  for (std::size_t i = 0; i < cells.size(); ++i) {
    const bool last = i + 1 == cells.size();
    const std::string shown = fitted(cells[i].text, widths[i]);
    const std::string padding(widths[i] - display_width(shown), ' ');
    const bool right = columns_[i].align == Align::kRight;
    if (right) text += padding;
    text += styled(shown, cells[i].style, layout);
    if (!right && !last) text += padding;
    if (!last) text += kGap;
  }
  return text + "\n";
}

}  // namespace bulkhead::cli
