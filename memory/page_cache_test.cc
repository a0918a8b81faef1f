#include "memory/page_cache.h"

#include <algorithm>
#include <map>
#include <set>

#include "base/random.h"
#include "gtest/gtest.h"

namespace dogstar {
namespace {

PageCache::Options Lru(std::vector<int32_t> slots, int32_t load_queue = 0) {
  PageCache::Options options;
  options.eviction.kind = EvictionKind::kLru;
  options.slots = std::move(slots);
  options.load_queue = load_queue;
  return options;
}

PageKey Key(int32_t layer, int32_t row) { return KeyOf(LayerIndex{layer}, RowIndex{row}); }

TEST(KeyIndexTest, FindsWhatAMapFinds) {
  KeyIndex index(64);
  std::map<uint64_t, int32_t> model;
  SplitMix64 random(3);
  for (int i = 0; i < 20000; ++i) {
    // Neighbouring rows of a few layers, and multiples of the table's size that fall on the same places.
    const uint64_t key =
        random.Next() % 2 == 0 ? (random.Next() % 3) << 32 | random.Next() % 64 : random.Next() % 64 * 128;
    EXPECT_EQ(index.Find(PageKey{key}), model.contains(key) ? model[key] : kNoSlot);
    if (model.contains(key)) {
      index.Erase(PageKey{key});
      model.erase(key);
    } else if (model.size() < 64) {
      index.Insert(PageKey{key}, i);
      model[key] = i;
    }
  }
}

TEST(GhostListTest, ForgetsTheOldestAndWhatIsTaken) {
  GhostList ghosts(2);
  ghosts.Push(PageKey{1});
  ghosts.Push(PageKey{2});
  ghosts.Push(PageKey{3});
  EXPECT_FALSE(ghosts.Take(PageKey{1}));
  EXPECT_TRUE(ghosts.Take(PageKey{3}));
  EXPECT_FALSE(ghosts.Take(PageKey{3}));
  EXPECT_EQ(ghosts.size(), 1);
  GhostList none(0);
  none.Push(PageKey{1});
  EXPECT_FALSE(none.Take(PageKey{1}));
}

TEST(PageCacheTest, PartitionsHaveSlotsOfTheirOwn) {
  PageCache cache(Lru({2, 0, 1}));
  EXPECT_NE(cache.Admit(Key(0, 5)), kNoCacheSlot);
  EXPECT_EQ(cache.Admit(Key(1, 5)), kNoCacheSlot);
  EXPECT_EQ(cache.Admit(Key(2, 5)), CacheSlot{2});
  EXPECT_EQ(cache.Admit(Key(2, 6)), CacheSlot{2});  // layer 0 has room, but not for this one
  EXPECT_EQ(cache.held(0), 1);
  EXPECT_EQ(cache.held(2), 1);
  EXPECT_EQ(cache.Find(Key(2, 5)), kNoCacheSlot);
}

TEST(PageCacheTest, OnePartitionServesAllLayers) {
  PageCache cache(Lru({2}));
  cache.Admit(Key(0, 5));
  cache.Admit(Key(7, 5));
  cache.Admit(Key(9, 5));
  EXPECT_EQ(cache.Find(Key(0, 5)), kNoCacheSlot);
  EXPECT_NE(cache.Find(Key(7, 5)), kNoCacheSlot);
}

TEST(PageCacheTest, APinnedPageStaysUntilItsLastPinGoes) {
  PageCache cache(Lru({1}));
  const CacheSlot slot = cache.Admit(Key(0, 1));
  PagePin first = cache.Pin(slot);
  PagePin moved;
  {
    PagePin second = cache.Pin(slot);
    moved = std::move(first);
    EXPECT_EQ(cache.Admit(Key(0, 2)), kNoCacheSlot);
  }
  EXPECT_EQ(cache.Admit(Key(0, 2)), kNoCacheSlot);
  moved.Release();
  moved.Release();
  EXPECT_EQ(cache.Admit(Key(0, 2)), slot);
  EXPECT_EQ(cache.stats().refused, 2);
}

TEST(PageCacheTest, ADeclinedProposalLeavesEverythingInPlace) {
  for (size_t kind = 0; kind < EvictionNames().size(); ++kind) {
    PageCache::Options options = Lru({4});
    options.eviction.kind = static_cast<EvictionKind>(kind);
    PageCache cache(options);
    for (int32_t row = 10; row < 14; ++row) cache.Admit(Key(0, row));
    const CacheSlot slot = cache.Propose(Key(0, 1));
    EXPECT_NE(slot, kNoCacheSlot);
    cache.Decline();
    for (int32_t row = 10; row < 14; ++row)
      EXPECT_NE(cache.Request(Key(0, row)), kNoCacheSlot) << EvictionNames()[kind];
    EXPECT_EQ(cache.stats().evictions, 0);
  }
}

TEST(PageCacheTest, APrefetchIsAMissUntilItIsLoaded) {
  PageCache cache(Lru({2}, 2));
  EXPECT_EQ(cache.Prefetch(Key(0, 1)), PageCache::Prefetched::kQueued);
  EXPECT_EQ(cache.Prefetch(Key(0, 1)), PageCache::Prefetched::kHere);
  EXPECT_EQ(cache.Request(Key(0, 1)), kNoCacheSlot);
  EXPECT_EQ(cache.Admit(Key(0, 1)), kNoCacheSlot);  // it is on its way
  const std::optional<PageCache::Load> load = cache.NextLoad();
  ASSERT_TRUE(load.has_value());
  EXPECT_EQ(load->key, Key(0, 1));
  cache.Loaded(load->slot, true);
  EXPECT_EQ(cache.Request(Key(0, 1)), load->slot);
  EXPECT_FALSE(cache.NextLoad().has_value());
}

TEST(PageCacheTest, APrefetchWithoutSlotOrQueueRoomIsDropped) {
  PageCache full_queue(Lru({4}, 1));
  EXPECT_EQ(full_queue.Prefetch(Key(0, 1)), PageCache::Prefetched::kQueued);
  EXPECT_EQ(full_queue.Prefetch(Key(0, 2)), PageCache::Prefetched::kDropped);
  full_queue.NextLoad();  // still on its way
  EXPECT_EQ(full_queue.Prefetch(Key(0, 2)), PageCache::Prefetched::kDropped);
  EXPECT_EQ(full_queue.stats().dropped_prefetches, 2);

  PageCache no_slot(Lru({1}, 4));
  const PagePin pin = no_slot.Pin(no_slot.Admit(Key(0, 1)));
  EXPECT_EQ(no_slot.Prefetch(Key(0, 2)), PageCache::Prefetched::kDropped);
}

TEST(PageCacheTest, AFailedLoadGivesItsSlotBack) {
  PageCache cache(Lru({1}, 1));
  cache.Prefetch(Key(0, 1));
  cache.Loaded(cache.NextLoad()->slot, false);
  EXPECT_EQ(cache.held(), 0);
  EXPECT_EQ(cache.Request(Key(0, 1)), kNoCacheSlot);
  EXPECT_NE(cache.Admit(Key(0, 2)), kNoCacheSlot);
}

// Random operations beside a model that is slow and plain: a map of what is held, where, and how often pinned.
class PageCachePropertyTest : public testing::TestWithParam<int> {
 protected:
  static constexpr int32_t kLayers = 3;
  static constexpr int32_t kLayerSlots[kLayers] = {6, 1, 11};

