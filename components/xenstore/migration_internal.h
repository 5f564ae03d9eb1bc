// What import and export share.
#pragma once

#include <memory>
#include <string>
#include <utility>

#include "components/xenstore/migration.h"
#include "components/xenstore/state.h"

namespace bulkhead::xenstore::core {

struct MigrationAccess {
  static Engine engine_of(std::unique_ptr<State> state) { return Engine(std::move(state)); }
  static const State& state_of(const Engine& engine) { return *engine.state_; }
};

}  // namespace bulkhead::xenstore::core

namespace bulkhead::xenstore::migration {

// A bounded list: whoever wrote the stream decides how many things are wrong with it.
class NoteList {
 public:
  void add(std::string note) {
    if (notes_.size() < kMost) {
      notes_.push_back(std::move(note));
    } else {
      ++more_;
    }
  }
  Notes take() {
    if (more_ > 0) notes_.push_back("and " + std::to_string(more_) + " more");
    return std::move(notes_);
  }

 private:
  static constexpr std::size_t kMost = 100;
  Notes notes_;
  std::size_t more_ = 0;
};

// `partial` bytes, then whole messages and nothing else.
bool is_whole_output(std::span<const std::byte> output, std::size_t partial);
// Whole messages, then perhaps the beginning of one, none of them longer than a message may be.
bool is_possible_input(std::span<const std::byte> input);

// The same input with its whole messages in the opposite order. The C xenstored writes the newest request
// first, and executes what it reads from the last to the first. `input` is possible.
std::vector<std::byte> with_requests_reversed(std::span<const std::byte> input);

// What somebody else wrote, fit for a line of text.
std::string printable(std::string_view text);

std::string describe(const std::variant<Ring, Socket>& end);

}  // namespace bulkhead::xenstore::migration
