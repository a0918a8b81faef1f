// RowSet: a set of FFN rows of one layer, by RowIndex, as a bit mask that kernels read directly.
#pragma once

#include <bit>
#include <cstdint>
#include <vector>

#include "base/status.h"
#include "base/types.h"

namespace dogstar {

class RowSet {
 public:
  RowSet() = default;
  explicit RowSet(int32_t rows) : rows_(rows), words_((static_cast<size_t>(rows) + 63) / 64) {}

  int32_t rows() const { return rows_; }
  bool Contains(RowIndex row) const { return (words_[Word(row)] >> (ToInt(row) % 64)) & 1; }
  void Insert(RowIndex row) { words_[Word(row)] |= uint64_t{1} << (ToInt(row) % 64); }
  // The empty set of so many rows; allocates only where it grows.
  void Reset(int32_t rows) {
    rows_ = rows;
    words_.assign((static_cast<size_t>(rows) + 63) / 64, 0);
  }
  void Clear() { words_.assign(words_.size(), 0); }
  int32_t count() const {
    int32_t total = 0;
    for (uint64_t word : words_) total += std::popcount(word);
    return total;
  }
  // The 64 bits that start at row `first` (rows past the end are 0).
  uint64_t Bits(int32_t first) const {
    const size_t word = static_cast<size_t>(first) / 64;
    const int shift = first % 64;
    if (word >= words_.size()) return 0;
    uint64_t bits = words_[word] >> shift;
    if (shift != 0 && word + 1 < words_.size()) bits |= words_[word + 1] << (64 - shift);
    return bits;
  }

 private:
  static size_t Word(RowIndex row) { return static_cast<size_t>(ToInt(row)) / 64; }

  int32_t rows_ = 0;
  std::vector<uint64_t> words_;
};

}  // namespace dogstar
