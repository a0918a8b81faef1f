#include "memory/eviction.h"

#include <string>

#include "gtest/gtest.h"
#include "memory/page_cache.h"

namespace dogstar {
namespace {

EvictionOptions OptionsOf(EvictionKind kind) {
  EvictionOptions options;
  options.kind = kind;
  options.hotness = [](PageKey key) { return -static_cast<double>(ToInt(key)); };  // 'a' is the hottest
  return options;
}

// Plays requests, a letter each; '|' ends a token and a pass. A hit gives '+', a miss '-', a miss that another page had
// to leave for its letter, and a miss that stays outside '!'.
std::string Play(const EvictionOptions& options, int32_t slots, std::string_view requests) {
  PageCache::Options cache_options;
  cache_options.eviction = options;
  cache_options.slots = {slots};
  PageCache cache(cache_options);
  std::string events;
  for (char request : requests) {
    if (request == '|') {
      cache.EndToken();
      cache.EndPass();
      continue;
    }
    const PageKey key{static_cast<uint64_t>(request)};
    if (cache.Request(key) != kNoCacheSlot) {
      events += '+';
      continue;
    }
    const CacheSlot slot = cache.Propose(key);
    if (slot == kNoCacheSlot) {
      events += '!';
      continue;
    }
    const std::optional<PageKey> leaves = cache.KeyAt(slot);
    events += leaves ? static_cast<char>(ToInt(*leaves)) : '-';
    cache.Place(key, slot);
  }
  return events;
}

TEST(EvictionTest, FifoEvictsInOrderOfArrivalWhateverWasUsed) {
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kFifo), 2, "abacb"), "--+a+");
}

TEST(EvictionTest, LruEvictsTheLongestUnused) { EXPECT_EQ(Play(OptionsOf(EvictionKind::kLru), 2, "abacb"), "--+ba"); }

TEST(EvictionTest, LfuEvictsTheFewestUsesAndThenTheLongestUnused) {
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kLfu), 2, "aabcb"), "-+-bc");
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kLfu), 3, "abcd"), "---a");
}

TEST(EvictionTest, LfuAgedForgetsWithTheHalfLife) {
  EvictionOptions options = OptionsOf(EvictionKind::kLfuAged);
  options.lfu_half_life = 1;
  // Three uses four tokens ago count 3/16, less than the one of the last token.
  EXPECT_EQ(Play(options, 2, "aaa|||b|c"), "-++-a");
  options.lfu_half_life = 100;
  EXPECT_EQ(Play(options, 2, "aaa|||b|c"), "-++-b");
}

TEST(EvictionTest, LfuAgedKeepsItsOrderOverManyHalfLives) {
  EvictionOptions options = OptionsOf(EvictionKind::kLfuAged);
  options.lfu_half_life = 0.25;
  std::string requests = "ab", events = "--";
  for (int i = 0; i < 1000; ++i) requests += "|a|b", events += "++";  // weights pass 2^500 many times
  EXPECT_EQ(Play(options, 2, requests + "c"), events + "a");
}

TEST(EvictionTest, LfuAgedTakesCountsFromBefore) {
  EvictionOptions options = OptionsOf(EvictionKind::kLfuAged);
  const std::unique_ptr<EvictionPolicy> policy = NewEvictionPolicy(options, 2);
  policy->Insert(0, PageKey{1}, 5);
  policy->Insert(1, PageKey{2}, 1);
  policy->Use(1, 1);
  EXPECT_EQ(policy->Victim({}), 1);
  policy->Use(1, 3.5);
  EXPECT_EQ(policy->Victim({}), 0);
}

TEST(EvictionTest, ClockGivesUsedPagesAsManyRoundsAsItsBitsHold) {
  EvictionOptions options = OptionsOf(EvictionKind::kClock);
  EXPECT_EQ(Play(options, 2, "aaabcd"), "-++-ba");
  options.clock_bits = 2;
  EXPECT_EQ(Play(options, 2, "aaabcd"), "-++-bc");
}

TEST(EvictionTest, TwoQKeepsWhatCameBackThroughAScan) {
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kTwoQ), 4, "abcdeafghija"), "----abcdefg+");
}

TEST(EvictionTest, ArcMovesItsTargetByGhostHits) {
  // b returns from B1, so recency gets more room and a, though used twice, leaves; its own return takes the room back.
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kArc), 2, "abacba"), "--+bac");
}

