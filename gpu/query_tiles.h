// An attention mask as the kernels of attention.h read it.
#pragma once

#include <cstdint>
#include <vector>

#include "device/backend.h"
#include "gpu/attention.h"

namespace dogstar {

struct QueryLists {
  std::vector<gpu::SlotRange> runs;
  std::vector<gpu::RowRuns> rows;
  std::vector<gpu::QueryTile> tiles;
  int32_t most_slots = 0;  // that a row sees
};

// group: query heads of a KV head. Rows share tiles as far as each sees what the one before it sees, and more.
QueryLists ListsOf(const AttentionMask& mask, int32_t group);

}  // namespace dogstar
