#include "gpu/query_tiles.h"

#include <algorithm>
#include <span>

namespace dogstar {
namespace {

using Runs = std::span<const gpu::SlotRange>;

// Whether the slots of `first` are the first slots of `second`, however runs cut them.
bool StartsWith(Runs second, Runs first) {
  size_t at = 0;        // of second
  int32_t into_at = 0;  // slots of second[at]
  for (const gpu::SlotRange& run : first) {
    for (int32_t slot = run.begin; slot < run.end;) {
      if (at == second.size()) return false;
      const int32_t here = second[at].begin + into_at, left = second[at].end - here;
      if (left > 0 && here != slot) return false;
      const int32_t common = std::min(left, run.end - slot);
      slot += common;
      into_at += common;
      if (common == left) ++at, into_at = 0;
    }
  }
  return true;
}

}  // namespace

QueryLists ListsOf(const AttentionMask& mask, int32_t group) {
  QueryLists lists;
  for (const SlotRun& run : mask.runs) lists.runs.push_back({run.begin, run.end});
  const auto runs_of = [&](const AttentionMask::Row& row) {
    return Runs(lists.runs).subspan(static_cast<size_t>(row.first_run), static_cast<size_t>(row.run_count));
  };
  for (const AttentionMask::Row& row : mask.rows) {
    int32_t slots = 0;
    for (const gpu::SlotRange& run : runs_of(row)) slots += run.end - run.begin;
    lists.rows.push_back({row.first_run, row.run_count, slots});
    lists.most_slots = std::max(lists.most_slots, slots);
  }
  const auto rows = static_cast<int32_t>(mask.rows.size());
  for (int32_t first = 0, last = 0; first < rows; first = last + 1) {
    const auto row_at = [&](int32_t row) { return runs_of(mask.rows[static_cast<size_t>(row)]); };
    for (last = first; last + 1 < rows && StartsWith(row_at(last + 1), row_at(last));) ++last;
    const int32_t queries = (last - first + 1) * group;
    for (int32_t begin = 0; begin < queries; begin += gpu::kTileQueries) {
      const int32_t count = std::min(gpu::kTileQueries, queries - begin);
      lists.tiles.push_back({first + begin / group, begin % group, count, first + (begin + count - 1) / group});
    }
  }
  return lists;
}

}  // namespace dogstar
