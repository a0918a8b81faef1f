#include "runtime/batch.h"

#include "base/status.h"

namespace dogstar {

void Batch::Add(const Batch& other) {
  CHECK(logit_rows == 0 || logit_rows == rows());
  tokens.insert(tokens.end(), other.tokens.begin(), other.tokens.end());
  positions.insert(positions.end(), other.positions.begin(), other.positions.end());
  slots.insert(slots.end(), other.slots.begin(), other.slots.end());
  const int32_t runs = static_cast<int32_t>(mask.runs.size());
  mask.runs.insert(mask.runs.end(), other.mask.runs.begin(), other.mask.runs.end());
  for (const AttentionMask::Row& row : other.mask.rows) mask.rows.push_back({row.first_run + runs, row.run_count});
  logit_rows += other.logit_rows;
}

}  // namespace dogstar
