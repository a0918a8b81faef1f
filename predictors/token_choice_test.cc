#include "predictors/token_choice.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using Kind = TokenChoicePredictor::Kind;
constexpr LayerIndex kLayer{0};

TokenChoicePredictor Make(Kind kind, double density, double value_density = -1) {
  return {kind, "name", {.density = density, .value_density = value_density, .layers = 1, .ffn_rows = 8}};
}

// Rounded down; gate alone leaves out a share rounded down, as FSparse does.
TEST(TokenChoiceTest, CountsAreSharesOfTheLayersRows) {
  EXPECT_EQ(Make(Kind::kGate, 0.5).TokenChoice(kLayer)->count, 4);
  EXPECT_EQ(Make(Kind::kGate, 0.49).TokenChoice(kLayer)->count, 4);
  EXPECT_EQ(Make(Kind::kGateWeighted, 0.49).TokenChoice(kLayer)->count, 3);
  EXPECT_EQ(Make(Kind::kGate, 0.5).TokenChoice(kLayer)->score, RowScore::kGate);
  EXPECT_EQ(Make(Kind::kMagnitude, 1).TokenChoice(kLayer)->score, RowScore::kValue);
  EXPECT_EQ(Make(Kind::kGate, 0.5).TokenChoice(kLayer)->value_count, -1);
}

TEST(TokenChoiceTest, WithoutADensityEveryAvailableRowIsUsed) {
  EXPECT_EQ(Make(Kind::kGateWeighted, -1).TokenChoice(kLayer), nullptr);
  EXPECT_FALSE(Make(Kind::kGateWeighted, -1).chooses_by_token());
  EXPECT_FALSE(Make(Kind::kGateWeighted, -1).observes_prompt());
}

TEST(TokenChoiceTest, TheSecondStageKeepsFourSeventhsUnlessItIsTold) {
  EXPECT_EQ(Make(Kind::kTwoStage, 0.9).TokenChoice(kLayer)->value_count, 4);  // floor(8 * 0.9 * 4 / 7)
  EXPECT_EQ(Make(Kind::kTwoStage, 0.9, 0.25).TokenChoice(kLayer)->value_count, 2);
}

TEST(TokenChoiceTest, GatesAreWeighedByTheRmsOfUpOverAllPromptsAndTheDownNorm) {
  TokenChoicePredictor predictor(Kind::kGateWeighted, "gate-weighted", {.density = 0.5, .layers = 1, .ffn_rows = 2});
  predictor.SetRowNorms(kLayer, std::vector<float>{9, 9}, std::vector<float>{2, 0.5F});
  const RowChoice* choice = predictor.TokenChoice(kLayer);
  EXPECT_THAT(std::vector<float>(choice->weight, choice->weight + 2), testing::ElementsAre(2, 0.5F));
  predictor.BeginPrompt();
  predictor.ObserveUp(kLayer, std::vector<float>{3, 1, 99, 4, -1, 99}, 2, 3);  // stride 3: the third is padding
  predictor.EndPrompt();
  EXPECT_FLOAT_EQ(choice->weight[0], std::sqrt(12.5F) * 2);
  EXPECT_FLOAT_EQ(choice->weight[1], 0.5F);
  predictor.BeginPrompt();  // what is known of up stays
  predictor.ObserveUp(kLayer, std::vector<float>{0, 5, 99}, 1, 3);
  predictor.EndPrompt();
  EXPECT_FLOAT_EQ(choice->weight[0], std::sqrt(25.0F / 3) * 2);
  EXPECT_FLOAT_EQ(choice->weight[1], std::sqrt(27.0F / 3) * 0.5F);
}

TEST(TokenChoiceTest, ContributionsAreWeighedByTheDownNormAlone) {
  TokenChoicePredictor predictor(Kind::kContribution, "contribution", {.density = 0.5, .layers = 1, .ffn_rows = 2});
  EXPECT_FALSE(predictor.observes_up());
  predictor.SetRowNorms(kLayer, std::vector<float>{9, 9}, std::vector<float>{2, 3});
  const RowChoice* choice = predictor.TokenChoice(kLayer);
  EXPECT_THAT(std::vector<float>(choice->weight, choice->weight + 2), testing::ElementsAre(2, 3));
}

}  // namespace
}  // namespace dogstar
