// PageCache: which keys lie in which slots, and what goes when a key comes in. It holds numbers, no bytes: the memory
// of slot i is its owner's, who copies a page there after Place.
//
//     slot = cache.Request(key)             the policy learns of the use; kNone: a miss
//     slot = cache.Propose(key)             the slot that the key would get, and whose key would go for it
//     cache.Place(key, slot)                the key is held, the other one gone
//
// Slots are divided into partitions, each with a policy of its own: one a layer, or a single one for all. The layer of
// a key is its partition where there is more than one.
//
// Invariants: a key is in one slot at most, a slot holds one key at most, and no partition holds more keys than it has
// slots. A pinned slot keeps its key: the policy is asked for another. admissions = held + evictions + released.
// A prefetch never waits: without a slot or room in the queue of loads it is dropped and counted.
//
// Threads: one. Memory: allocated once; the cache outlives its pins.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "base/status.h"
#include "memory/eviction.h"
#include "memory/key_index.h"
#include "memory/slot_lists.h"

namespace dogstar {

enum class CacheSlot : int32_t {};
inline constexpr CacheSlot kNoCacheSlot{kNoSlot};

class PageCache;

// Holds a slot's page where it is. Move-only.
class PagePin {
 public:
  PagePin() = default;
  PagePin(PagePin&& other) noexcept
      : cache_(std::exchange(other.cache_, nullptr)), slot_(std::exchange(other.slot_, kNoCacheSlot)) {}
  PagePin& operator=(PagePin&& other) noexcept;
  ~PagePin() { Release(); }

  CacheSlot slot() const { return slot_; }
  void Release();

 private:
  friend class PageCache;
  PagePin(PageCache* cache, CacheSlot slot) : cache_(cache), slot_(slot) {}
  PageCache* cache_ = nullptr;
  CacheSlot slot_ = kNoCacheSlot;
};

class PageCache {
 public:
  struct Options {
    EvictionOptions eviction;
    std::vector<int32_t> slots;  // of each partition; 0: it holds nothing
    int32_t load_queue = 0;      // prefetches on their way at once, at most
  };
  struct Stats {
    int64_t hits = 0, misses = 0;  // requests
    int64_t admissions = 0;        // keys placed, prefetched ones included
    int64_t evictions = 0;         // keys that went for another
    int64_t released = 0;          // keys that went otherwise: Clear, failed loads
    int64_t refused = 0;           // proposals that ended without a slot, or that the owner declined
    int64_t prefetches = 0, dropped_prefetches = 0;
    Stats& operator+=(const Stats& other);
  };

  explicit PageCache(const Options& options);
  static uint64_t Bytes(const Options& options);
  PageCache(const PageCache&) = delete;
  PageCache& operator=(const PageCache&) = delete;

  // One request of the stream. A page that is still being loaded is a miss. uses: see EvictionPolicy::Use.
  CacheSlot Request(PageKey key, double uses = 1) {
    const int32_t slot = index_.Find(key);
    if (slot == kNoSlot || loading_[static_cast<size_t>(slot)] != 0) {
      ++stats_.misses;
      return kNoCacheSlot;
    }
    ++stats_.hits;
    Partition& partition = PartitionOf(key);
    partition.policy->Use(slot - partition.first, uses);
    return CacheSlot{slot};
  }
  // Looks without a trace. Pages that are being loaded are not found.
  CacheSlot Find(PageKey key) const;

  // A free slot, else the policy's victim; kNoCacheSlot (counted as refused): none, or the key is here already.
  CacheSlot Propose(PageKey key);
  // The proposal came to nothing.
  void Decline() { ++stats_.refused; }
  // Puts the key into a slot that is free or proposed. uses: see EvictionPolicy::Insert.
  // REQUIRES: the key is absent, the slot is in its partition and not pinned.
  void Place(PageKey key, CacheSlot slot, double uses = 1);
  // Propose and Place.
  CacheSlot Admit(PageKey key);

  PagePin Pin(CacheSlot slot);
  bool pinned(CacheSlot slot) const { return pins_[Index(slot)] > 0; }

  enum class Prefetched { kQueued, kHere, kDropped };
  // Takes a slot and a place in the queue of loads, at once or not at all.
  Prefetched Prefetch(PageKey key);
  struct Load {
    PageKey key{};
    CacheSlot slot = kNoCacheSlot;
  };
  // The oldest load that was not handed out yet. Its slot is pinned until Loaded.
  std::optional<Load> NextLoad();
  // The slot's bytes are there, or never will be (the slot is free again).
  void Loaded(CacheSlot slot, bool ok);

  // Boundaries of the stream, for all partitions.
  void EndToken();
  void EndPass();
  // Forgets all keys and what the policies knew. REQUIRES: nothing is pinned or being loaded.
  void Clear();

  // kNone where the slot is free.
  std::optional<PageKey> KeyAt(CacheSlot slot) const;
  int32_t slots() const { return static_cast<int32_t>(keys_.size()); }
  int32_t held(int32_t partition) const;
  int32_t held() const;
  CacheSlot first_slot(int32_t partition) const { return CacheSlot{partitions_[static_cast<size_t>(partition)].first}; }
  int32_t partition_slots(int32_t partition) const { return partitions_[static_cast<size_t>(partition)].count; }
  const Stats& stats() const { return stats_; }

 private:
  friend class PagePin;
  struct Partition {
    int32_t first = 0, count = 0;
    std::unique_ptr<EvictionPolicy> policy;  // null without slots
  };
  static size_t Index(CacheSlot slot) { return static_cast<size_t>(ToInt(slot)); }
  static int32_t TotalSlots(const Options& options);
  Partition& PartitionOf(PageKey key) { return partitions_[PartitionIndex(key)]; }
  size_t PartitionIndex(PageKey key) const {
    return partitions_.size() == 1 ? 0 : static_cast<size_t>(ToInt(key) >> 32);
  }
  void MakePartitions();
  void Vacate(Partition* partition, int32_t slot);

  Options options_;
  std::vector<Partition> partitions_;
  KeyIndex index_;                // key -> slot
  SlotLists free_;                // a list a partition
  std::vector<PageKey> keys_;     // [slots]
  std::vector<uint8_t> held_;     // [slots]
  std::vector<uint8_t> loading_;  // [slots]
  std::vector<uint16_t> pins_;    // [slots]
  // Loads not handed out yet, a ring; `loads_` counts those on their way too.
  std::vector<Load> queue_;
  size_t queue_begin_ = 0, queue_size_ = 0;
  int32_t loads_ = 0;
  Stats stats_;
};

}  // namespace dogstar
