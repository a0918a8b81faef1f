#include "memory/hybrid_split.h"

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(HybridSplitTest, BothEndAtOnce) {
  const HybridRates rates{.link_seconds = 1 / 25e9, .one_row_seconds = 1 / 50e9, .rows_seconds = 1 / 10e9, .rows = 9};
  const HybridSplit split(rates);
  for (const int32_t rows : {1, 5, 9, 16}) {
    const double processor =
        rates.one_row_seconds + (rates.rows_seconds - rates.one_row_seconds) * (rows - 1) / (rates.rows - 1);
    const double share = split.ShareOf(rows);
    EXPECT_NEAR(share * processor, (1 - share) * rates.link_seconds, 1e-18) << rows;
  }
  EXPECT_NEAR(split.ShareOf(1), 2.0 / 3, 1e-12);
  EXPECT_NEAR(split.ShareOf(9), 10.0 / 35, 1e-12);
}

TEST(HybridSplitTest, NoiseAndNothingMeasured) {
  // More rows that seem cheaper count as one row does.
  EXPECT_NEAR(HybridSplit({.link_seconds = 1, .one_row_seconds = 1, .rows_seconds = 0.5, .rows = 4}).ShareOf(9), 0.5,
              1e-12);
  EXPECT_EQ(HybridSplit(HybridRates{}).ShareOf(1), 0);
  EXPECT_EQ(HybridSplit(0.25).ShareOf(16), 0.25);
}

}  // namespace
}  // namespace dogstar
