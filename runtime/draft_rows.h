// DraftRows: what a draft's FFN uses in each layer: resident pages and overlay rows, masked by the predictor's choice.
// Built once a prompt (the rows of a prompt-level predictor do not change), read by every draft step.
#pragma once

#include <cstdint>
#include <vector>

#include "device/backend.h"
#include "memory/overlay.h"
#include "memory/weights.h"
#include "predictors/predictor.h"

namespace dogstar {

struct DraftLayer {
  std::vector<FfnPageRef> pages;
  FfnOverlayRef overlay;               // row_count 0: none
  std::vector<uint64_t> page_masks;    // storage of pages[i].row_mask
  std::vector<uint64_t> overlay_mask;  // storage of overlay.row_mask
  int32_t rows_used = 0;
};

class DraftRows {
 public:
  // overlay may be null.
  static DraftRows Build(const Weights& weights, const Overlay* overlay, Predictor* predictor);

  const DraftLayer& layer(LayerIndex layer) const { return layers_[static_cast<size_t>(ToInt(layer))]; }
  // Rows used / rows, over all layers.
  double density() const { return density_; }

 private:
  std::vector<DraftLayer> layers_;
  double density_ = 0;
};

}  // namespace dogstar
