#include "memory/eviction_ghost.h"

#include <algorithm>

namespace dogstar {
namespace {

int32_t Share(double share, int32_t slots) { return static_cast<int32_t>(share * slots); }
size_t At(int32_t slot) { return static_cast<size_t>(slot); }

}  // namespace

// ---- 2q

int32_t TwoQPolicy::Remembered(const EvictionOptions& options, int32_t slots) {
  return Share(options.two_q_out, slots);
}

TwoQPolicy::TwoQPolicy(const EvictionOptions& options, int32_t slots)
    : in_slots_(Share(options.two_q_in, slots)),
      queues_(slots, 2),
      out_(Remembered(options, slots)),
      keys_(At(slots)),
      queue_of_(At(slots)) {}

// A use in A1in says nothing yet: it may belong to the same burst.
void TwoQPolicy::Use(int32_t slot, double) {
  if (queue_of_[At(slot)] == kMain) queues_.MoveToFront(kMain, slot);
}

int32_t TwoQPolicy::Victim(Pins pins) {
  const int32_t first = queues_.size(kIn) > in_slots_ ? kIn : kMain;
  const int32_t slot = queues_.Oldest(first, pins);
  return slot != kNoSlot ? slot : queues_.Oldest(first == kIn ? kMain : kIn, pins);
}

void TwoQPolicy::Evict(int32_t slot) {
  if (queue_of_[At(slot)] == kIn) out_.Push(keys_[At(slot)]);
  Remove(slot);
}

void TwoQPolicy::Remove(int32_t slot) { queues_.Remove(queue_of_[At(slot)], slot); }

void TwoQPolicy::Insert(int32_t slot, PageKey key, double) {
  const int32_t queue = returns_ ? kMain : kIn;
  returns_ = false;
  keys_[At(slot)] = key;
  queue_of_[At(slot)] = static_cast<uint8_t>(queue);
  queues_.PushFront(queue, slot);
}

// ---- arc

ArcPolicy::ArcPolicy(int32_t slots)
    : slots_(slots),
      queues_(slots, 2),
      once_ghosts_(slots),
      again_ghosts_(2 * slots),
      keys_(At(slots)),
      queue_of_(At(slots)) {}

void ArcPolicy::Use(int32_t slot, double) {
  queues_.Remove(queue_of_[At(slot)], slot);
  queue_of_[At(slot)] = kAgain;
  queues_.PushFront(kAgain, slot);
}

// A remembered key says which of the two queues was too short.
void ArcPolicy::Prepare(PageKey key) {
  const double once = once_ghosts_.size(), again = again_ghosts_.size();
  incoming_ = Ghost::kNone;
  if (once_ghosts_.Take(key)) {
    incoming_ = Ghost::kOnce;
    target_ = std::min<double>(target_ + std::max(again / once, 1.0), slots_);
  } else if (again_ghosts_.Take(key)) {
    incoming_ = Ghost::kAgain;
    target_ = std::max(target_ - std::max(once / again, 1.0), 0.0);
  }
}

// REPLACE of the paper; a new key while T1 alone fills the cache takes the end of T1 by the same rule.
int32_t ArcPolicy::Victim(Pins pins) {
  const int32_t once = queues_.size(kOnce);
  const bool t1_is_full = incoming_ == Ghost::kNone && once + once_ghosts_.size() >= slots_ && once_ghosts_.size() == 0;
  const bool from_once = once > 0 && (once > target_ || (once == target_ && incoming_ == Ghost::kAgain));
  const int32_t first = t1_is_full || from_once || queues_.size(kAgain) == 0 ? kOnce : kAgain;
  const int32_t slot = queues_.Oldest(first, pins);
  return slot != kNoSlot ? slot : queues_.Oldest(first == kOnce ? kAgain : kOnce, pins);
}

// T1 and B1 together stay within the slots, all four lists within twice as many.
void ArcPolicy::MakeRoomForGhost() {
  const int32_t once = queues_.size(kOnce) + once_ghosts_.size();
  if (once >= slots_) {
    if (once_ghosts_.size() > 0) once_ghosts_.DropOldest();
  } else if (once + queues_.size(kAgain) + again_ghosts_.size() >= 2 * slots_ && again_ghosts_.size() > 0) {
    again_ghosts_.DropOldest();
  }
}

void ArcPolicy::Evict(int32_t slot) {
  const bool once = queue_of_[At(slot)] == kOnce;
  const bool forget = incoming_ == Ghost::kNone && once && queues_.size(kOnce) >= slots_ && once_ghosts_.size() == 0;
  if (incoming_ == Ghost::kNone) MakeRoomForGhost();
  if (!forget) (once ? once_ghosts_ : again_ghosts_).Push(keys_[At(slot)]);
  Remove(slot);
}

void ArcPolicy::Remove(int32_t slot) { queues_.Remove(queue_of_[At(slot)], slot); }

void ArcPolicy::Insert(int32_t slot, PageKey key, double) {
  const int32_t queue = incoming_ == Ghost::kNone ? kOnce : kAgain;
  incoming_ = Ghost::kNone;
  keys_[At(slot)] = key;
  queue_of_[At(slot)] = static_cast<uint8_t>(queue);
  queues_.PushFront(queue, slot);
}

// ---- s3fifo

int32_t S3FifoPolicy::Remembered(const EvictionOptions& options, int32_t slots) {
  return Share(options.s3fifo_ghost, slots);
}

S3FifoPolicy::S3FifoPolicy(const EvictionOptions& options, int32_t slots)
    : small_slots_(std::max(Share(options.s3fifo_small, slots), 1)),
      main_slots_(slots - small_slots_),
      threshold_(options.s3fifo_threshold),
      queues_(slots, 2),
      ghosts_(Remembered(options, slots)),
      keys_(At(slots)),
      queue_of_(At(slots)),
      uses_(At(slots)) {}

void S3FifoPolicy::Use(int32_t slot, double) {
  uint8_t& uses = uses_[At(slot)];
  if (uses < UINT8_MAX) ++uses;
}

void S3FifoPolicy::Enter(int32_t queue, int32_t slot) {
  queue_of_[At(slot)] = static_cast<uint8_t>(queue);
  queues_.PushFront(queue, slot);
}

int32_t S3FifoPolicy::Victim(Pins pins) {
  if (queues_.size(kMain) <= main_slots_) {
    const int32_t slot = SmallVictim(pins);
    if (slot != kNoSlot) return slot;
  }
  const int32_t slot = MainVictim(pins);
  return slot != kNoSlot ? slot : SmallVictim(pins);
}

// The oldest of the small queue; what was used often enough on the way moves to the main one.
int32_t S3FifoPolicy::SmallVictim(Pins pins) {
  for (int32_t slot = queues_.back(kSmall); slot != kNoSlot;) {
    const int32_t next = queues_.TowardsFront(slot);
    if (!pins(slot)) {
      if (uses_[At(slot)] < threshold_) return slot;
      uses_[At(slot)] = 0;
      queues_.Remove(kSmall, slot);
      Enter(kMain, slot);
    }
    slot = next;
  }
  return kNoSlot;
}

int32_t S3FifoPolicy::MainVictim(Pins pins) {
  constexpr uint8_t kMostUses = 3;  // two bits a page
  // A round lowers every counter by one: after kMostUses rounds only pinned pages are passed over.
  for (int64_t left = static_cast<int64_t>(queues_.size(kMain)) * (kMostUses + 1); left > 0; --left) {
    const int32_t slot = queues_.back(kMain);
    if (!pins(slot)) {
      uint8_t& uses = uses_[At(slot)];
      if (uses == 0) return slot;
      uses = static_cast<uint8_t>(std::min(uses, kMostUses) - 1);
    }
    queues_.MoveToFront(kMain, slot);
  }
  return kNoSlot;
}

// Only the small queue's pages are remembered: those of the main one had their time.
void S3FifoPolicy::Evict(int32_t slot) {
  evicted_ = true;
  if (queue_of_[At(slot)] == kSmall) ghosts_.Push(keys_[At(slot)]);
  Remove(slot);
}

void S3FifoPolicy::Remove(int32_t slot) { queues_.Remove(queue_of_[At(slot)], slot); }

void S3FifoPolicy::Insert(int32_t slot, PageKey key, double) {
  keys_[At(slot)] = key;
  uses_[At(slot)] = 0;
  const bool fills = !evicted_ && queues_.size(kSmall) >= small_slots_;
  Enter(returns_ || fills ? kMain : kSmall, slot);
  returns_ = false;
}

}  // namespace dogstar
