#include "memory/eviction.h"

#include <array>

#include "base/status.h"
#include "memory/eviction_ghost.h"
#include "memory/eviction_queue.h"
#include "memory/eviction_rank.h"

namespace dogstar {
namespace {

constexpr std::array<std::string_view, 12> kNames = {"fifo", "lru",  "lfu",    "lfu-aged", "clock",       "2q",
                                                     "arc",  "slru", "s3fifo", "sieve",    "least-stale", "static-hot"};

}  // namespace

std::span<const std::string_view> EvictionNames() { return kNames; }

std::unique_ptr<EvictionPolicy> NewEvictionPolicy(const EvictionOptions& options, int32_t slots) {
  CHECK(slots >= 1);
  switch (options.kind) {
    case EvictionKind::kFifo:
      return std::make_unique<FifoPolicy>(slots);
    case EvictionKind::kLru:
      return std::make_unique<LruPolicy>(slots);
    case EvictionKind::kLfu:
      return std::make_unique<LfuPolicy>(slots);
    case EvictionKind::kLfuAged:
      return std::make_unique<LfuAgedPolicy>(options, slots);
    case EvictionKind::kClock:
      return std::make_unique<ClockPolicy>(options, slots);
    case EvictionKind::kTwoQ:
      return std::make_unique<TwoQPolicy>(options, slots);
    case EvictionKind::kArc:
      return std::make_unique<ArcPolicy>(slots);
    case EvictionKind::kSlru:
      return std::make_unique<SlruPolicy>(options, slots);
    case EvictionKind::kS3Fifo:
      return std::make_unique<S3FifoPolicy>(options, slots);
    case EvictionKind::kSieve:
      return std::make_unique<SievePolicy>(slots);
    case EvictionKind::kLeastStale:
      return std::make_unique<LeastStalePolicy>(slots);
    case EvictionKind::kStaticHot:
      return std::make_unique<StaticHotPolicy>(options, slots);
  }
  CheckFailed(__FILE__, __LINE__, "an eviction kind");
}

uint64_t EvictionPolicyBytes(const EvictionOptions& options, int32_t slots) {
  constexpr uint64_t kObject = 512;  // the object itself, and what its arrays are rounded up to
  const uint64_t per_slot = static_cast<uint64_t>(slots);
  switch (options.kind) {
    case EvictionKind::kLfu:
    case EvictionKind::kLfuAged:
    case EvictionKind::kLeastStale:
    case EvictionKind::kStaticHot:
      return kObject + SlotHeap::Bytes(slots);
    case EvictionKind::kTwoQ:
      return kObject + SlotLists::Bytes(slots, 2) + per_slot * 9 +
             GhostList::Bytes(TwoQPolicy::Remembered(options, slots));
    case EvictionKind::kArc:
      return kObject + SlotLists::Bytes(slots, 2) + per_slot * 9 + GhostList::Bytes(slots) +
             GhostList::Bytes(2 * slots);
    case EvictionKind::kS3Fifo:
      return kObject + SlotLists::Bytes(slots, 2) + per_slot * 10 +
             GhostList::Bytes(S3FifoPolicy::Remembered(options, slots));
    case EvictionKind::kSlru:
      return kObject + SlotLists::Bytes(slots, options.slru_segments) + per_slot +
             static_cast<uint64_t>(options.slru_segments) * sizeof(int32_t);
    case EvictionKind::kFifo:
    case EvictionKind::kLru:
    case EvictionKind::kClock:
    case EvictionKind::kSieve:
      return kObject + SlotLists::Bytes(slots, 1) + per_slot;
  }
  return 0;
}

}  // namespace dogstar
