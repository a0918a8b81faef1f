#include "runtime/evaluation.h"

#include <cmath>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(NllStatsTest, PerplexityAndItsError) {
  NllStats stats;
  for (const double nll : {1.0, 2.0, 3.0}) stats.Add(nll);
  EXPECT_DOUBLE_EQ(stats.perplexity(), std::exp(2.0));
  EXPECT_NEAR(stats.perplexity_error(), std::sqrt((14.0 / 3 - 4) / 2) * std::exp(2.0), 1e-12);
  EXPECT_EQ(NllStats().perplexity_error(), 0);
}

TEST(KlDivergenceTest, IsZeroForEqualAndKnownForTwoTokens) {
  const std::vector<float> p = {0.0F, 0.0F}, q = {std::log(3.0F), 0.0F};  // 1/2, 1/2 and 3/4, 1/4
  EXPECT_EQ(KlDivergence(p, p), 0);
  EXPECT_NEAR(KlDivergence(p, q), 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25), 1e-7);
  EXPECT_NEAR(KlDivergence(p, std::vector<float>{5.0F, 5.0F}), 0, 1e-12);  // a constant changes nothing
}

}  // namespace
}  // namespace dogstar
