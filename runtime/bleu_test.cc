#include "runtime/bleu.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(BleuTest, WordsAreRunsOfLettersAndSingleSigns) {
  EXPECT_THAT(BleuWords("It's 3.5 caf\xc3\xa9s,\n ok"),
              testing::ElementsAre("It", "'", "s", "3", ".", "5", "caf\xc3\xa9s", ",", "ok"));
  EXPECT_THAT(BleuWords(" \t\n"), testing::IsEmpty());
}

TEST(BleuTest, EqualTextsHaveAHundredHoweverShort) {
  for (const char* text : {"yes", "two words", "a b c", "one two three four five six"}) {
    EXPECT_NEAR(Bleu(text, text), 100, 1e-9) << text;
  }
  EXPECT_EQ(Bleu("", ""), 100);
  EXPECT_EQ(Bleu("", "a"), 0);
  EXPECT_EQ(Bleu("a", ""), 0);
}

TEST(BleuTest, CountsAreClippedAndOrdersAveraged) {
  // 1-grams: "the" twice in the reference, so 2 of 4; 2-grams 0 of 3, smoothed to 1/2; 3-grams 1/4; 4-grams 1/8.
  EXPECT_NEAR(Bleu("the the the the", "the cat the mat"),
              100 * std::pow(2.0 / 4 * (0.5 / 3) * (0.25 / 2) * (0.125 / 1), 0.25), 1e-9);
  // 4 of 5, 2 of 4, 1 of 3, 0 of 2 smoothed to 1/2.
  EXPECT_NEAR(Bleu("a b c x d", "a b c y d"), 100 * std::pow(4.0 / 5 * (2.0 / 4) * (1.0 / 3) * (0.5 / 2), 0.25), 1e-9);
}

TEST(BleuTest, ShorterTextsAreLessLongerOnesAreNotMore) {
  EXPECT_NEAR(Bleu("a b c d", "a b c d e f g h"), 100 * std::exp(1 - 2.0), 1e-9);
  EXPECT_LT(Bleu("a b c d e", "a b c d"), 100);
}

}  // namespace
}  // namespace dogstar
