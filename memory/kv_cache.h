// KvCache: which slot of the KV store holds which token. A slot, a sequence and a position are three things: tokens
// of one sequence lie in any slots, and attention follows the order of positions.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"

namespace dogstar {

// The same rows, each of which sees the last `window` positions of those it sees in `mask`, its own included.
AttentionMask ClipToWindow(const AttentionMask& mask, int32_t window);

class KvCache {
 public:
  explicit KvCache(int32_t slots);

  // Positions the sequence holds: 0 .. length - 1.
  int32_t length(SequenceId sequence) const;
  int32_t free_slots() const { return static_cast<int32_t>(free_.size()); }

  // Takes slots for the next `count` positions of the sequence. ResourceExhausted names needed and free slots.
  absl::StatusOr<std::vector<KvSlot>> Append(SequenceId sequence, int32_t count);
  // Forgets positions from `length` on; their slots are free again.
  void Truncate(SequenceId sequence, int32_t length);

  // Row i of the mask is position first_position + i, which sees positions 0 .. itself of the sequence.
  // REQUIRES: these positions are held.
  AttentionMask CausalMask(SequenceId sequence, TokenPos first_position, int32_t rows) const;

  // Slots of no position yet, for a tree of tokens that may follow. ResourceExhausted as Append.
  absl::StatusOr<std::vector<KvSlot>> Take(int32_t count);
  // Gives the last slots taken back. REQUIRES: in the order of Take.
  void GiveBack(std::span<const KvSlot> slots);
  // These slots hold the next positions of the sequence.
  void Extend(SequenceId sequence, std::span<const KvSlot> slots);
  // Adds a row that sees all positions of the sequence, then `path`, its own slot last.
  void AddPathRow(SequenceId sequence, std::span<const KvSlot> path, AttentionMask* mask) const;

 private:
  std::vector<KvSlot>& SlotsOf(SequenceId sequence);

  std::vector<std::vector<KvSlot>> sequences_;  // [sequence][position]
  std::vector<KvSlot> free_;                    // a stack; lowest slot on top, so that chains stay contiguous
};

}  // namespace dogstar
