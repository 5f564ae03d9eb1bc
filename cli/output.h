// The standard output, its terminal, and what to do when its reader goes away.
#pragma once

#include <string>
#include <string_view>

#include "cli/failure.h"
#include "cli/table.h"

namespace bulkhead::cli {

// Opens /dev/null in place of closed standard descriptors, so that no socket of ours becomes "standard
// output"; ignores SIGPIPE.
void guard_standard_streams();

class Output {
 public:
  // Writes all of it at once. False: nobody reads any more, or it cannot be written; stop producing.
  bool write(std::string_view text);
  // A reader that has seen enough (`bulkhead events | head -1`) is no failure; a full disk is.
  Outcome<void> finish() const;

 private:
  int error_ = 0;
};

enum class ColourChoice : unsigned char { kAuto, kAlways, kNever };

// Looks at the standard output and at NO_COLOR, TERM.
Layout standard_layout(ColourChoice colour);

// "bulkhead: <message>" and a newline to the standard error.
void complain(std::string_view message);

}  // namespace bulkhead::cli
