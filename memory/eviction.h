// EvictionPolicy: which page leaves when another wants its slot. One class a policy; PageCache drives them, and so can
// anything else that has requests (a simulator).
//
// A policy knows slots 0 .. slots-1 and what is in them. For every request its owner calls
//     the key is held:    Use(slot, 1)
//     the key is absent:  Prepare(key); while no slot is free: slot = Victim(pins), Evict(slot); Insert(slot, key, 1)
// Between Victim and Evict the owner may change its mind: Victim moves hands and queues, but nothing leaves by it.
//
// Invariants: a slot is held from Insert to Evict or Remove. Victim names a slot that is held and not pinned, or
// kNoSlot: all are pinned, or the policy would rather keep what it has (static-hot).
//
// The policies and their sources. Shares are of the slots, rounded down; a request is a use, a miss brings its key in.
//   fifo         out in the order in.
//   lru          the longest unused leaves.
//   lfu          the fewest uses since it came in; equal: the longest unused. Counts are lost with the slot.
//   lfu-aged     as lfu, but a use t tokens ago counts 2^(-t / lfu_half_life). What the owner knows of a key's earlier
//                uses may be brought in, and a use may count more or less than 1.
//   clock        second chance (Corbato, "A paging experiment with the Multics system", 1968): a queue whose oldest
//                page goes round again while its counter is not 0. Uses raise it to 2^clock_bits - 1, a round costs 1.
//   2q           Johnson and Shasha, "2Q", VLDB 1994, the full version: new keys in a FIFO (share two_q_in); what that
//                drops is remembered by key (two_q_out); a key that is remembered comes back into an LRU.
//   arc          Megiddo and Modha, "ARC", FAST 2003: an LRU of keys seen once, one of keys seen again, and as many
//                remembered keys; the target size moves by ghost hits, in real numbers and not rounded.
//   slru         Karedla, Love and Wherry, "Caching strategies to improve disk system performance", 1994, with
//                slru_segments equal LRU segments (rounding goes to the lowest): a use raises a page by one, what
//                overflows sinks by one. As long as there is room, a new key takes the lowest segment with room.
//   s3fifo       Yang et al., "FIFO queues are all you need for cache eviction", SOSP 2023: small FIFO (s3fifo_small),
//                main FIFO with reinsertion (counter up to 3), remembered keys (s3fifo_ghost). s3fifo_threshold uses
//                in the small queue lead to the main one (2; the paper moves at more than one). Until the first
//                eviction the main queue takes what the small one has no room for.
//   sieve        Zhang et al., "SIEVE is simpler than LRU", NSDI 2024: one queue, a visited bit, a hand that stays.
//   least-stale  the page unused for the most passes leaves; equal: the fewest uses in the last pass that used it;
//                equal: the longest unused. Named after the "Least-Stale" of SpecMD (arXiv 2602.03921), a policy for
//                the experts of MoE models; the definition is ours and does not claim to be that paper's.
//   static-hot   a fixed hotness of every key, given at the start. The coldest leaves, and only for a hotter one.
// FIFO to SIEVE follow the conventions of libCacheSim where papers leave room; scripts/check_policies.py compares.
//
// Threads: one. Memory: all of it in the constructor. Time: O(1) a call, O(log slots) for lfu, lfu-aged, least-stale
// and static-hot; O(slots) where Victim has to look past pins.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "base/types.h"

namespace dogstar {

// What is cached: 64 bits, (layer, row) here, anything in a trace.
enum class PageKey : uint64_t {};
constexpr PageKey KeyOf(LayerIndex layer, RowIndex row) {
  return PageKey{static_cast<uint64_t>(ToInt(layer)) << 32 | static_cast<uint32_t>(ToInt(row))};
}
constexpr RowIndex RowOf(PageKey key) { return RowIndex{static_cast<int32_t>(ToInt(key) & 0xFFFFFFFF)}; }

inline constexpr int32_t kNoSlot = -1;

enum class EvictionKind {
  kFifo,
  kLru,
  kLfu,
  kLfuAged,
  kClock,
  kTwoQ,
  kArc,
  kSlru,
  kS3Fifo,
  kSieve,
  kLeastStale,
  kStaticHot,
};
// In the order of EvictionKind: "fifo", "lru", ...
std::span<const std::string_view> EvictionNames();
inline std::string_view EvictionName(EvictionKind kind) { return EvictionNames()[static_cast<size_t>(kind)]; }

struct EvictionOptions {
  EvictionKind kind = EvictionKind::kLfuAged;
  double lfu_half_life = 32;  // tokens, > 0
  int32_t clock_bits = 1;     // 1..8
  double two_q_in = 0.25;     // shares of the slots
  double two_q_out = 0.5;
  int32_t slru_segments = 4;  // 1..16
  double s3fifo_small = 0.1;
  double s3fifo_ghost = 0.9;
  int32_t s3fifo_threshold = 2;  // >= 1
  // static-hot: larger = hotter. Empty: the lower the row, the hotter, which is the packed file's order.
  std::function<double(PageKey)> hotness;
};

// How often each slot is pinned, [slots].
struct Pins {
  const uint16_t* counts = nullptr;  // null: nothing is pinned
  bool operator()(int32_t slot) const { return counts != nullptr && counts[slot] > 0; }
};

class EvictionPolicy {
 public:
  virtual ~EvictionPolicy() = default;

  // The key in `slot` was requested. uses: how much the request counts (lfu-aged). REQUIRES: held.
  virtual void Use(int32_t slot, double uses) = 0;
  // `key`, which is absent, asks for a slot; it takes its place among the remembered keys with it. Counts until the
  // next Prepare: Victim and Insert that follow are for this key.
  virtual void Prepare(PageKey key) { static_cast<void>(key); }
  virtual int32_t Victim(Pins pins) = 0;
  // The page leaves for another; policies that remember keys remember it. REQUIRES: held.
  virtual void Evict(int32_t slot) { Remove(slot); }
  // The page leaves without a trace. REQUIRES: held.
  virtual void Remove(int32_t slot) = 0;
  // REQUIRES: not held. uses: what the key's requests came to, this one included, as far as the owner knows (lfu-aged).
  virtual void Insert(int32_t slot, PageKey key, double uses) = 0;
  // Boundaries of the stream of requests: half-lives are counted in tokens, staleness in passes.
  virtual void EndToken() {}
  virtual void EndPass() {}
};

// REQUIRES: slots >= 1, options within their ranges.
std::unique_ptr<EvictionPolicy> NewEvictionPolicy(const EvictionOptions& options, int32_t slots);
// Bytes it takes, at most.
uint64_t EvictionPolicyBytes(const EvictionOptions& options, int32_t slots);

}  // namespace dogstar
