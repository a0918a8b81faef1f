// Cosines and sines of the positions in use. All layers of a pass rotate the same positions, so a table is made once.
#pragma once

#include <span>
#include <vector>

#include "device/backend.h"

namespace dogstar {

class RopeTable {
 public:
  void Reserve(int32_t rows);
  // Fills rows [0, positions.size()) as far as they are not there already.
  void Update(std::span<const float> frequencies, std::span<const TokenPos> positions);
  // frequencies.size() cosines, then as many sines.
  const float* row(int64_t r) const { return values_.data() + r * 2 * frequencies_.size(); }

 private:
  void FillRow(int64_t r, TokenPos position);

  std::vector<float> frequencies_;
  std::vector<TokenPos> positions_;  // of the rows that are valid
  std::vector<float> values_;
};

}  // namespace dogstar
