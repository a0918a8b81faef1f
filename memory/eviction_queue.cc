#include "memory/eviction_queue.h"

#include <algorithm>

namespace dogstar {

void ClockPolicy::Use(int32_t slot, double) {
  uint8_t& counter = counters_[static_cast<size_t>(slot)];
  if (counter < most_) ++counter;
}

int32_t ClockPolicy::Victim(Pins pins) {
  // A round lowers every counter by one: after most_ rounds only pinned pages are passed over.
  for (int64_t left = static_cast<int64_t>(queue_.size(0)) * (most_ + 1); left > 0; --left) {
    const int32_t slot = queue_.back(0);
    if (!pins(slot)) {
      uint8_t& counter = counters_[static_cast<size_t>(slot)];
      if (counter == 0) return slot;
      --counter;
    }
    queue_.MoveToFront(0, slot);
  }
  return kNoSlot;
}

void ClockPolicy::Insert(int32_t slot, PageKey, double) {
  counters_[static_cast<size_t>(slot)] = 0;
  queue_.PushFront(0, slot);
}

SlruPolicy::SlruPolicy(const EvictionOptions& options, int32_t slots)
    : capacity_(static_cast<size_t>(options.slru_segments), slots / options.slru_segments),
      segments_(slots, options.slru_segments),
      segment_of_(static_cast<size_t>(slots)) {
  capacity_[0] += slots % options.slru_segments;
}

void SlruPolicy::Enter(int32_t segment, int32_t slot) {
  segments_.PushFront(segment, slot);
  segment_of_[static_cast<size_t>(slot)] = static_cast<uint8_t>(segment);
}

void SlruPolicy::Use(int32_t slot, double) {
  int32_t segment = segment_of_[static_cast<size_t>(slot)];
  if (segment + 1 == static_cast<int32_t>(capacity_.size())) return segments_.MoveToFront(segment, slot);
  segments_.Remove(segment, slot);
  Enter(++segment, slot);
  // What overflows sinks; it ends where the used page came from at the latest.
  for (; segment > 0 && segments_.size(segment) > capacity_[static_cast<size_t>(segment)]; --segment) {
    const int32_t oldest = segments_.back(segment);
    segments_.Remove(segment, oldest);
    Enter(segment - 1, oldest);
  }
}

int32_t SlruPolicy::Victim(Pins pins) {
  for (int32_t segment = 0; segment < static_cast<int32_t>(capacity_.size()); ++segment) {
    const int32_t slot = segments_.Oldest(segment, pins);
    if (slot != kNoSlot) return slot;
  }
  return kNoSlot;
}

void SlruPolicy::Insert(int32_t slot, PageKey, double) {
  int32_t segment = 0;
  while (segment < static_cast<int32_t>(capacity_.size()) &&
         segments_.size(segment) >= capacity_[static_cast<size_t>(segment)]) {
    ++segment;
  }
  Enter(segment < static_cast<int32_t>(capacity_.size()) ? segment : 0, slot);
}

int32_t SievePolicy::Victim(Pins pins) {
  // One round clears the bits, a second finds what is not pinned.
  for (int64_t left = 2 * static_cast<int64_t>(queue_.size(0)); left > 0; --left) {
    if (hand_ == kNoSlot) hand_ = queue_.back(0);
    if (!pins(hand_)) {
      uint8_t& visited = visited_[static_cast<size_t>(hand_)];
      if (visited == 0) return hand_;
      visited = 0;
    }
    hand_ = queue_.TowardsFront(hand_);
  }
  return kNoSlot;
}

void SievePolicy::Remove(int32_t slot) {
  if (slot == hand_) hand_ = queue_.TowardsFront(slot);
  queue_.Remove(0, slot);
}

void SievePolicy::Insert(int32_t slot, PageKey, double) {
  visited_[static_cast<size_t>(slot)] = 0;
  queue_.PushFront(0, slot);
}

}  // namespace dogstar
