#include "memory/page_cache.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace dogstar {

PagePin& PagePin::operator=(PagePin&& other) noexcept {
  if (this != &other) {
    Release();
    cache_ = std::exchange(other.cache_, nullptr);
    slot_ = std::exchange(other.slot_, kNoCacheSlot);
  }
  return *this;
}

void PagePin::Release() {
  if (cache_ == nullptr) return;
  --cache_->pins_[PageCache::Index(slot_)];
  cache_ = nullptr;
  slot_ = kNoCacheSlot;
}

PageCache::Stats& PageCache::Stats::operator+=(const Stats& other) {
  hits += other.hits;
  misses += other.misses;
  admissions += other.admissions;
  evictions += other.evictions;
  released += other.released;
  refused += other.refused;
  prefetches += other.prefetches;
  dropped_prefetches += other.dropped_prefetches;
  return *this;
}

int32_t PageCache::TotalSlots(const Options& options) {
  return std::accumulate(options.slots.begin(), options.slots.end(), 0);
}

PageCache::PageCache(const Options& options)
    : options_(options),
      partitions_(options.slots.size()),
      index_(TotalSlots(options)),
      free_(TotalSlots(options), static_cast<int32_t>(options.slots.size())),
      keys_(static_cast<size_t>(TotalSlots(options))),
      held_(keys_.size()),
      loading_(keys_.size()),
      pins_(keys_.size()),
      queue_(static_cast<size_t>(options.load_queue)) {
  MakePartitions();
}

uint64_t PageCache::Bytes(const Options& options) {
  const int32_t slots = TotalSlots(options), partitions = static_cast<int32_t>(options.slots.size());
  constexpr uint64_t kPerSlot = sizeof(PageKey) + 2 * sizeof(uint8_t) + sizeof(uint16_t);
  uint64_t bytes = KeyIndex::Bytes(slots) + SlotLists::Bytes(slots, partitions) +
                   static_cast<uint64_t>(slots) * kPerSlot + static_cast<uint64_t>(partitions) * sizeof(Partition) +
                   static_cast<uint64_t>(options.load_queue) * sizeof(Load);
  for (int32_t count : options.slots) bytes += count > 0 ? EvictionPolicyBytes(options.eviction, count) : 0;
  return bytes;
}

void PageCache::MakePartitions() {
  int32_t first = 0;
  for (size_t i = 0; i < partitions_.size(); ++i) {
    const int32_t count = options_.slots[i];
    partitions_[i] = {first, count, count > 0 ? NewEvictionPolicy(options_.eviction, count) : nullptr};
    // The lowest slot is taken first.
    for (int32_t slot = first + count - 1; slot >= first; --slot) free_.PushFront(static_cast<int32_t>(i), slot);
    first += count;
  }
}

CacheSlot PageCache::Find(PageKey key) const {
  const int32_t slot = index_.Find(key);
  return slot == kNoSlot || loading_[static_cast<size_t>(slot)] != 0 ? kNoCacheSlot : CacheSlot{slot};
}

CacheSlot PageCache::Propose(PageKey key) {
  const size_t list = PartitionIndex(key);
  const Partition& partition = partitions_[list];
  int32_t slot = kNoSlot;
  if (partition.count > 0 && index_.Find(key) == kNoSlot) {
    partition.policy->Prepare(key);
    slot = free_.front(static_cast<int32_t>(list));
    if (slot == kNoSlot) {
      const int32_t victim = partition.policy->Victim({pins_.data() + partition.first});
      slot = victim == kNoSlot ? kNoSlot : partition.first + victim;
    }
  }
  if (slot == kNoSlot) ++stats_.refused;
  return CacheSlot{slot};
}

