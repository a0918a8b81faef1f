#include "runtime/sampler.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

const std::vector<float> kLogits = {1.0F, 3.0F, 3.0F, 0.0F, -2.0F};

std::vector<double> Frequencies(const SamplingOptions& options, int draws) {
  Sampler sampler(options);
  std::vector<double> share(kLogits.size());
  for (int i = 0; i < draws; ++i) {
    share[static_cast<size_t>(ToInt(sampler.Choose(kLogits, {}, SequenceId{0}, TokenPos{i})))] += 1.0 / draws;
  }
  return share;
}

TEST(SamplerTest, TemperatureZeroTakesTheLargestAndTheLowestOfEquals) {
  EXPECT_EQ(Sampler({}).Choose(kLogits, {}, SequenceId{0}, TokenPos{0}), TokenId{1});
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

// The largest logits give the same tokens as all of them do.
TEST(SamplerTest, AFewLogitsGiveTheTokensOfAll) {
  std::vector<float> logits;
  SplitMix64 random(5);
  for (int i = 0; i < 300; ++i) logits.push_back(static_cast<float>(random.Next() % 64) / 8);  // many are equal
  std::vector<TokenLogit> largest;
  for (int32_t i = 0; i < 300; ++i) largest.push_back({TokenId{i}, logits[static_cast<size_t>(i)]});
  std::ranges::stable_sort(largest, std::greater<>(), &TokenLogit::logit);
  for (const int32_t top_k : {1, 7, 40, 299}) {
    for (const double top_p : {1.0, 0.6}) {
      for (const double min_p : {0.0, 0.3}) {
        Sampler sampler({.temperature = 0.8, .top_k = top_k, .top_p = top_p, .min_p = min_p});
        ASSERT_EQ(sampler.options().few(), top_k);
        const std::span<const TokenLogit> few = std::span(largest).first(static_cast<size_t>(top_k));
        for (int position = 0; position < 50; ++position) {
          EXPECT_EQ(sampler.ChooseAmong(few, SequenceId{0}, TokenPos{position}),
                    sampler.Choose(logits, {}, SequenceId{0}, TokenPos{position}))
              << top_k << ", " << top_p << ", " << min_p;
        }
      }
    }
  }
}

TEST(SamplerTest, TheDrawDependsOnSeedSequenceAndPositionOnly) {
  Sampler a({1.0, 0, 1.0, 1}), b({1.0, 0, 1.0, 2});
  int differ_by_seed = 0, differ_by_sequence = 0;
  for (int i = 0; i < 200; ++i) {
    const TokenPos position{i};
    EXPECT_EQ(a.Choose(kLogits, {}, SequenceId{0}, position), a.Choose(kLogits, {}, SequenceId{0}, position));
    differ_by_seed += a.Choose(kLogits, {}, SequenceId{0}, position) != b.Choose(kLogits, {}, SequenceId{0}, position);
    differ_by_sequence +=
        a.Choose(kLogits, {}, SequenceId{0}, position) != a.Choose(kLogits, {}, SequenceId{1}, position);
  }
  EXPECT_GT(differ_by_seed, 20);
  EXPECT_GT(differ_by_sequence, 20);
}

// kLogits: probabilities .06, .46, .46, .02, .003.
TEST(SamplerTest, MinPIsRelativeToTheLikeliest) {
  SamplingOptions options{.temperature = 1.0, .min_p = 0.1};
  EXPECT_GT(Frequencies(options, 2000)[0], 0.02);
  EXPECT_EQ(Frequencies(options, 2000)[3], 0);
  options.min_p = 0.2;
  EXPECT_EQ(Frequencies(options, 2000)[0], 0);
}

TEST(SamplerTest, FiltersComeBeforeTheTemperature) {
  // At temperature 10 all five are about equally likely, but only two pass top_p at temperature 1.
  const std::vector<double> share = Frequencies({.temperature = 10, .top_p = 0.9}, 2000);
  EXPECT_EQ(share[0] + share[3] + share[4], 0);
}

TokenId Greedy(const SamplingOptions& options, const std::vector<TokenId>& settled,
               const std::vector<TokenId>& drafted = {}) {
  return Sampler(options).Choose(kLogits, {settled, drafted}, SequenceId{0}, TokenPos{0});
}

TEST(SamplerTest, PenaltiesCountTokensOfTheWindow) {
  const std::vector<TokenId> one = {TokenId{1}};
  EXPECT_EQ(Greedy({.repeat_penalty = 1.5}, one), TokenId{2});
  EXPECT_EQ(Greedy({.presence_penalty = 0.5}, one), TokenId{2});
  EXPECT_EQ(Greedy({.frequency_penalty = 0.5}, {TokenId{1}, TokenId{2}, TokenId{2}}), TokenId{1});
  EXPECT_EQ(Greedy({.presence_penalty = 0.5}, {TokenId{1}, TokenId{2}, TokenId{2}}), TokenId{1});
  EXPECT_EQ(Greedy({.penalty_window = 1, .repeat_penalty = 1.5}, {TokenId{1}, TokenId{0}}), TokenId{1});
  EXPECT_EQ(Greedy({.penalty_window = 0, .repeat_penalty = 1.5}, one), TokenId{1});
  EXPECT_EQ(Greedy({.penalty_window = -1, .repeat_penalty = 1.5}, std::vector<TokenId>(500, TokenId{1})), TokenId{2});
}

TEST(SamplerTest, DraftedTokensCountAsSettledOnes) {
  EXPECT_EQ(Greedy({.repeat_penalty = 1.5}, {}, {TokenId{1}}), TokenId{2});
  EXPECT_EQ(Greedy({.penalty_window = 1, .repeat_penalty = 1.5}, {TokenId{1}}, {TokenId{0}}), TokenId{1});
  EXPECT_EQ(Greedy({.penalty_window = 2, .repeat_penalty = 1.5}, {TokenId{1}}, {TokenId{0}}), TokenId{2});
}

TEST(SamplerTest, RepeatPenaltyMakesNegativeLogitsWorse) {
  const std::vector<float> logits = {-1.0F, -1.2F};
  const std::vector<TokenId> settled = {TokenId{0}};
  EXPECT_EQ(Sampler({.repeat_penalty = 1.5}).Choose(logits, {settled, {}}, SequenceId{0}, TokenPos{0}), TokenId{1});
}

TEST(SamplerTest, BiasMovesAndBans) {
  EXPECT_EQ(Greedy({.bias = {{TokenId{4}, 6}}}, {}), TokenId{4});
  const float never = -std::numeric_limits<float>::infinity();
  EXPECT_EQ(Greedy({.bias = {{TokenId{1}, never}, {TokenId{2}, never}}}, {}), TokenId{0});
  EXPECT_EQ(Frequencies({.temperature = 5, .bias = {{TokenId{1}, never}}}, 3000)[1], 0);
  EXPECT_EQ(Greedy({.bias = {{TokenId{77}, 6}}}, {}), TokenId{1});  // no such token
}

TEST(SamplerTest, LogitsThatAreNoNumbersAreNeverChosen) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> logits = {nan, 1.0F, nan, 2.0F};
  EXPECT_EQ(Sampler({}).Choose(logits, {}, SequenceId{0}, TokenPos{0}), TokenId{3});
  Sampler sampler({.temperature = 1, .top_k = 3});
  for (int i = 0; i < 200; ++i) {
    const int token = ToInt(sampler.Choose(logits, {}, SequenceId{0}, TokenPos{i}));
    EXPECT_TRUE(token == 1 || token == 3);
  }
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

TEST(SamplerTest, ProposalsAreTheChoiceAndTheLikeliestOthers) {
  const std::vector<float> logits = {1, 3, 2, -std::numeric_limits<float>::infinity(), 3};
  Sampler greedy({});
  const std::vector<TokenProbability> proposed = greedy.Propose(logits, {}, SequenceId{0}, TokenPos{1}, 9, 1);
  std::vector<int32_t> tokens;
  float sum = 0;
  for (const TokenProbability& entry : proposed) tokens.push_back(ToInt(entry.token)), sum += entry.probability;
  EXPECT_EQ(tokens, (std::vector<int32_t>{1, 4, 2, 0}));  // ties: the lowest id; impossible ones: none
  EXPECT_NEAR(sum, 1, 1e-3);
  EXPECT_NEAR(proposed[2].probability, Probability(logits, TokenId{2}, 1), 1e-3);
  EXPECT_NEAR(greedy.Propose(logits, {}, SequenceId{0}, TokenPos{1}, 1, 0.5F)[0].probability,
              Probability(logits, TokenId{1}, 0.5F), 1e-3);

  // A draw goes first wherever it ranks, and is not proposed twice.
  SamplingOptions hot;
  hot.temperature = 2;
  Sampler sampler(hot);
  for (int32_t position = 0; position < 50; ++position) {
    const auto drawn = sampler.Propose(logits, {}, SequenceId{0}, TokenPos{position}, 3, 1);
    ASSERT_EQ(drawn.size(), 3U);
    EXPECT_EQ(drawn[0].token, sampler.Choose(logits, {}, SequenceId{0}, TokenPos{position}));
    EXPECT_NE(drawn[1].token, drawn[0].token);
    EXPECT_NE(drawn[2].token, drawn[0].token);
    EXPECT_GE(drawn[1].probability, drawn[2].probability);
  }
}

}  // namespace
}  // namespace dogstar
