#include "predictors/static_choice.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

RowSet All(int32_t rows) {
  RowSet set(rows);
  for (int32_t row = 0; row < rows; ++row) set.Insert(RowIndex{row});
  return set;
}

std::vector<int32_t> RowsOf(const RowSet& set) {
  std::vector<int32_t> rows;
  for (int32_t row = 0; row < set.rows(); ++row) {
    if (set.Contains(RowIndex{row})) rows.push_back(row);
  }
  return rows;
}

TEST(RandomPredictorTest, TheSameSeedGivesTheSameRowsAndLayersDiffer) {
  RandomPredictor a({100, 100}, 7), b({100, 100}, 7), c({100, 100}, 8);
  const RowSet all = All(400);
  const std::vector<int32_t> first = RowsOf(*a.Choose(LayerIndex{0}, all));
  EXPECT_EQ(first.size(), 100U);
  EXPECT_EQ(RowsOf(*b.Choose(LayerIndex{0}, all)), first);
  EXPECT_NE(RowsOf(*b.Choose(LayerIndex{1}, all)), first);
  EXPECT_NE(RowsOf(*c.Choose(LayerIndex{0}, all)), first);
  EXPECT_EQ(RowsOf(*a.Choose(LayerIndex{0}, all)), first);
}

TEST(RandomPredictorTest, TakesOnlyWhatIsAvailable) {
  RandomPredictor random({50}, 1);
  RowSet few(100);
  for (const int32_t row : {3, 50, 99}) few.Insert(RowIndex{row});
  EXPECT_THAT(RowsOf(*random.Choose(LayerIndex{0}, few)), testing::ElementsAre(3, 50, 99));
}

TEST(WeightNormPredictorTest, RanksByTheProductOfGateAndUpNorm) {
  WeightNormPredictor predictor({2});
  predictor.SetGateNorms(LayerIndex{0}, std::vector<float>{1, 2, 3, 4});
  predictor.SetRowNorms(LayerIndex{0}, std::vector<float>{9, 1, 4, 1}, std::vector<float>{0, 0, 0, 0});
  EXPECT_THAT(RowsOf(*predictor.Choose(LayerIndex{0}, All(4))), testing::ElementsAre(0, 2));
}

}  // namespace
}  // namespace dogstar
