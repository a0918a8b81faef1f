#include "model/row_order.h"

#include <algorithm>
#include <numeric>

#include "base/random.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::vector<int32_t> Ints(const RowOrder& order) {
  std::vector<int32_t> values;
  for (NeuronIndex neuron : order.row_order) values.push_back(ToInt(neuron));
  return values;
}

std::vector<NeuronIndex> Identity(int32_t rows) { return MakeRowOrder({}, rows, 8, 0).row_order; }

TEST(RowOrderTest, NoImportanceKeepsTheSourceOrder) {
  const RowOrder order = MakeRowOrder({}, 64, 8, 32);
  std::vector<int32_t> expected(64);
  std::iota(expected.begin(), expected.end(), 0);
  EXPECT_EQ(Ints(order), expected);
  EXPECT_THAT(order.run_groups, ElementsAre(0, 0, 0, 0, 1, 1, 1, 1));
}

TEST(RowOrderTest, RunsAreSortedByMeanImportanceAndStayInTheirGroup) {
  std::vector<float> importance(64, 0);
  importance[40] = 10;                                 // group 1 has the first run
  for (int i = 0; i < 16; ++i) importance[i * 2] = 1;  // group 0: 16 equal ones, then zeros
  const RowOrder order = MakeRowOrder(importance, 64, 8, 32);
  EXPECT_THAT(order.run_groups, ElementsAre(1, 0, 0, 0, 0, 1, 1, 1));
  const std::vector<int32_t> neurons = Ints(order);
  EXPECT_THAT(std::vector<int32_t>(neurons.begin(), neurons.begin() + 8), ElementsAre(40, 32, 33, 34, 35, 36, 37, 38));
  EXPECT_THAT(std::vector<int32_t>(neurons.begin() + 8, neurons.begin() + 16), ElementsAre(0, 2, 4, 6, 8, 10, 12, 14));
}

TEST(RowOrderTest, EveryRunLengthGivesAPermutationInNonIncreasingOrderOfRuns) {
  SplitMix64 random(5);
  std::vector<float> importance(32 * 21);
  for (float& value : importance) value = static_cast<float>(random.Uniform());
  for (int32_t run_rows : {8, 16, 32}) {
    const RowOrder order = MakeRowOrder(importance, 32 * 21, run_rows, 32);
    const auto groups = RunGroupsOf(order.row_order, run_rows, 32);
    ASSERT_TRUE(groups.ok()) << groups.status();
    EXPECT_EQ(*groups, order.run_groups);
    double previous = 1e9;
    for (size_t run = 0; run < order.row_order.size(); run += static_cast<size_t>(run_rows)) {
      double sum = 0;
      for (size_t i = 0; i < static_cast<size_t>(run_rows); ++i) {
        sum += importance[static_cast<size_t>(order.row_order[run + i])];
      }
      EXPECT_LE(sum, previous);
      previous = sum;
    }
  }
}

TEST(RowOrderTest, WithoutScaleGroupsRowsAreSortedOneByOne) {
  const std::vector<float> importance = {1, 5, 3, 5, 0};
  const RowOrder order = MakeRowOrder(importance, 5, 4, 0);
  EXPECT_THAT(Ints(order), ElementsAre(1, 3, 2, 0, 4));
  EXPECT_THAT(order.run_groups, ElementsAre(0, 0));
}

TEST(RowOrderTest, ARunOfTwoGroupsIsRefused) {
  std::vector<NeuronIndex> order = Identity(64);
  std::swap(order[3], order[40]);
  EXPECT_THAT(std::string(RunGroupsOf(order, 8, 32).status().message()), HasSubstr("mixes scale groups"));
  EXPECT_TRUE(RunGroupsOf(order, 8, 0).ok());
}

TEST(RowOrderTest, OrdersThatAreNoPermutationAreRefused) {
  std::vector<NeuronIndex> order = Identity(32);
  order[7] = NeuronIndex{8};
  EXPECT_THAT(std::string(RunGroupsOf(order, 8, 32).status().message()), HasSubstr("twice"));
  order[7] = NeuronIndex{32};
  EXPECT_THAT(std::string(RunGroupsOf(order, 8, 32).status().message()), HasSubstr("neuron 32 of 32"));
  order[7] = NeuronIndex{-1};
  EXPECT_FALSE(RunGroupsOf(order, 8, 32).ok());
}

}  // namespace
}  // namespace dogstar
