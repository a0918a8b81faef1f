#include "predictors/attribution_sums.h"

#include <cmath>

#include "gtest/gtest.h"
#include "predictors/attribution_scores.h"

namespace dogstar {
namespace {

// The last sum is the corrected score of attribution_scores.h.
TEST(AttributionSumsTest, AddsTokens) {
  AttributionSums sums = AttributionSums::Of(2);
  const std::vector<float> x = {2, -3}, g = {0.5F, 1}, y = {-1, 0}, h = {2, 4};
  sums.AddUnits(x, g);
  sums.AddUnits(y, h);
  const auto of = [&](AttributionSum sum, size_t unit) { return sums[sum][unit]; };
  EXPECT_FLOAT_EQ(of(AttributionSum::kMagnitude, 0), 3);
  EXPECT_FLOAT_EQ(of(AttributionSum::kSquare, 0), 5);
  EXPECT_FLOAT_EQ(of(AttributionSum::kGradient, 0), 2.5F);
  EXPECT_FLOAT_EQ(of(AttributionSum::kGradientSquare, 1), 17);
  EXPECT_FLOAT_EQ(of(AttributionSum::kGxo, 0), -1) << "signed: 1 - 2";
  EXPECT_FLOAT_EQ(of(AttributionSum::kSnip, 0), 3) << "sizes do not cancel";
  EXPECT_FLOAT_EQ(of(AttributionSum::kFisher, 0), 5);
  std::vector<float> a(2), b(2);
  UnitScores({}, x, g, a);
  UnitScores({}, y, h, b);
  for (size_t i = 0; i < 2; ++i) EXPECT_FLOAT_EQ(of(AttributionSum::kCorrected, i), a[i] + b[i]);
}

TEST(AttributionSumsTest, HeadsAreVectors) {
  AttributionSums sums = AttributionSums::Of(2);
  const std::vector<float> x = {3, 4, 0, 1}, g = {1, 1, -2, 2};
  sums.AddHeads(2, x, g);
  EXPECT_FLOAT_EQ(sums[AttributionSum::kMagnitude][0], 5);
  EXPECT_FLOAT_EQ(sums[AttributionSum::kGradient][1], 0);
  EXPECT_FLOAT_EQ(sums[AttributionSum::kGradientSquare][1], 8);
  EXPECT_FLOAT_EQ(sums[AttributionSum::kGxo][0], 7);
  std::vector<float> scores(2);
  HeadScores({}, 2, x, g, scores);
  for (size_t i = 0; i < 2; ++i) EXPECT_NEAR(sums[AttributionSum::kCorrected][i], scores[i], 1e-5);
}

}  // namespace
}  // namespace dogstar
