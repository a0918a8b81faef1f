#include "predictors/selection.h"

#include <algorithm>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

RowSet All(int32_t rows) {
  RowSet set(rows);
  for (int32_t i = 0; i < rows; ++i) set.Insert(RowIndex{i});
  return set;
}

std::vector<int32_t> Members(const RowSet& set) {
  std::vector<int32_t> rows;
  for (int32_t i = 0; i < set.rows(); ++i) {
    if (set.Contains(RowIndex{i})) rows.push_back(i);
  }
  return rows;
}

std::vector<int32_t> Select(Selection selection, std::span<const float> scores, const RowSet& available, int32_t k,
                            SelectionKey key) {
  SelectionScratch scratch;
  RowSet chosen;
  SelectRows(selection, scores, available, k, key, &scratch, &chosen);
  return Members(chosen);
}

TEST(SelectionTest, EverySelectionTakesSoManyOfWhatIsAvailable) {
  std::vector<float> scores(40);
  RowSet available(40);
  for (int32_t i = 0; i < 40; ++i) {
    scores[static_cast<size_t>(i)] = static_cast<float>(i % 7);
    if (i % 3 != 0) available.Insert(RowIndex{i});
  }
  for (const std::string_view name : SelectionNames()) {
    const Selection selection = *ParseSelection(name);
    for (const int32_t k : {0, 1, 7, 26, 100}) {
      const std::vector<int32_t> rows = Select(selection, scores, available, k, {7, 0});
      EXPECT_EQ(rows.size(), static_cast<size_t>(std::min(k, available.count()))) << name;
      for (const int32_t row : rows) EXPECT_TRUE(available.Contains(RowIndex{row})) << name;
    }
  }
}

TEST(SelectionTest, TopHalfIsCertainWhenTheRestIsDrawn) {
  const std::vector<float> scores = {1, 9, 1, 8, 1, 1, 1, 1};
  for (uint64_t seed = 0; seed < 20; ++seed) {
    const std::vector<int32_t> rows = Select(Selection::kTopKSample, scores, All(8), 4, {seed, 0});
    EXPECT_THAT(rows, testing::IsSupersetOf({1, 3}));
    EXPECT_EQ(rows.size(), 4U);
  }
}

TEST(SelectionTest, DrawsFollowTheirWeights) {
  const std::vector<float> scores = {3, 1, 0, 0};
  int first = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    const std::vector<int32_t> rows = Select(Selection::kSample, scores, All(4), 1, {seed, 0});
    ASSERT_LT(rows[0], 2) << "a row of weight 0 was drawn";
    first += rows[0] == 0;
  }
  EXPECT_NEAR(first / 4000.0, 0.75, 0.03);  // four standard errors
  first = 0;
  for (uint64_t seed = 0; seed < 4000; ++seed) {
    first += Select(Selection::kRandom, scores, All(4), 1, {seed, 0})[0] == 0;
  }
  EXPECT_NEAR(first / 4000.0, 0.25, 0.03);
}

TEST(SelectionTest, TheSameKeyDrawsTheSameRowsAndAnotherOthers) {
  std::vector<float> scores(200, 1.0F);
  for (const Selection selection : {Selection::kTopKSample, Selection::kSample, Selection::kRandom}) {
    const auto rows = [&](uint64_t seed, uint64_t stream) {
      return Select(selection, scores, All(200), 50, {seed, stream});
    };
    EXPECT_EQ(rows(1, 2), rows(1, 2));
    EXPECT_NE(rows(1, 2), rows(1, 3));
    EXPECT_NE(rows(1, 2), rows(2, 2));
  }
}

TEST(SelectionTest, AnUnknownNameListsThoseThatAreKnown) {
  EXPECT_THAT(std::string(ParseSelection("best").status().message()),
              testing::HasSubstr("topk, topk_sample, sample, random, magnitude"));
}

}  // namespace
}  // namespace dogstar
