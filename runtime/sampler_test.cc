#include "runtime/sampler.h"

#include <cmath>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

const std::vector<float> kLogits = {1.0F, 3.0F, 3.0F, 0.0F, -2.0F};

std::vector<double> Frequencies(const SamplingOptions& options, int draws) {
  const Sampler sampler(options);
  std::vector<double> share(kLogits.size());
  for (int i = 0; i < draws; ++i) {
    share[static_cast<size_t>(ToInt(sampler.Choose(kLogits, SequenceId{0}, TokenPos{i})))] += 1.0 / draws;
  }
  return share;
}

TEST(SamplerTest, TemperatureZeroTakesTheLargestAndTheLowestOfEquals) {
  EXPECT_EQ(Sampler({}).Choose(kLogits, SequenceId{0}, TokenPos{0}), TokenId{1});
}

TEST(SamplerTest, DrawsFollowTheSoftmax) {
  const std::vector<double> share = Frequencies({1.0, 0, 1.0, 1}, 40000);
  double total = 0;
  for (float logit : kLogits) total += std::exp(logit);
  for (size_t i = 0; i < kLogits.size(); ++i) EXPECT_NEAR(share[i], std::exp(kLogits[i]) / total, 0.01);
}

TEST(SamplerTest, TopKAndTopPLeaveTheRestOut) {
  EXPECT_EQ(Frequencies({1.0, 2, 1.0, 1}, 2000)[0], 0);
  EXPECT_NEAR(Frequencies({1.0, 2, 1.0, 1}, 20000)[1], 0.5, 0.02);
  const std::vector<double> nucleus = Frequencies({1.0, 0, 0.5, 1}, 2000);
  EXPECT_EQ(nucleus[0] + nucleus[3] + nucleus[4], 0);
}

TEST(SamplerTest, TheDrawDependsOnSeedSequenceAndPositionOnly) {
  const Sampler a({1.0, 0, 1.0, 1}), b({1.0, 0, 1.0, 2});
  int differ_by_seed = 0, differ_by_sequence = 0;
  for (int i = 0; i < 200; ++i) {
    const TokenPos position{i};
    EXPECT_EQ(a.Choose(kLogits, SequenceId{0}, position), a.Choose(kLogits, SequenceId{0}, position));
    differ_by_seed += a.Choose(kLogits, SequenceId{0}, position) != b.Choose(kLogits, SequenceId{0}, position);
    differ_by_sequence += a.Choose(kLogits, SequenceId{0}, position) != a.Choose(kLogits, SequenceId{1}, position);
  }
  EXPECT_GT(differ_by_seed, 20);
  EXPECT_GT(differ_by_sequence, 20);
}

TEST(SamplerTest, LogprobsAreSortedAndSumToOne) {
  const std::vector<TokenLogprob> top = TopLogprobs(kLogits, 5);
  EXPECT_EQ(top[0].token, TokenId{1});
  EXPECT_EQ(top[1].token, TokenId{2});
  double sum = 0;
  for (const TokenLogprob& entry : top) sum += std::exp(entry.logprob);
  EXPECT_NEAR(sum, 1, 1e-5);
  EXPECT_NEAR(NegativeLogLikelihood(kLogits, TokenId{0}), -top[2].logprob, 1e-6);
}

}  // namespace
}  // namespace dogstar
