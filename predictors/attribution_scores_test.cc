#include "predictors/attribution_scores.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using testing::ElementsAre;
using testing::FloatEq;
using testing::Pointwise;

constexpr int32_t kUnits = 64, kHeadDim = 8, kHeads = kUnits / kHeadDim;

std::vector<float> Random(uint64_t seed, float scale) {
  SplitMix64 random(seed);
  std::vector<float> values(kUnits);
  for (float& value : values) value = scale * static_cast<float>(2 * random.Uniform() - 1);
  return values;
}

std::vector<float> Scores(const ScoreOptions& options, const std::vector<float>& x, const std::vector<float>& g) {
  std::vector<float> scores(x.size());
  UnitScores(options, x, g, scores);
  return scores;
}

std::vector<float> OfHeads(const ScoreOptions& options, const std::vector<float>& x, const std::vector<float>& g) {
  std::vector<float> scores(kHeads);
  HeadScores(options, kHeadDim, x, g, scores);
  return scores;
}

std::vector<int32_t> Order(const std::vector<float>& scores) {
  return TopUnits(scores, static_cast<int32_t>(scores.size()), false);
}

TEST(AttributionScoresTest, FormulasOfTwoUnits) {
  const std::vector<float> x = {2, -1}, g = {3, 4};  // |g| = 5
  EXPECT_THAT(Scores({AttributionMetric::kMagnitude}, x, g), ElementsAre(2, 1));
  EXPECT_THAT(Scores({AttributionMetric::kGradient}, x, g), ElementsAre(-3, -4));
  EXPECT_THAT(Scores({AttributionMetric::kGxo}, x, g), ElementsAre(-6, 4));
  EXPECT_THAT(Scores({AttributionMetric::kSnip}, x, g), ElementsAre(6, 4));
  EXPECT_THAT(Scores({AttributionMetric::kFisher}, x, g), ElementsAre(36, 16));
  EXPECT_THAT(Scores({AttributionMetric::kCorrected}, x, g), ElementsAre(-6 + 5, 4 + 2.5F));
}

TEST(AttributionScoresTest, FormulasOfTwoHeadsInBothReductions) {
  const std::vector<float> x = {3, 4, 1, 0}, g = {1, 2, 3, -1};  // two heads of two; g x: 11, 3
  std::vector<float> scores(2);
  HeadScores({AttributionMetric::kMagnitude}, 2, x, g, scores);
  EXPECT_THAT(scores, ElementsAre(5, 1));
  HeadScores({AttributionMetric::kCorrected}, 2, x, g, scores);
  EXPECT_THAT(scores, ElementsAre(FloatEq(-11 + 2.5F * std::sqrt(15.0F)), FloatEq(-3 + 0.5F * std::sqrt(15.0F))));
  HeadScores({AttributionMetric::kCorrected, 0.5, HeadReduce::kMean}, 2, x, g, scores);
  const float norm = std::sqrt(1.5F * 1.5F + 1.0F);
  EXPECT_THAT(scores, ElementsAre(FloatEq(-5.5F + 2.5F * norm), FloatEq(-1.5F + 0.5F * norm)));
  HeadScores({AttributionMetric::kGradient, 0.5, HeadReduce::kMean}, 2, x, g, scores);
  EXPECT_THAT(scores, ElementsAre(-1.5F, -1));
}

TEST(AttributionScoresTest, FisherOrdersAsSnipDoes) {
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    const std::vector<float> x = Random(seed, 2), g = Random(seed + 100, 0.1F);
    EXPECT_EQ(Order(Scores({AttributionMetric::kFisher}, x, g)), Order(Scores({AttributionMetric::kSnip}, x, g)));
    EXPECT_EQ(Order(OfHeads({AttributionMetric::kFisher}, x, g)), Order(OfHeads({AttributionMetric::kSnip}, x, g)));
  }
}

// -g x + |x||g|/2 < 0 needs a unit with more than a quarter of |g|^2.
TEST(AttributionScoresTest, AtMostThreeCorrectedScoresAreNegative) {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    const std::vector<float> x = Random(seed, 2);
    std::vector<float> g = Random(seed + 1000, 0.001F);
    for (uint64_t i = 0; i < seed % 6; ++i) g[i * 9] = std::copysign(1.0F, x[i * 9]);  // a few that dominate
    const std::vector<float> units = Scores({}, x, g), heads = OfHeads({}, x, g);
    EXPECT_LE(std::count_if(units.begin(), units.end(), [](float s) { return s < 0; }), 3) << seed;
    EXPECT_LE(std::count_if(heads.begin(), heads.end(), [](float s) { return s < 0; }), 3) << seed;
  }
}

TEST(AttributionScoresTest, ALossTimesKGivesTheSameOrder) {
  const std::vector<float> x = Random(5, 2), g = Random(6, 0.1F);
  std::vector<float> scaled = g;
  for (float& value : scaled) value *= 1024;  // a power of two: no rounding
  for (const AttributionMetric metric : {AttributionMetric::kGradient, AttributionMetric::kGxo,
                                         AttributionMetric::kSnip, AttributionMetric::kCorrected}) {
    EXPECT_EQ(Order(Scores({metric}, x, scaled)), Order(Scores({metric}, x, g)));
    EXPECT_EQ(Order(OfHeads({metric}, x, scaled)), Order(OfHeads({metric}, x, g)));
  }
  std::vector<float> expected = Scores({}, x, g);
  for (float& value : expected) value *= 1024;
  EXPECT_THAT(Scores({}, x, scaled), Pointwise(FloatEq(), expected));
}

TEST(AttributionScoresTest, LambdaLeadsFromGxoToMagnitude) {
  const std::vector<float> x = Random(7, 2), g = Random(8, 0.1F);
  EXPECT_EQ(Scores({AttributionMetric::kCorrected, 0}, x, g), Scores({AttributionMetric::kGxo}, x, g));
  EXPECT_EQ(Order(Scores({AttributionMetric::kCorrected, 1e6}, x, g)),
            Order(Scores({AttributionMetric::kMagnitude}, x, g)));
  EXPECT_EQ(Order(OfHeads({AttributionMetric::kCorrected, 1e6}, x, g)),
            Order(OfHeads({AttributionMetric::kMagnitude}, x, g)));
}

TEST(AttributionScoresTest, TopUnitsBreaksTiesByUnit) {
  const std::vector<float> scores = {1, -3, 2, 1, 3};
  EXPECT_THAT(TopUnits(scores, 3, false), ElementsAre(4, 2, 0));
  EXPECT_THAT(TopUnits(scores, 3, true), ElementsAre(1, 4, 2));
  EXPECT_EQ(TopUnits(scores, 99, true).size(), 5U);
}

TEST(AttributionScoresTest, NamesAreReadBack) {
  for (size_t i = 0; i < AttributionMetricNames().size(); ++i) {
    EXPECT_EQ(static_cast<size_t>(ParseAttributionMetric(AttributionMetricNames()[i]).value()), i);
  }
  EXPECT_THAT(std::string(ParseAttributionMetric("shap").status().message()), testing::HasSubstr("corrected"));
}

}  // namespace
}  // namespace dogstar
