// BpeMerges: the merges of a byte-pair encoding, as integers.
//
// Threads: const after the last Add.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/types.h"

namespace dogstar {

class BpeMerges {
 public:
  // Stands for a byte without a token: nothing merges with it.
  static constexpr TokenId kNoToken{-1};

  explicit BpeMerges(size_t merge_count);

  // Merges come in order of rank, the first to be applied first. A pair that is there already is ignored.
  void Add(TokenId left, TokenId right, TokenId result);

  // Merges neighbours in place until none is left: always the pair of lowest rank, the leftmost of equals.
  // Time n log n.
  void Apply(std::vector<TokenId>* symbols) const;

  uint64_t memory_bytes() const;

 private:
  static constexpr uint32_t kNoRank = UINT32_MAX;
  struct Chain;

  size_t HomeSlot(TokenId left, TokenId right) const;
  uint32_t RankOf(TokenId left, TokenId right) const;
  bool IsPair(uint32_t rank, TokenId left, TokenId right) const;
  void ApplyShort(std::vector<TokenId>* symbols) const;
  void ApplyLong(std::vector<TokenId>* symbols) const;

  // By rank.
  std::vector<TokenId> left_;
  std::vector<TokenId> right_;
  std::vector<TokenId> result_;
  std::vector<uint32_t> table_;  // open addressing on (left, right): a rank or kNoRank; a power of two of slots
};

}  // namespace dogstar
