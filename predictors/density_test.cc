#include "predictors/density.h"

#include <numeric>

#include "gtest/gtest.h"

namespace dogstar {
namespace {

TEST(DensityTest, CountsAreExactWhereProductsAreNot) {
  EXPECT_EQ(RowsOf(0.3, 10), 3);
  EXPECT_EQ(RowsOf(0.7, 10), 7);
  EXPECT_EQ(RowsOf(0.5, 1537), 768);
  EXPECT_EQ(RowsLeft(0.5, 1537), 769);  // FSparse drops floor(768.5)
  EXPECT_EQ(RowsLeft(0.9, 10), 9);
  EXPECT_EQ(RowsLeft(0.3, 10), 3);
  for (const int32_t rows : {1, 1536, 14336}) {
    EXPECT_EQ(RowsOf(1, rows), rows);
    EXPECT_EQ(RowsLeft(1, rows), rows);
    EXPECT_EQ(RowsOf(0, rows), 0);
    EXPECT_EQ(RowsOf(-1, rows), rows);
  }
}

double Mean(const std::vector<double>& values) {
  return std::accumulate(values.begin(), values.end(), 0.0) / static_cast<double>(values.size());
}

TEST(DensityTest, RowsGoWhereTheyAvoidMostLoss) {
  const std::vector<double> grid = {0.2, 0.4, 0.6, 0.8};
  const std::vector<double> densities = AllocateDensities({{8, 4, 2, 1}, {1, 0.5, 0.2, 0.1}}, grid, 0.5);
  EXPECT_NEAR(Mean(densities), 0.5, 1e-9);
  EXPECT_NEAR(densities[0], 0.8, 1e-9);  // 8 to 4, 4 to 2, then 2 to 1 against 1 to 0.5
  EXPECT_NEAR(densities[1], 0.2, 1e-9);
}

TEST(DensityTest, AFlatPieceHidesNoSteepOne) {
  const std::vector<double> grid = {0.2, 0.4, 0.6, 0.8};
  // Layer 0 gains nothing until it has 0.6 of its rows, then all.
  const std::vector<double> densities = AllocateDensities({{8, 8, 0, 0}, {1, 0.8F, 0.6F, 0.4F}}, grid, 0.4);
  EXPECT_NEAR(densities[0], 0.6, 1e-9);
  EXPECT_NEAR(densities[1], 0.2, 1e-9);
}

TEST(DensityTest, TheMeanIsKeptWhateverItIs) {
  const std::vector<double> grid = {0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9};
  std::vector<std::vector<float>> sensitivity;
  for (int layer = 0; layer < 7; ++layer) {
    sensitivity.emplace_back();
    for (size_t i = 0; i < grid.size(); ++i) {
      sensitivity.back().push_back(static_cast<float>((1 - grid[i]) * (1 - grid[i]) * (1 + layer)));
    }
  }
  for (const double mean : {0.1, 0.2, 0.37, 0.5, 0.93, 1.0}) {
    const std::vector<double> densities = AllocateDensities(sensitivity, grid, mean);
    EXPECT_NEAR(Mean(densities), mean, 1e-9) << mean;
    for (size_t i = 1; i < densities.size(); ++i) EXPECT_GE(densities[i] + 1e-9, densities[i - 1]) << mean;
  }
}

// Losses that grow with the density (noise of a measurement) must not stop the allocation.
TEST(DensityTest, NoiseInTheMeasurementStopsNothing) {
  const std::vector<double> densities = AllocateDensities({{0, 0.1F}, {0, 0.1F}}, std::vector<double>{0.2, 0.5}, 0.6);
  EXPECT_NEAR(Mean(densities), 0.6, 1e-9);
}

}  // namespace
}  // namespace dogstar
