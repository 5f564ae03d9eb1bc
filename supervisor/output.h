// Reads what a process writes to its standard output or standard error, line by line, within bounds.
#pragma once

#include <functional>
#include <string>
#include <string_view>

#include "runtime/event_loop.h"
#include "runtime/unique_fd.h"

namespace bulkhead::supervisor {

class OutputReader {
 public:
  // One line without its newline, unprintable bytes replaced; at most kMaxLineBytes, the rest of it dropped.
  using LineHandler = std::function<void(std::string_view line)>;

  static constexpr std::size_t kMaxLineBytes = 2048;
  // More lines than this within a second are counted, not handed on; their number is, as a line of its own.
  static constexpr std::uint32_t kMaxLinesPerSecond = 200;

  // `fd`: the read end of the pipe, non-blocking; may be invalid (nothing happens then).
  OutputReader(EventLoop& loop, UniqueFd fd, LineHandler handler);
  ~OutputReader();
  OutputReader(const OutputReader&) = delete;
  OutputReader& operator=(const OutputReader&) = delete;

  BorrowedFd fd() const { return fd_.borrow(); }
  // Takes what is left in the pipe, also a last line without a newline. Before destruction, if wanted.
  void drain();

 private:
  bool read_some();
  void take(std::string_view bytes);
  void hand_on();
  bool within_rate();

  EventLoop& loop_;
  UniqueFd fd_;
  LineHandler handler_;
  bool watched_ = false;
  std::string line_;
  std::int64_t window_ns_ = 0;  // when the current second began
  std::uint32_t lines_ = 0;
  std::uint32_t dropped_ = 0;
};

}  // namespace bulkhead::supervisor
