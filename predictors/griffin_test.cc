#include "predictors/griffin.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "predictors/calibrated.h"
#include "predictors/selection.h"

namespace dogstar {
namespace {

GriffinPredictor Griffin(std::vector<int32_t> rows, double prior = 0) {
  return GriffinPredictor({.rows = std::move(rows), .ffn_rows = 4, .prior = prior});
}

RowSet All(int32_t rows) {
  RowSet set(rows);
  for (int32_t i = 0; i < rows; ++i) set.Insert(RowIndex{i});
  return set;
}

TEST(GriffinTest, EachTokenCountsOnceHoweverLoudItIs) {
  GriffinPredictor griffin = Griffin({1});
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
  GriffinPredictor whole = Griffin({2}), pieces = Griffin({2});
  whole.ObservePrompt(LayerIndex{0}, z, 3, 4);
  for (size_t t = 0; t < 3; ++t) pieces.ObservePrompt(LayerIndex{0}, std::span(z).subspan(t * 4, 4), 1, 4);
  for (size_t i = 0; i < 4; ++i) EXPECT_FLOAT_EQ(whole.Scores(LayerIndex{0})[i], pieces.Scores(LayerIndex{0})[i]);
}

TEST(GriffinTest, ATokenOfTheTextCountsAsOneOfThePrompt) {
  GriffinPredictor griffin = Griffin({2});
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

TEST(GriffinTest, ThePriorDecidesUntilThePromptSaysMore) {
  GriffinPredictor griffin = Griffin({1}, 2);
  griffin.BeginPrompt();
  EXPECT_NEAR(griffin.Scores(LayerIndex{0})[0], 2 * 1.62 / 4, 1e-5);
  EXPECT_TRUE(griffin.Choose(LayerIndex{0}, All(4))->Contains(RowIndex{0}));
  griffin.ObservePrompt(LayerIndex{0}, std::vector<float>{0, 0, 0, 5}, 1, 4);
  EXPECT_TRUE(griffin.Choose(LayerIndex{0}, All(4))->Contains(RowIndex{3}));
}

TEST(PredictorTest, LayersMayHaveDensitiesOfTheirOwn) {
  const auto predictor = NewPredictor({.name = "resident", .layer_densities = {0.25, 0.75}}, 2, 4).value();
  EXPECT_EQ(predictor->Choose(LayerIndex{0}, All(4))->count(), 1);
  EXPECT_EQ(predictor->Choose(LayerIndex{1}, All(4))->count(), 3);
  const auto wrong = NewPredictor({.name = "resident", .layer_densities = {0.25}}, 2, 4);
  EXPECT_THAT(std::string(wrong.status().message()), testing::HasSubstr("1 numbers; the model has 2 layers"));
}

TEST(PredictorTest, EveryCountIsExact) {
  // 0.7 of 10 rows are 7, though 0.7 * 10 need not be 7 in binary, and FSparse drops floor(0.3 * 10).
  for (const std::string_view name : PredictorNames()) {
    if (NeedsStatistics(name)) continue;  // calibrated_test.cc
    const auto predictor = NewPredictor({.name = std::string(name), .density = 0.7}, 1, 10).value();
    const std::vector<float> ones(10, 1.0F);
    predictor->SetGateNorms(LayerIndex{0}, ones);
    predictor->SetRowNorms(LayerIndex{0}, ones, ones);
    predictor->BeginPrompt();
    predictor->ObservePrompt(LayerIndex{0}, ones, 1, 10);
    predictor->ShowFullValues(LayerIndex{0}, ones);
    const RowSet* rows = predictor->Choose(LayerIndex{0}, All(10));
    const RowChoice* choice = predictor->TokenChoice(LayerIndex{0});
    EXPECT_EQ(choice != nullptr, predictor->chooses_by_token()) << name;
    if (choice != nullptr) {
      EXPECT_EQ(choice->count, 7) << name;
    } else if (name != "dense") {
      ASSERT_NE(rows, nullptr) << name;
      EXPECT_EQ(rows->count(), 7) << name;
    }
  }
}

TEST(PredictorTest, AnUnknownNameListsThoseThatAreKnown) {
  const auto predictor = NewPredictor({"topp", -1}, 1, 4);
  ASSERT_FALSE(predictor.ok());
  EXPECT_THAT(std::string(predictor.status().message()), testing::HasSubstr("resident, griffin, dense"));
}

}  // namespace
}  // namespace dogstar
