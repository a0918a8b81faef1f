#include "runtime/top_rows.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/random.h"
#include "gtest/gtest.h"
#include "runtime/row_scores.h"

namespace dogstar {
namespace {

std::vector<uint64_t> Sorted(const std::vector<float>& values, int32_t k) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return std::abs(values[a]) > std::abs(values[b]); });
  std::vector<uint64_t> mask((values.size() + 63) / 64);
  for (size_t i = 0; i < std::min(static_cast<size_t>(k), order.size()); ++i) {
    mask[order[i] / 64] |= uint64_t{1} << (order[i] % 64);
  }
  return mask;
}

TEST(TopRowsTest, FindsWhatSortingFinds) {
  SplitMix64 random(5);
  TopRowsFinder finder(200);
  for (int round = 0; round < 200; ++round) {
    std::vector<float> values(1 + random.Next() % 200);
    for (float& value : values) {
      // Many equal values, zeros, and magnitudes from denormal to infinity.
      const double kind = random.Uniform();
      value = kind < 0.3 ? 0.5F : kind < 0.4 ? 0.0F : static_cast<float>(std::exp2(300 * random.Uniform() - 150));
      if (random.Next() % 2 == 0) value = -value;
    }
    const int32_t k = static_cast<int32_t>(random.Next() % 210);
    std::vector<uint64_t> mask((values.size() + 63) / 64, ~uint64_t{0});
    finder.Find(values, k, mask);
    EXPECT_EQ(mask, Sorted(values, k)) << values.size() << " values, k = " << k;
  }
}

TEST(TopRowsTest, SharesKeepTheirOrderWithinFivePercent) {
  uint8_t last = 0;
  for (float share = 0x1p-20F; share <= 1; share *= 1.01F) {
    const uint8_t code = EncodeShare(share);
    EXPECT_NEAR(DecodeShare(code) / share, 1, 0.05);
    EXPECT_GE(code, last);
    last = code;
  }
  EXPECT_EQ(DecodeShare(EncodeShare(1)), 1);
  EXPECT_LT(DecodeShare(EncodeShare(0)), 1e-6F);
}

TEST(RowScoresTest, ATokensUsesAddUpToItsRows) {
  RowScores scores(1, 4, {.half_life = 1, .prior = 0});
  scores.BeginPrompt();
  scores.AddPrompt(LayerIndex{0}, std::vector<float>{3, 4, 0, 0}, 1, 4);
  scores.BeginText(LayerIndex{0}, 1, 2);
  EXPECT_NEAR(scores.Of(LayerIndex{0})[0], 2 * 0.36, 1e-5);
  EXPECT_NEAR(scores.Of(LayerIndex{0})[1], 2 * 0.64, 1e-5);
  scores.Decay(LayerIndex{0});
  scores.Add(LayerIndex{0}, RowIndex{2}, 2);
  EXPECT_NEAR(scores.Of(LayerIndex{0})[1], 0.64, 1e-5);
  EXPECT_EQ(scores.Of(LayerIndex{0})[2], 2);
}

TEST(RowScoresTest, ALongPromptCountsNoMoreThanALongText) {
  RowScores scores(1, 2, {.half_life = 4, .prior = 0});
  scores.BeginPrompt();
  for (int i = 0; i < 1000; ++i) scores.AddPrompt(LayerIndex{0}, std::vector<float>{1, 0}, 1, 2);
  scores.BeginText(LayerIndex{0}, 1000, 1);
  const float after_prompt = scores.Of(LayerIndex{0})[0];
  for (int i = 0; i < 100; ++i) {
    scores.Decay(LayerIndex{0});
    scores.Add(LayerIndex{0}, RowIndex{0}, 1);
  }
  EXPECT_NEAR(scores.Of(LayerIndex{0})[0], after_prompt, 1e-3);
}

TEST(RowScoresTest, ThePriorIsTheFilesOrder) {
  RowScores scores(1, 100, {.half_life = 32, .prior = 10});
  scores.BeginPrompt();
  const std::span<const float> of = scores.Of(LayerIndex{0});
  EXPECT_TRUE(std::is_sorted(of.rbegin(), of.rend()));
  EXPECT_NEAR(std::accumulate(of.begin(), of.end(), 0.0), 10, 0.1);
}

}  // namespace
}  // namespace dogstar
