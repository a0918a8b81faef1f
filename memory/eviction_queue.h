// Eviction by queues without remembered keys: fifo, lru, clock, slru, sieve. What each does: memory/eviction.h.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/eviction.h"
#include "memory/slot_lists.h"

namespace dogstar {

class FifoPolicy final : public EvictionPolicy {
 public:
  explicit FifoPolicy(int32_t slots) : queue_(slots, 1) {}
  void Use(int32_t, double) override {}
  int32_t Victim(Pins pins) override { return queue_.Oldest(0, pins); }
  void Remove(int32_t slot) override { queue_.Remove(0, slot); }
  void Insert(int32_t slot, PageKey, double) override { queue_.PushFront(0, slot); }

 private:
  SlotLists queue_;
};

class LruPolicy final : public EvictionPolicy {
 public:
  explicit LruPolicy(int32_t slots) : queue_(slots, 1) {}
  void Use(int32_t slot, double) override { queue_.MoveToFront(0, slot); }
  int32_t Victim(Pins pins) override { return queue_.Oldest(0, pins); }
  void Remove(int32_t slot) override { queue_.Remove(0, slot); }
  void Insert(int32_t slot, PageKey, double) override { queue_.PushFront(0, slot); }

 private:
  SlotLists queue_;
};

// The ring of the paper is a queue here: a page that is passed over moves from its back to its front.
class ClockPolicy final : public EvictionPolicy {
 public:
  ClockPolicy(const EvictionOptions& options, int32_t slots)
      : most_((1 << options.clock_bits) - 1), queue_(slots, 1), counters_(static_cast<size_t>(slots)) {}
  void Use(int32_t slot, double uses) override;
  int32_t Victim(Pins pins) override;
  void Remove(int32_t slot) override { queue_.Remove(0, slot); }
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  int32_t most_;
  SlotLists queue_;
  std::vector<uint8_t> counters_;  // [slots]
};

// Segment 0 is the lowest: new pages enter there, and leave from there.
class SlruPolicy final : public EvictionPolicy {
 public:
  SlruPolicy(const EvictionOptions& options, int32_t slots);
  void Use(int32_t slot, double uses) override;
  int32_t Victim(Pins pins) override;
  void Remove(int32_t slot) override { segments_.Remove(segment_of_[static_cast<size_t>(slot)], slot); }
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  void Enter(int32_t segment, int32_t slot);

  std::vector<int32_t> capacity_;  // [segments]; their sum is the number of slots
  SlotLists segments_;
  std::vector<uint8_t> segment_of_;  // [slots]
};

class SievePolicy final : public EvictionPolicy {
 public:
  explicit SievePolicy(int32_t slots) : queue_(slots, 1), visited_(static_cast<size_t>(slots)) {}
  void Use(int32_t slot, double) override { visited_[static_cast<size_t>(slot)] = 1; }
  int32_t Victim(Pins pins) override;
  void Remove(int32_t slot) override;
  void Insert(int32_t slot, PageKey key, double uses) override;

 private:
  SlotLists queue_;
  std::vector<uint8_t> visited_;  // [slots]
  int32_t hand_ = kNoSlot;        // where the next search begins; none: at the back
};

}  // namespace dogstar
