// HybridSplit: what share of the FFN pages in host memory the processor computes in a full pass, while the others cross
// the link to the device. Both end at once when
//
//   share * processor(rows) = (1 - share) * link,   processor and link in seconds a byte
//
// For one row the processor takes as long as it reads; with more rows it computes longer, and the link's part grows.
#pragma once

#include <cstdint>

namespace dogstar {

struct HybridRates {
  double link_seconds = 0;  // a byte over the link
  // A byte of pages by the processor: of a pass over one row, and of one over `rows`.
  double one_row_seconds = 0, rows_seconds = 0;
  int32_t rows = 1;
};

class HybridSplit {
 public:
  explicit HybridSplit(const HybridRates& rates) : rates_(rates) {}
  // The same share always, 0 to 1.
  explicit HybridSplit(double share) : share_(share) {}

  // Of the processor, in a pass over so many rows. Between the measured passes a byte's seconds are linear.
  double ShareOf(int32_t rows) const;

 private:
  HybridRates rates_;
  double share_ = -1;
};

}  // namespace dogstar
