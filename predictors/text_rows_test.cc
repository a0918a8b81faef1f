#include "predictors/text_rows.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

RowSet Rows(int32_t rows, const std::vector<int32_t>& members) {
  RowSet set(rows);
  for (int32_t row : members) set.Insert(RowIndex{row});
  return set;
}

std::vector<int32_t> Members(const RowSet& set) {
  std::vector<int32_t> rows;
  for (int32_t i = 0; i < set.rows(); ++i) {
    if (set.Contains(RowIndex{i})) rows.push_back(i);
  }
  return rows;
}

class LagTest : public testing::Test {
 protected:
  static constexpr LayerIndex kLayer{0};
  std::vector<int32_t> Chosen(LagPredictor* lag) { return Members(*lag->Choose(kLayer, all_)); }
  void Token(LagPredictor* lag, uint64_t mask) { lag->ObserveToken(kLayer, std::vector<uint64_t>{mask}, 2); }
  const RowSet all_ = Rows(6, {0, 1, 2, 3, 4, 5});
};

TEST_F(LagTest, TheLastTokenOfThePromptThenThoseOfTheText) {
  LagPredictor lag({2}, 6, 1);
  lag.BeginPrompt();
  lag.ObservePrompt(kLayer, std::vector<float>{9, 9, 0, 0, 0, 0, 0, 0, 0, -5, 4, 0}, 2, 6);
  EXPECT_EQ(Chosen(&lag), (std::vector<int32_t>{3, 4}));
  Token(&lag, 0b000011);
  EXPECT_EQ(Chosen(&lag), (std::vector<int32_t>{0, 1}));
  lag.BeginPrompt();
  EXPECT_TRUE(Chosen(&lag).empty());
}

TEST_F(LagTest, RowsAreTakenAnewEveryRefresh) {
  LagPredictor lag({2}, 6, 3);
  lag.BeginPrompt();
  lag.ObservePrompt(kLayer, std::vector<float>{1, 1, 0, 0, 0, 0}, 1, 6);
  Token(&lag, 0b001100);
  Token(&lag, 0b110000);
  EXPECT_EQ(Chosen(&lag), (std::vector<int32_t>{0, 1}));
  Token(&lag, 0b011000);
  EXPECT_EQ(Chosen(&lag), (std::vector<int32_t>{3, 4}));
}

TEST_F(LagTest, OnlyAvailableRows) {
  LagPredictor lag({3}, 6, 1);
  lag.ObservePrompt(kLayer, std::vector<float>{3, 2, 1, 0, 0, 0}, 1, 6);
  EXPECT_EQ(Members(*lag.Choose(kLayer, Rows(6, {1, 2, 5}))), (std::vector<int32_t>{1, 2}));
}

TEST(OracleTest, RowsOfLargestContribution) {
  OraclePredictor oracle({1}, 3);
  const LayerIndex layer{0};
  oracle.SetRowNorms(layer, {}, std::vector<float>{1, 10, 1});
  oracle.ShowFullValues(layer, std::vector<float>{3, -0.5, 4});
  EXPECT_EQ(Members(*oracle.Choose(layer, Rows(3, {0, 1, 2}))), (std::vector<int32_t>{1}));
  EXPECT_TRUE(oracle.evaluation_only());
}

}  // namespace
}  // namespace dogstar
