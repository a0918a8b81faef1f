#include "predictors/low_rank.h"

#include <algorithm>
#include <cmath>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr int32_t kDim = 32, kRows = 96, kHidden = 3;

// Rows whose scores follow a few directions of the input, beside rows that always matter or never do.
struct Sample {
  std::vector<float> inputs, scores;
  RankedTokens tokens;
};

Sample MakeSample(int32_t tokens, uint64_t seed) {
  SplitMix64 weights(7), random(seed);
  const auto noise = [](SplitMix64* from) { return static_cast<float>(2 * from->Uniform() - 1); };
  std::vector<float> a(kHidden * kDim), b(kRows * kHidden);
  for (float& value : a) value = noise(&weights);
  for (float& value : b) value = noise(&weights);
  Sample sample;
  for (int32_t t = 0; t < tokens; ++t) {
    const size_t at = sample.inputs.size();
    for (int32_t i = 0; i < kDim; ++i) sample.inputs.push_back((i == 0 ? 100.0F : 1.0F) * noise(&random));
    for (int32_t j = 0; j < kRows; ++j) {
      double score = j % 8 == 0 ? 9 : 0;
      for (int32_t k = 0; k < kHidden; ++k) {
        double value = 0;
        for (int32_t i = 0; i < kDim; ++i) {
          value +=
              a[static_cast<size_t>(k * kDim + i)] * sample.inputs[at + static_cast<size_t>(i)] / (i == 0 ? 100 : 1);
        }
        score += b[static_cast<size_t>(j * kHidden + k)] * value;
      }
      sample.scores.push_back(static_cast<float>(std::exp(score / 2)));
    }
  }
  sample.tokens = {tokens, kDim, kRows, sample.inputs, sample.scores};
  return sample;
}

TEST(LowRankTest, FindsRowsThatFollowTheInput) {
  const Sample train = MakeSample(1500, 1), held_out = MakeSample(200, 2);
  ThreadPool pool(2);
  const LowRankMap map = TrainLowRank(train.tokens, {.rank = 4, .density = 0.5, .epochs = 20}, &pool);
  const RowRecall recall = MeasureRecall(map, TopFrequencies(train.tokens, 0.5), held_out.tokens, 0.5);
  EXPECT_GT(recall.recall, 0.9);
  EXPECT_GT(recall.likely_recall, 0.85);
  EXPECT_GT(recall.likely_precision, 0.85);
  EXPECT_LT(recall.static_recall, 0.75);  // the input decides
}

// A column that is always zero gets no weight that the stored form could not hold.
TEST(LowRankTest, IdleColumnsGiveFiniteMaps) {
  Sample train = MakeSample(200, 4);
  for (size_t at = 1; at < train.inputs.size(); at += kDim) train.inputs[at] = 0;
  train.tokens.inputs = train.inputs;
  ThreadPool pool(1);
  const LowRankMap map = TrainLowRank(train.tokens, {.rank = 4, .epochs = 2}, &pool);
  for (const float weight : map.hidden) EXPECT_LT(std::fabs(weight), 6e4F);
}

TEST(LowRankTest, ThreadsChangeNothing) {
  const Sample train = MakeSample(130, 3);
  const LowRankTraining training{.rank = 4, .epochs = 2, .batch = 48};
  ThreadPool one(1), three(3);
  const LowRankMap a = TrainLowRank(train.tokens, training, &one), b = TrainLowRank(train.tokens, training, &three);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.output, b.output);
  EXPECT_EQ(a.bias, b.bias);
}

TEST(LowRankTest, FrequenciesCountImportantRows) {
  const std::vector<float> scores = {1, 4, 3, 2, /* */ 9, 1, 8, 0}, inputs(2 * 1);
  const RankedTokens tokens{2, 1, 4, inputs, scores};
  EXPECT_EQ(TopFrequencies(tokens, 0.5), (std::vector<float>{0.5F, 0.5F, 1, 0}));
}

// Of equal scores the lower rows count, so that labels do not depend on a sort.
TEST(LowRankTest, EqualScoresGoToLowerRows) {
  const std::vector<float> scores(6, 1.0F), inputs(1);
  EXPECT_EQ(TopFrequencies({1, 1, 6, inputs, scores}, 0.5), (std::vector<float>{1, 1, 1, 0, 0, 0}));
}

TEST(LowRankTest, ScoresAreTheMapsProduct) {
  const LowRankMap map{1, 2, 2, {1, 2}, {3, -1}, {0.5F, 0}};
  std::vector<float> scores(2);
  ScoreRows(map, std::vector<float>{1, 1}, scores);
  EXPECT_EQ(scores, (std::vector<float>{9.5F, -3}));
}

}  // namespace
}  // namespace dogstar
