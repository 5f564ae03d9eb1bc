#include "supervisor/output.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <array>

#include "runtime/clock.h"

namespace bulkhead::supervisor {
namespace {

class OutputTest : public ::testing::Test {
 protected:
  OutputTest() {
    std::array<int, 2> ends{};
    EXPECT_EQ(::pipe2(ends.data(), O_CLOEXEC | O_NONBLOCK), 0);
    writer_ = UniqueFd(ends[1]);
    reader_.emplace(loop_, UniqueFd(ends[0]), [this](std::string_view line) { lines_.emplace_back(line); });
  }
  void write(const std::string& text) const {
    ASSERT_EQ(::write(writer_.get(), text.data(), text.size()), static_cast<ssize_t>(text.size()));
  }
  void turn() { ASSERT_TRUE(loop_.turn(0)); }

  EventLoop loop_ = std::move(*EventLoop::create());
  UniqueFd writer_;
  std::optional<OutputReader> reader_;
  std::vector<std::string> lines_;
};

TEST_F(OutputTest, LinesArriveWholeHoweverTheyAreWritten) {
  write("one\ntw");
  turn();
  write("o\nthree");
  turn();
  EXPECT_EQ(lines_, (std::vector<std::string>{"one", "two"}));
  reader_->drain();
  EXPECT_EQ(lines_.back(), "three");
}

TEST_F(OutputTest, UnprintableBytesAreReplaced) {
  write(std::string("a\x1b[31m\0b\tc\n", 11));
  turn();
  ASSERT_EQ(lines_.size(), 1U);
  EXPECT_EQ(lines_[0], "a?[31m?b\tc");
}

TEST_F(OutputTest, LongLinesAreCut) {
  write(std::string(5000, 'x') + "\nnext\n");
  turn();
  ASSERT_EQ(lines_.size(), 2U);
  EXPECT_EQ(lines_[0].size(), OutputReader::kMaxLineBytes);
  EXPECT_EQ(lines_[1], "next");
}

TEST_F(OutputTest, FloodIsCountedInsteadOfHandedOn) {
  std::string flood;
  for (int i = 0; i < 1000; ++i) flood += "x\n";
  write(flood);
  turn();
  EXPECT_EQ(lines_.size(), OutputReader::kMaxLinesPerSecond);
}

TEST_F(OutputTest, ClosedPipeIsLeftAlone) {
  write("last");
  writer_.reset();
  turn();
  reader_->drain();
  EXPECT_EQ(lines_, (std::vector<std::string>{"last"}));
  turn();  // would spin if it were still watched
}

}  // namespace
}  // namespace bulkhead::supervisor
