// Batch: the rows of one pass.
#pragma once

#include <cstdint>
#include <vector>

#include "base/types.h"
#include "device/backend.h"

namespace dogstar {

// Row i is token tokens[i] at positions[i], whose keys and values go to slots[i].
struct Batch {
  std::vector<TokenId> tokens;
  std::vector<TokenPos> positions;
  std::vector<KvSlot> slots;
  AttentionMask mask;  // of layers without a window
  // Logits are computed for the last logit_rows rows; 0 for none.
  int32_t logit_rows = 0;
  int32_t rows() const { return static_cast<int32_t>(tokens.size()); }

  // Rows of another text. REQUIRES: logits of all rows or of none, here and there.
  void Add(const Batch& other);
};

}  // namespace dogstar
