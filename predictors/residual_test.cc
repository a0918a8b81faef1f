#include "predictors/residual.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr int32_t kDim = 32, kRank = 3;

struct Sample {
  std::vector<float> inputs, targets;
  ResidualTokens tokens() const { return {static_cast<int32_t>(inputs.size()) / kDim, kDim, inputs, targets}; }
};

// Targets of rank kRank with an offset and noise; the first input column is a hundred times as large as the others.
Sample MakeSample(int32_t tokens, float noise, uint64_t seed) {
  SplitMix64 weights(7), random(seed);
  const auto draw = [](SplitMix64* from) { return static_cast<float>(2 * from->Uniform() - 1); };
  std::vector<float> a(kRank * kDim), b(kDim * kRank);
  for (float& value : a) value = draw(&weights);
  for (float& value : b) value = draw(&weights);
  Sample sample;
  for (int32_t t = 0; t < tokens; ++t) {
    std::vector<float> hidden(kRank);
    for (int32_t i = 0; i < kDim; ++i) {
      const float x = draw(&random) + 0.5F;
      sample.inputs.push_back(i == 0 ? 100 * x : x);
      for (int32_t k = 0; k < kRank; ++k) hidden[static_cast<size_t>(k)] += a[static_cast<size_t>(k * kDim + i)] * x;
    }
    for (int32_t i = 0; i < kDim; ++i) {
      float y = 2.0F + noise * draw(&random);
      for (int32_t k = 0; k < kRank; ++k) y += b[static_cast<size_t>(i * kRank + k)] * hidden[static_cast<size_t>(k)];
      sample.targets.push_back(y);
    }
  }
  return sample;
}

TEST(ResidualTest, FindsTargetsOfItsRank) {
  const Sample train = MakeSample(600, 0, 1), held_out = MakeSample(100, 0, 2);
  ThreadPool pool(2);
  const LowRankMap map = FitResidual(train.tokens(), kRank, 1, &pool);
  EXPECT_EQ(map.rows, kDim);
  EXPECT_GT(ExplainedShare(map, held_out.tokens()), 0.99);
}

// The best rank 1 explains less than rank 3, and more than the offset alone; what cannot be guessed is not.
TEST(ResidualTest, ExplainsWhatItsRankAllows) {
  const Sample train = MakeSample(600, 1, 1), held_out = MakeSample(200, 1, 2);
  ThreadPool pool(2);
  const double one = ExplainedShare(FitResidual(train.tokens(), 1, 1, &pool), held_out.tokens());
  const double three = ExplainedShare(FitResidual(train.tokens(), kRank, 1, &pool), held_out.tokens());
  LowRankMap offset = FitResidual(train.tokens(), 1, 1, &pool);
  std::fill(offset.output.begin(), offset.output.end(), 0.0F);
  EXPECT_GT(one, ExplainedShare(offset, held_out.tokens()) + 0.05);
  EXPECT_GT(three, one + 0.05);
  EXPECT_LT(three, 0.999);
}

// Forty tokens of noise in 32 dimensions are learned by heart, and that is worth nothing elsewhere; what is worth it
// stays.
TEST(ResidualTest, ShrinkingTakesBackWhatDoesNotHelp) {
  const Sample few = MakeSample(40, 40, 1), others = MakeSample(200, 40, 2);
  ThreadPool pool(2);
  LowRankMap map = FitResidual(few.tokens(), 16, 1, &pool);
  EXPECT_LT(ExplainedShare(map, others.tokens()), -0.05);
  ShrinkResidual(others.tokens(), &map);
  EXPECT_GE(ExplainedShare(map, others.tokens()), 0);

  const Sample train = MakeSample(600, 0, 1), held_out = MakeSample(100, 0, 2);
  LowRankMap good = FitResidual(train.tokens(), kRank, 1, &pool);
  ShrinkResidual(held_out.tokens(), &good);
  EXPECT_GT(ExplainedShare(good, held_out.tokens()), 0.99);
}

TEST(ResidualTest, ThreadsDoNotChangeIt) {
  const Sample train = MakeSample(100, 1, 3);
  ThreadPool one(1), three(3);
  const LowRankMap a = FitResidual(train.tokens(), 4, 5, &one), b = FitResidual(train.tokens(), 4, 5, &three);
  EXPECT_EQ(a.hidden, b.hidden);
  EXPECT_EQ(a.output, b.output);
  EXPECT_EQ(a.bias, b.bias);
}

TEST(ResidualTest, IdleColumnsAndTargetsGiveFiniteMaps) {
  Sample train = MakeSample(50, 0, 4);
  for (size_t at = 5; at < train.inputs.size(); at += kDim) train.inputs[at] = 3;
  for (float& target : train.targets) target = 0;
  ThreadPool pool(1);
  const LowRankMap map = FitResidual(train.tokens(), 4, 1, &pool);
  for (const std::vector<float>* values : {&map.hidden, &map.output, &map.bias}) {
    for (const float value : *values) EXPECT_TRUE(std::isfinite(value));
  }
}

}  // namespace
}  // namespace dogstar