  PageCachePropertyTest() : random_(static_cast<uint64_t>(GetParam())) {}

  PageKey RandomKey() {
    const int32_t row = static_cast<int32_t>(32 * random_.Uniform() * random_.Uniform());
    return Key(static_cast<int32_t>(random_.Next() % kLayers), row);
  }
  void Admit(PageCache* cache, PageKey key) {
    const CacheSlot slot = cache->Propose(key);
    EXPECT_TRUE(slot == kNoCacheSlot || !model_.contains(key));
    if (slot == kNoCacheSlot) return;
    const std::optional<PageKey> leaves = cache->KeyAt(slot);
    if (leaves) {
      EXPECT_EQ(model_.at(*leaves), slot);
      EXPECT_EQ(std::count_if(pins_.begin(), pins_.end(), [&](const PagePin& pin) { return pin.slot() == slot; }), 0);
      if (random_.Next() % 4 == 0) return cache->Decline();
      model_.erase(*leaves);
    }
    cache->Place(key, slot, 1 + random_.Uniform());
    model_[key] = slot;
  }
  void Check(const PageCache& cache) {
    EXPECT_EQ(cache.held(), static_cast<int32_t>(model_.size()));
    std::set<CacheSlot> slots;
    for (const auto& [key, slot] : model_) {
      slots.insert(slot);
      EXPECT_TRUE(cache.pinned(slot) || cache.Find(key) == slot);
      EXPECT_EQ(cache.KeyAt(slot), key);
    }
    EXPECT_EQ(slots.size(), model_.size());
    const PageCache::Stats& stats = cache.stats();
    EXPECT_EQ(stats.admissions, cache.held() + stats.evictions + stats.released);
    EXPECT_EQ(stats.hits + stats.misses, requests_);
  }

