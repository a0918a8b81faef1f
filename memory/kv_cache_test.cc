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

TEST(KvCacheTest, AFullCacheNamesWhatIsNeededAndLeft) {
  KvCache kv(4);
  ASSERT_TRUE(kv.Append(kFirst, 3).ok());
  const auto slots = kv.Append(kFirst, 2);
  ASSERT_FALSE(slots.ok());
  EXPECT_EQ(slots.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(slots.status().message()), testing::HasSubstr("2 tokens are needed, 1 are left"));
  EXPECT_EQ(kv.length(kFirst), 3);  // nothing was taken
}

}  // namespace
}  // namespace dogstar
