#include "predictors/griffin.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

RowSet All(int32_t rows) {
  RowSet set(rows);
  for (int32_t i = 0; i < rows; ++i) set.Insert(RowIndex{i});
  return set;
}

TEST(GriffinTest, EachTokenCountsOnceHoweverLoudItIs) {
  GriffinPredictor griffin(0.25, 1, 4);
  griffin.BeginPrompt();
  // Token 0 is a thousand times louder, yet rows 1 and 0 each win one token; row 1 also has the second place twice.
  const std::vector<float> z = {3000, 1000, 0, 0, 0, 4, 3, 0};
  griffin.ObservePrompt(LayerIndex{0}, z, 2, 4);
  EXPECT_NEAR(griffin.Scores(LayerIndex{0})[0], 0.9, 1e-5);
  EXPECT_NEAR(griffin.Scores(LayerIndex{0})[1], 0.1 + 0.64, 1e-5);
  const RowSet* chosen = griffin.Choose(LayerIndex{0}, All(4));
  ASSERT_NE(chosen, nullptr);
  EXPECT_EQ(chosen->count(), 1);
  EXPECT_TRUE(chosen->Contains(RowIndex{0}));
}

TEST(GriffinTest, PiecesOfAPromptAddUp) {
  const std::vector<float> z = {1, 2, 3, 4, 4, 3, 2, 1, 0, 0, 0, 0};
  GriffinPredictor whole(0.5, 1, 4), pieces(0.5, 1, 4);
  whole.ObservePrompt(LayerIndex{0}, z, 3, 4);
  for (size_t t = 0; t < 3; ++t) pieces.ObservePrompt(LayerIndex{0}, std::span(z).subspan(t * 4, 4), 1, 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(whole.Scores(LayerIndex{0})[i], pieces.Scores(LayerIndex{0})[i]);
}

TEST(GriffinTest, ATokenOfTheTextCountsAsOneOfThePrompt) {
  GriffinPredictor griffin(0.5, 1, 4);
  griffin.ObservePrompt(LayerIndex{0}, std::vector<float>{1, 0, 0, 0}, 1, 4);
  const std::vector<uint64_t> mask = {0b1100};
  griffin.ObserveToken(LayerIndex{0}, mask, 2);
  EXPECT_FLOAT_EQ(griffin.Scores(LayerIndex{0})[0], 1);
  EXPECT_FLOAT_EQ(griffin.Scores(LayerIndex{0})[2] + griffin.Scores(LayerIndex{0})[3], 1);
}

TEST(GriffinTest, ChoosesOnlyAvailableRowsAndBreaksTiesByTheLowerRow) {
  RowSet available(8);
  for (int32_t row : {1, 3, 5, 7}) available.Insert(RowIndex{row});
  const std::vector<float> scores = {9, 1, 9, 2, 9, 2, 9, 2};
  RowSet chosen;
  std::vector<int32_t> scratch;
  TopRows(scores, available, 2, &scratch, &chosen);
  EXPECT_EQ(chosen.count(), 2);
  EXPECT_TRUE(chosen.Contains(RowIndex{3}));
  EXPECT_TRUE(chosen.Contains(RowIndex{5}));
  TopRows(scores, available, 100, &scratch, &chosen);
  EXPECT_EQ(chosen.count(), 4);
}

TEST(PredictorTest, AnUnknownNameListsThoseThatAreKnown) {
  const auto predictor = NewPredictor({"topp", -1}, 1, 4);
  ASSERT_FALSE(predictor.ok());
  EXPECT_THAT(std::string(predictor.status().message()), testing::HasSubstr("resident, griffin, dense"));
}

}  // namespace
}  // namespace dogstar