  SplitMix64 random_;
  std::map<PageKey, CacheSlot> model_;
  std::vector<PagePin> pins_;
  std::vector<PageCache::Load> loads_;
  int64_t requests_ = 0;
};

TEST_P(PageCachePropertyTest, HoldsWhatTheModelHolds) {
  PageCache::Options options = Lru({});
  options.eviction.kind = static_cast<EvictionKind>(GetParam() / 2);
  options.slots =
      GetParam() % 2 == 0 ? std::vector<int32_t>(kLayerSlots, kLayerSlots + kLayers) : std::vector<int32_t>{18};
  options.load_queue = 2;
  PageCache cache(options);
  for (int step = 0; step < 6000; ++step) {
    const PageKey key = RandomKey();
    const bool loading =
        std::any_of(loads_.begin(), loads_.end(), [&](const PageCache::Load& load) { return load.key == key; });
    switch (random_.Next() % 8) {
      case 0:
        if (model_.contains(key) && pins_.size() < 8) pins_.push_back(cache.Pin(model_[key]));
        break;
      case 1:
        if (!pins_.empty()) pins_.erase(pins_.begin() + static_cast<ptrdiff_t>(random_.Next() % pins_.size()));
        break;
      case 2: {
        // A prefetch takes what Propose would give: the model looks at what became of it.
        const int64_t evictions = cache.stats().evictions;
        if (cache.Prefetch(key) != PageCache::Prefetched::kQueued) break;
        const PageCache::Load load = *cache.NextLoad();
        if (cache.stats().evictions > evictions) {
          const auto gone =
              std::find_if(model_.begin(), model_.end(), [&](const auto& e) { return e.second == load.slot; });
          ASSERT_NE(gone, model_.end());
          model_.erase(gone);
        }
        model_[key] = load.slot;
        loads_.push_back(load);
        break;
      }
      case 3:
        if (!loads_.empty()) {
          const bool ok = random_.Next() % 2 == 0;
          // A pin that somebody else holds keeps a page from failing: the caller's own affair.
          const bool pinned = std::any_of(pins_.begin(), pins_.end(),
                                          [&](const PagePin& pin) { return pin.slot() == loads_.back().slot; });
          cache.Loaded(loads_.back().slot, ok || pinned);
          if (!ok && !pinned) model_.erase(loads_.back().key);
          loads_.pop_back();
        }
        break;
      case 4:
        cache.EndToken();
        if (random_.Next() % 4 == 0) cache.EndPass();
        break;
      default:
        ++requests_;
        EXPECT_EQ(cache.Request(key) != kNoCacheSlot, model_.contains(key) && !loading);
        Admit(&cache, key);
    }
    if (step % 50 == 0) Check(cache);
  }
  pins_.clear();
  for (const PageCache::Load& load : loads_) cache.Loaded(load.slot, true);
  cache.Clear();
  model_.clear();
  Check(cache);
  Admit(&cache, Key(0, 0));
  Check(cache);
}

INSTANTIATE_TEST_SUITE_P(Policies, PageCachePropertyTest,
                         testing::Range(0, 2 * static_cast<int>(EvictionNames().size())), [](const auto& test) {
                           std::string name(EvictionNames()[static_cast<size_t>(test.param / 2)]);
                           std::erase(name, '-');
                           return name + (test.param % 2 == 0 ? "_layer" : "_global");
                         });

}  // namespace
}  // namespace dogstar
