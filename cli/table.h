// Text for a terminal or a file: styled, safe to print, and tables that fit.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace bulkhead::cli {

enum class Style : unsigned char { kPlain, kBold, kDim, kGood, kWarning, kBad };

// How output is to look.
struct Layout {
  bool colour = false;
  bool terminal = false;
  std::size_t width = 0;  // columns; 0: unlimited
};

// Names and evidence come from guests: control characters (a terminal obeys escape sequences) and broken
// UTF-8 become
// '?', each.
std::string printable(std::string_view text);

// Columns that `text` (printable UTF-8) takes, one per code point.
std::size_t display_width(std::string_view text);

// printable(text), shortened to `width` columns with "..." at the end; 0: not shortened.
std::string fitted(std::string_view text, std::size_t width);

std::string styled(std::string_view text, Style style, const Layout& layout);

class Table {
 public:
  enum class Align : unsigned char { kLeft, kRight };
  struct Column {
    std::string header;
    Align align = Align::kLeft;
  };
  struct Cell {
    std::string text;
    Style style = Style::kPlain;
  };

  explicit Table(std::vector<Column> columns) : columns_(std::move(columns)) {}
  // As many cells as columns.
  void add(std::vector<Cell> cells);
  bool empty() const { return rows_.empty(); }

  // A header line and a line per row. In a bounded layout the last column gives way, never below 8 columns.
  std::string render(const Layout& layout) const;

 private:
  std::string line(const std::vector<Cell>& cells, const std::vector<std::size_t>& widths,
                   const Layout& layout) const;

  std::vector<Column> columns_;
  std::vector<std::vector<Cell>> rows_;
};

}  // namespace bulkhead::cli
