#include "supervisor/output.h"

#include <array>
#include <cerrno>

#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

constexpr int kReadsPerTurn = 4;

}  // namespace

OutputReader::OutputReader(EventLoop& loop, UniqueFd fd, LineHandler handler)
    : loop_(loop), fd_(std::move(fd)), handler_(std::move(handler)) {
  if (!fd_.valid()) return;
  watched_ = loop_
                 .watch(fd_.borrow(), EPOLLIN,
                        [this](std::uint32_t) {
                          for (int i = 0; i < kReadsPerTurn && read_some(); ++i) {
                          }
                        })
                 .has_value();
}

OutputReader::~OutputReader() {
  if (watched_) loop_.unwatch(fd_.borrow());
}

void OutputReader::drain() {
  if (!fd_.valid()) return;
  // A pipe holds 64 KiB; another process may still be writing to it, so the number of reads is bounded.
  for (int i = 0; i < 64 && read_some(); ++i) {
  }
  if (!line_.empty()) hand_on();
}

// False when there is nothing more to read now.
bool OutputReader::read_some() {
  std::array<char, 4096> buffer{};
  const ssize_t got = ::read(fd_.get(), buffer.data(), buffer.size());
  if (got > 0) {
    take({buffer.data(), static_cast<std::size_t>(got)});
    return true;
  }
  const bool ended = got == 0 || (errno != EAGAIN && errno != EINTR);
  if (ended && watched_) {
    loop_.unwatch(fd_.borrow());
    watched_ = false;
  }
  return false;
}

void OutputReader::take(std::string_view bytes) {
  for (const char c : bytes) {
    if (c == '\n') {
      hand_on();
    } else if (line_.size() < kMaxLineBytes) {
      const auto byte = static_cast<unsigned char>(c);
      line_ += (byte < 0x20 && byte != '\t') || byte == 0x7f ? '?' : c;
    }
  }
}

void OutputReader::hand_on() {
  if (within_rate()) {
    handler_(line_);
  } else {
    ++dropped_;
  }
  line_.clear();
}

bool OutputReader::within_rate() {
  if (loop_.now() - window_ns_ >= kSecond) {
    window_ns_ = loop_.now();
    lines_ = 0;
    if (dropped_ != 0) handler_(std::to_string(dropped_) + " lines dropped (too many per second)");
    dropped_ = 0;
  }
  return ++lines_ <= kMaxLinesPerSecond;
}

}  // namespace bulkhead::supervisor
