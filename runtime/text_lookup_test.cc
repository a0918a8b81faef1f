#include "runtime/text_lookup.h"

#include <vector>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

std::vector<TokenId> Tokens(std::initializer_list<int32_t> ids) {
  std::vector<TokenId> tokens;
  for (const int32_t id : ids) tokens.push_back(TokenId{id});
  return tokens;
}

std::vector<TokenId> Found(const LookupResult& result) { return {result.tokens.begin(), result.tokens.end()}; }

TEST(TextLookupTest, GivesWhatFollowedTheLongestMatch) {
  const std::vector<TokenId> text = Tokens({1, 2, 3, 40, 9, 2, 3, 50, 60, 1, 2, 3});
  const LookupResult result = LookUpText(text, 2, 3);
  EXPECT_EQ(result.matched, 3);  // 1 2 3 before 40, not the later 2 3 before 50
  EXPECT_EQ(Found(result), Tokens({40, 9, 2}));
}

TEST(TextLookupTest, OfEquallyLongMatchesTheLatest) {
  const std::vector<TokenId> text = Tokens({5, 6, 10, 5, 6, 20, 7, 5, 6});
  EXPECT_EQ(Found(LookUpText(text, 2, 1)), Tokens({20}));
}

TEST(TextLookupTest, ARepeatingTextMatchesItself) {
  const std::vector<TokenId> text = Tokens({8, 8, 8, 8});
  EXPECT_EQ(Found(LookUpText(text, 2, 4)), Tokens({8}));  // what follows ends with the text
}

TEST(TextLookupTest, ShortMatchesAndShortTextsGiveNothing) {
  EXPECT_TRUE(LookUpText(Tokens({1, 2, 3, 9, 3}), 2, 4).tokens.empty());
  EXPECT_TRUE(LookUpText(Tokens({1}), 1, 4).tokens.empty());
  EXPECT_TRUE(LookUpText({}, 1, 4).tokens.empty());
  EXPECT_TRUE(LookUpText(Tokens({1, 1}), 0, 4).tokens.empty());
  EXPECT_TRUE(LookUpText(Tokens({1, 1}), 1, 0).tokens.empty());
}

}  // namespace
}  // namespace dogstar
