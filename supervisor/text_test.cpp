#include "supervisor/text.h"

#include <gtest/gtest.h>

namespace bulkhead::supervisor {
namespace {

TEST(CutTextTest, ShortTextStaysAsItIs) {
  EXPECT_EQ(cut_text("", 0), "");
  EXPECT_EQ(cut_text("abc", 3), "abc");
  EXPECT_EQ(cut_text("abc", 100), "abc");
  EXPECT_EQ(cut_text("abc", 2), "ab");
  EXPECT_EQ(cut_text("abc", 0), "");
}

TEST(CutTextTest, CharactersStayWhole) {
  EXPECT_EQ(cut_text("a\u00e9b", 2), "a");
  EXPECT_EQ(cut_text("a\u00e9b", 3), "a\u00e9");
  EXPECT_EQ(cut_text("\u20ac\u20ac", 5), "\u20ac");
  EXPECT_EQ(cut_text("\U0001F600", 3), "");
  EXPECT_EQ(cut_text("\U0001F600!", 4), "\U0001F600");
}

// What is no UTF-8 is cut somewhere below the limit.
TEST(CutTextTest, AnythingIsCut) {
  EXPECT_EQ(cut_text("\x80\x80\x80\x80", 3), "");
  EXPECT_EQ(cut_text("\xff\xff\xff", 2), "\xff\xff");
}

}  // namespace
}  // namespace bulkhead::supervisor
