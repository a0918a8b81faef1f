#include "memory/hybrid_split.h"

#include <algorithm>

namespace dogstar {

double HybridSplit::ShareOf(int32_t rows) const {
  if (share_ >= 0) return share_;
  double processor = rates_.one_row_seconds;
  if (rates_.rows > 1) {
    processor += (rates_.rows_seconds - rates_.one_row_seconds) * (rows - 1) / (rates_.rows - 1);
    processor = std::max(processor, rates_.one_row_seconds);  // what more rows cost may be lost in the noise
  }
  const double both = rates_.link_seconds + processor;
  return both > 0 ? rates_.link_seconds / both : 0;
}

}  // namespace dogstar