TEST(EvictionTest, SlruRaisesUsedPagesAndSinksWhatOverflows) {
  EvictionOptions options = OptionsOf(EvictionKind::kSlru);
  options.slru_segments = 2;
  EXPECT_EQ(Play(options, 4, "abcdebf"), "----a+e");
}

TEST(EvictionTest, SlruWithMoreSegmentsThanSlotsIsLru) {
  EvictionOptions options = OptionsOf(EvictionKind::kSlru);
  EXPECT_EQ(Play(options, 2, "abacb"), Play(OptionsOf(EvictionKind::kLru), 2, "abacb"));
}

TEST(EvictionTest, S3FifoSendsRememberedKeysToTheMainQueue) {
  EvictionOptions options = OptionsOf(EvictionKind::kS3Fifo);
  options.s3fifo_small = 0.25;
  options.s3fifo_ghost = 0.5;
  EXPECT_EQ(Play(options, 4, "abcdeaf"), "----aeb");
}

TEST(EvictionTest, S3FifoMovesWhatWasUsedOftenEnough) {
  EvictionOptions options = OptionsOf(EvictionKind::kS3Fifo);
  options.s3fifo_small = 0.25;
  EXPECT_EQ(Play(options, 4, "aaabcde"), "-++---b");  // a moves; the main queue is over its share, and b its oldest
  options.s3fifo_threshold = 3;
  EXPECT_EQ(Play(options, 4, "aaabcde"), "-++---a");
}

TEST(EvictionTest, SieveKeepsVisitedPagesWhereTheyStand) {
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kSieve), 3, "abcadefa"), "---+bcd+");
}

TEST(EvictionTest, LeastStaleGoesByPassesAndThenByUsesInTheLastOne) {
  const EvictionOptions options = OptionsOf(EvictionKind::kLeastStale);
  EXPECT_EQ(Play(options, 2, "bba|c"), "-+-a");
  EXPECT_EQ(Play(options, 2, "bbb|a|c"), "-++-b");
}

TEST(EvictionTest, StaticHotNeverEvictsAHotterOneForAColder) {
  EXPECT_EQ(Play(OptionsOf(EvictionKind::kStaticHot), 2, "bcad"), "--c!");
  EvictionOptions by_row;
  by_row.kind = EvictionKind::kStaticHot;
  const std::unique_ptr<EvictionPolicy> policy = NewEvictionPolicy(by_row, 1);
  policy->Insert(0, KeyOf(LayerIndex{7}, RowIndex{10}), 1);
  policy->Prepare(KeyOf(LayerIndex{0}, RowIndex{11}));
  EXPECT_EQ(policy->Victim({}), kNoSlot);
  policy->Prepare(KeyOf(LayerIndex{9}, RowIndex{9}));
  EXPECT_EQ(policy->Victim({}), 0);
}

class EveryPolicyTest : public testing::TestWithParam<int> {
 protected:
  EvictionKind kind() const { return static_cast<EvictionKind>(GetParam()); }
};

TEST_P(EveryPolicyTest, VictimLooksPastPins) {
  constexpr int32_t kSlots = 8;
  for (int32_t free = 0; free < kSlots; ++free) {
    const std::unique_ptr<EvictionPolicy> policy = NewEvictionPolicy(OptionsOf(kind()), kSlots);
    for (int32_t slot = 0; slot < kSlots; ++slot) policy->Insert(slot, PageKey{100U + static_cast<uint64_t>(slot)}, 1);
    for (int32_t slot = 0; slot < kSlots; slot += 2) policy->Use(slot, 1), policy->Use(slot, 1), policy->Use(slot, 1);
    std::vector<uint16_t> pins(kSlots, 1);
    pins[static_cast<size_t>(free)] = 0;
    policy->Prepare(PageKey{1});
    EXPECT_EQ(policy->Victim({pins.data()}), free);
    pins[static_cast<size_t>(free)] = 2;
    EXPECT_EQ(policy->Victim({pins.data()}), kNoSlot);
  }
}

TEST_P(EveryPolicyTest, OneSlotIsACacheToo) {
  const std::string events = Play(OptionsOf(kind()), 1, "ccbba");
  EXPECT_EQ(events, "-+c+b");
}

INSTANTIATE_TEST_SUITE_P(Policies, EveryPolicyTest, testing::Range(0, static_cast<int>(EvictionNames().size())),
                         [](const auto& test) {
                           std::string name(EvictionNames()[static_cast<size_t>(test.param)]);
                           std::erase(name, '-');
                           return name;
                         });

}  // namespace
}  // namespace dogstar
