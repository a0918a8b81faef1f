#include "memory/kv_cache.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

constexpr SequenceId kFirst{0}, kSecond{1};

TEST(KvCacheTest, AChainTakesSlotsInOrderAndSeesItselfAndThePast) {
  KvCache kv(8);
  const std::vector<KvSlot> slots = kv.Append(kFirst, 3).value();
  EXPECT_THAT(slots, testing::ElementsAre(KvSlot{0}, KvSlot{1}, KvSlot{2}));
  const AttentionMask mask = kv.CausalMask(kFirst, TokenPos{1}, 2);
  ASSERT_EQ(mask.rows.size(), 2U);
  EXPECT_EQ(mask.rows[0].run_count, 1);
  EXPECT_EQ(mask.runs[static_cast<size_t>(mask.rows[0].first_run)].end, 2);
  EXPECT_EQ(mask.runs[static_cast<size_t>(mask.rows[1].first_run)].end, 3);
}

TEST(KvCacheTest, TruncatedSlotsAreTakenAgainInTheSameOrder) {
  KvCache kv(8);
  ASSERT_TRUE(kv.Append(kFirst, 5).ok());
  kv.Truncate(kFirst, 2);
  EXPECT_EQ(kv.length(kFirst), 2);
  EXPECT_EQ(kv.free_slots(), 6);
  EXPECT_THAT(kv.Append(kFirst, 3).value(), testing::ElementsAre(KvSlot{2}, KvSlot{3}, KvSlot{4}));
}

TEST(KvCacheTest, TwoSequencesShareTheStoreAndRunsFollowPositions) {
  KvCache kv(8);
  ASSERT_TRUE(kv.Append(kFirst, 2).ok());
  ASSERT_TRUE(kv.Append(kSecond, 2).ok());
  ASSERT_TRUE(kv.Append(kFirst, 1).ok());
  const AttentionMask mask = kv.CausalMask(kFirst, TokenPos{2}, 1);
  ASSERT_EQ(mask.rows[0].run_count, 2);
  EXPECT_EQ(mask.runs[0].begin, 0);
  EXPECT_EQ(mask.runs[0].end, 2);
  EXPECT_EQ(mask.runs[1].begin, 4);
  EXPECT_EQ(mask.runs[1].end, 5);
}

TEST(KvCacheTest, AWindowKeepsTheLastPositionsOfEachRow) {
  KvCache kv(16);
  ASSERT_TRUE(kv.Append(kFirst, 3).ok());   // slots 0 to 2
  ASSERT_TRUE(kv.Append(kSecond, 2).ok());  // 3, 4
  ASSERT_TRUE(kv.Append(kFirst, 4).ok());   // 5 to 8
  const AttentionMask mask = kv.CausalMask(kFirst, TokenPos{1}, 6);
  const AttentionMask clipped = ClipToWindow(mask, 3);
  const auto slots_of = [&](size_t row) {
    std::vector<int32_t> slots;
    for (int32_t i = 0; i < clipped.rows[row].run_count; ++i) {
      const SlotRun& run = clipped.runs[static_cast<size_t>(clipped.rows[row].first_run + i)];
      for (int32_t slot = run.begin; slot < run.end; ++slot) slots.push_back(slot);
    }
    return slots;
  };
  ASSERT_EQ(clipped.rows.size(), 6U);
  EXPECT_THAT(slots_of(0), testing::ElementsAre(0, 1));
  EXPECT_THAT(slots_of(1), testing::ElementsAre(0, 1, 2));
  EXPECT_THAT(slots_of(2), testing::ElementsAre(1, 2, 5));
  EXPECT_THAT(slots_of(3), testing::ElementsAre(2, 5, 6));
  EXPECT_THAT(slots_of(4), testing::ElementsAre(5, 6, 7));
  EXPECT_EQ(clipped.rows[4].run_count, 1);
  EXPECT_THAT(slots_of(5), testing::ElementsAre(6, 7, 8));
}

TEST(KvCacheTest, AWindowOfOneSeesItselfAndAWideOneEverything) {
  KvCache kv(8);
  ASSERT_TRUE(kv.Append(kFirst, 4).ok());
  const AttentionMask mask = kv.CausalMask(kFirst, TokenPos{0}, 4);
  const AttentionMask one = ClipToWindow(mask, 1), wide = ClipToWindow(mask, 100);
  for (size_t row = 0; row < 4; ++row) {
    EXPECT_EQ(one.runs[row].begin, static_cast<int32_t>(row));
    EXPECT_EQ(one.runs[row].end, static_cast<int32_t>(row) + 1);
    EXPECT_EQ(wide.runs[row].begin, 0);
    EXPECT_EQ(wide.runs[row].end, static_cast<int32_t>(row) + 1);
  }
}

TEST(KvCacheTest, AFullCacheNamesWhatIsNeededAndLeft) {
  KvCache kv(4);
  ASSERT_TRUE(kv.Append(kFirst, 3).ok());
  const auto slots = kv.Append(kFirst, 2);
  ASSERT_FALSE(slots.ok());
  EXPECT_EQ(slots.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(slots.status().message()), testing::HasSubstr("2 tokens are needed, 1 are left"));
  EXPECT_EQ(kv.length(kFirst), 3);  // nothing was taken
}

// 0 1 | 2 with children 3 and 4, 5 under 3: rows see their ancestors and nobody's siblings.
TEST(KvCacheTest, ARowOfATreeSeesThePastAndItsOwnPath) {
  KvCache kv(8);
  ASSERT_TRUE(kv.Append(kFirst, 2).ok());
  const std::vector<KvSlot> nodes = kv.Take(4).value();
  EXPECT_EQ(kv.length(kFirst), 2);
  AttentionMask mask;
  kv.AddPathRow(kFirst, std::vector{nodes[0]}, &mask);
  kv.AddPathRow(kFirst, std::vector{nodes[0], nodes[1]}, &mask);
  kv.AddPathRow(kFirst, std::vector{nodes[0], nodes[2]}, &mask);
  kv.AddPathRow(kFirst, std::vector{nodes[0], nodes[1], nodes[3]}, &mask);
  std::vector<std::vector<int32_t>> seen;
  for (const AttentionMask::Row& row : mask.rows) {
    std::vector<int32_t>& slots = seen.emplace_back();
    for (int32_t i = 0; i < row.run_count; ++i) {
      const SlotRun run = mask.runs[static_cast<size_t>(row.first_run + i)];
      for (int32_t slot = run.begin; slot < run.end; ++slot) slots.push_back(slot);
    }
  }
  EXPECT_THAT(seen, testing::ElementsAre(testing::ElementsAre(0, 1, 2), testing::ElementsAre(0, 1, 2, 3),
                                         testing::ElementsAre(0, 1, 2, 4), testing::ElementsAre(0, 1, 2, 3, 5)));
  EXPECT_EQ(mask.rows[1].run_count, 1);  // what follows each other is one run
}

TEST(KvCacheTest, SlotsGivenBackAreTakenAgainInTheSameOrder) {
  KvCache kv(8);
  const std::vector<KvSlot> nodes = kv.Take(5).value();
  kv.Extend(kFirst, std::span(nodes).first(2));
  kv.GiveBack(std::span(nodes).subspan(2));
  EXPECT_EQ(kv.length(kFirst), 2);
  EXPECT_EQ(kv.free_slots(), 6);
  EXPECT_THAT(kv.Append(kSecond, 2).value(), testing::ElementsAre(KvSlot{2}, KvSlot{3}));
  EXPECT_FALSE(kv.Take(5).ok());
}

}  // namespace
}  // namespace dogstar
