#include "cpu/top_entries.h"

#include <algorithm>
#include <cmath>
#include <limits>

namespace dogstar {

// A heap of the first entries so far, the last of them on top: most values are compared with that one alone.
void TopEntries(std::span<const float> row, std::span<RowEntry> top) {
  if (top.empty()) return;
  constexpr float kLowest = -std::numeric_limits<float>::infinity();
  const auto entry_of = [row](size_t i) {
    return RowEntry{std::isnan(row[i]) ? kLowest : row[i], static_cast<int32_t>(i)};
  };
  for (size_t i = 0; i < top.size(); ++i) top[i] = entry_of(i);
  std::make_heap(top.begin(), top.end());
  for (size_t i = top.size(); i < row.size(); ++i) {
    if (!(row[i] > top.front().value)) continue;  // equal ones of later columns come later
    std::pop_heap(top.begin(), top.end());
    top.back() = entry_of(i);
    std::push_heap(top.begin(), top.end());
  }
  std::sort_heap(top.begin(), top.end());
}

}  // namespace dogstar