void PageCache::Place(PageKey key, CacheSlot slot, double uses) {
  const size_t list = PartitionIndex(key);
  Partition& partition = partitions_[list];
  const size_t at = Index(slot);
  const int32_t local = ToInt(slot) - partition.first;
  DCHECK(local >= 0 && local < partition.count && pins_[at] == 0 && index_.Find(key) == kNoSlot);
  if (held_[at] != 0) {
    partition.policy->Evict(local);
    index_.Erase(keys_[at]);
    ++stats_.evictions;
  } else {
    free_.Remove(static_cast<int32_t>(list), ToInt(slot));
    held_[at] = 1;
  }
  keys_[at] = key;
  index_.Insert(key, ToInt(slot));
  partition.policy->Insert(local, key, uses);
  ++stats_.admissions;
}

CacheSlot PageCache::Admit(PageKey key) {
  const CacheSlot slot = Propose(key);
  if (slot != kNoCacheSlot) Place(key, slot);
  return slot;
}

PagePin PageCache::Pin(CacheSlot slot) {
  CHECK(held_[Index(slot)] != 0 && pins_[Index(slot)] < std::numeric_limits<uint16_t>::max());
  ++pins_[Index(slot)];
  return PagePin(this, slot);
}

PageCache::Prefetched PageCache::Prefetch(PageKey key) {
  ++stats_.prefetches;
  if (index_.Find(key) != kNoSlot) return Prefetched::kHere;
  const CacheSlot slot = loads_ < options_.load_queue ? Propose(key) : kNoCacheSlot;
  if (slot == kNoCacheSlot) {
    ++stats_.dropped_prefetches;
    return Prefetched::kDropped;
  }
  Place(key, slot);
  loading_[Index(slot)] = 1;
  ++pins_[Index(slot)];
  ++loads_;
  queue_[(queue_begin_ + queue_size_++) % queue_.size()] = {key, slot};
  return Prefetched::kQueued;
}

std::optional<PageCache::Load> PageCache::NextLoad() {
  if (queue_size_ == 0) return std::nullopt;
  const Load load = queue_[queue_begin_];
  queue_begin_ = (queue_begin_ + 1) % queue_.size();
  --queue_size_;
  return load;
}

void PageCache::Loaded(CacheSlot slot, bool ok) {
  CHECK(loading_[Index(slot)] != 0);
  loading_[Index(slot)] = 0;
  --pins_[Index(slot)];
  --loads_;
  if (!ok) Vacate(&PartitionOf(keys_[Index(slot)]), ToInt(slot));
}

void PageCache::Vacate(Partition* partition, int32_t slot) {
  const size_t at = static_cast<size_t>(slot);
  partition->policy->Remove(slot - partition->first);
  index_.Erase(keys_[at]);
  held_[at] = 0;
  free_.PushFront(static_cast<int32_t>(partition - partitions_.data()), slot);
  ++stats_.released;
}

void PageCache::EndToken() {
  for (Partition& partition : partitions_) {
    if (partition.policy != nullptr) partition.policy->EndToken();
  }
}

void PageCache::EndPass() {
  for (Partition& partition : partitions_) {
    if (partition.policy != nullptr) partition.policy->EndPass();
  }
}

void PageCache::Clear() {
  CHECK(loads_ == 0 && std::all_of(pins_.begin(), pins_.end(), [](uint16_t pins) { return pins == 0; }));
  stats_.released += held();
  std::fill(held_.begin(), held_.end(), 0);
  index_.Clear();
  free_ = SlotLists(slots(), static_cast<int32_t>(partitions_.size()));
  MakePartitions();
}

std::optional<PageKey> PageCache::KeyAt(CacheSlot slot) const {
  if (held_[Index(slot)] == 0) return std::nullopt;
  return keys_[Index(slot)];
}

int32_t PageCache::held(int32_t partition) const { return partition_slots(partition) - free_.size(partition); }

int32_t PageCache::held() const {
  int32_t total = 0;
  for (size_t i = 0; i < partitions_.size(); ++i) total += held(static_cast<int32_t>(i));
  return total;
}

}  // namespace dogstar
