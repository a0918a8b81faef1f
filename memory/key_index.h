// KeyIndex: key -> number, open addressing with linear probing, at most half full. Deletion moves later entries back,
// so there are no tombstones and lookups stay short however many keys come and go.
//
// Threads: one. Memory: all of it in the constructor.
#pragma once

#include <algorithm>
#include <bit>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "memory/eviction.h"

namespace dogstar {

class KeyIndex {
 public:
  explicit KeyIndex(int32_t most_keys)
      : entries_(TableSize(most_keys)), shift_(64 - std::countr_zero(entries_.size())), mask_(entries_.size() - 1) {}
  static uint64_t Bytes(int32_t most_keys) { return TableSize(most_keys) * sizeof(Entry); }

  // The key's number, or kNoSlot.
  int32_t Find(PageKey key) const { return entries_[PlaceOf(key)].value; }

  // REQUIRES: the key is absent, value >= 0, fewer than most_keys keys are here.
  void Insert(PageKey key, int32_t value) {
    Entry& entry = entries_[PlaceOf(key)];
    DCHECK(entry.value == kNoSlot && value >= 0);
    entry = {ToInt(key), value};
  }

  // REQUIRES: the key is here.
  void Erase(PageKey key) {
    size_t hole = PlaceOf(key);
    DCHECK(entries_[hole].value != kNoSlot);
    for (size_t at = (hole + 1) & mask_; entries_[at].value != kNoSlot; at = (at + 1) & mask_) {
      // An entry may fill the hole unless its home lies behind the hole, on the way to where it stands.
      const size_t from_home = (at - HomeOf(entries_[at].key)) & mask_;
      if (from_home < ((at - hole) & mask_)) continue;
      entries_[hole] = entries_[at];
      hole = at;
    }
    entries_[hole].value = kNoSlot;
  }

  void Clear() { std::fill(entries_.begin(), entries_.end(), Entry()); }

 private:
  struct Entry {
    uint64_t key = 0;
    int32_t value = kNoSlot;
  };

  static size_t TableSize(int32_t most_keys) { return std::bit_ceil(static_cast<size_t>(std::max(most_keys, 1)) * 2); }
  // Multiplication by 2^64 / golden ratio spreads runs of rows over the table (Knuth, TAOCP 3, section 6.4).
  size_t HomeOf(uint64_t key) const { return static_cast<size_t>((key * 0x9E3779B97F4A7C15U) >> shift_); }
  size_t PlaceOf(PageKey key) const {
    size_t at = HomeOf(ToInt(key));
    while (entries_[at].value != kNoSlot && entries_[at].key != ToInt(key)) at = (at + 1) & mask_;
    return at;
  }

  std::vector<Entry> entries_;
  int shift_;
  size_t mask_;
};

}  // namespace dogstar
