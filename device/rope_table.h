// Cosines and sines of the positions in use. All layers of a pass rotate the same positions, so a table is made once
// for each set of frequencies.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "device/backend.h"

namespace dogstar {

class RopeTable {
 public:
  void Reserve(int32_t rows);
  // Fills rows [0, positions.size()) as far as they are not there already.
  void Update(std::span<const float> frequencies, std::span<const TokenPos> positions);
  bool IsOf(std::span<const float> frequencies) const;
  // frequencies.size() cosines, then as many sines.
  const float* row(int64_t r) const { return values_.data() + r * 2 * static_cast<int64_t>(frequencies_.size()); }
  // Of the first `rows` rows, one after the other.
  std::span<const float> values(size_t rows) const { return std::span(values_).first(rows * 2 * frequencies_.size()); }

 private:
  void FillRow(int64_t r, TokenPos position);

  std::vector<float> frequencies_;
  std::vector<TokenPos> positions_;  // of the rows that are valid
  std::vector<float> values_;
};

// The tables of the two sets used last: local and global layers take turns.
class RopeTables {
 public:
  void Reserve(int32_t rows);
  // Valid until the next call.
  const RopeTable& Update(std::span<const float> frequencies, std::span<const TokenPos> positions);

 private:
  std::array<RopeTable, 2> tables_;
  size_t last_ = 0;  // used
};

}  // namespace dogstar
