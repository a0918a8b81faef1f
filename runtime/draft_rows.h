// DraftRows: what a draft's FFN uses in each layer: resident pages and overlay rows, masked by the predictor's choice;
// or the chosen rows alone, where there is memory to gather them. Built once a prompt, read by every draft step. Where
// the overlay or the predictor follows the text, layers that changed are updated between cycles; that allocates nothing
// after the first time.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/row_set.h"
#include "device/backend.h"
#include "memory/gathered_rows.h"
#include "memory/overlay.h"
#include "memory/weights.h"
#include "predictors/head_choice.h"
#include "predictors/predictor.h"

namespace dogstar {

struct DraftLayer {
  const FfnPageLayout* layout = nullptr;  // of the pages
  std::vector<FfnPageRef> pages;          // the file's, or gathered ones
  FfnOverlayRef overlay;                  // row_count 0: none
  std::vector<uint64_t> page_masks;       // storage of pages[i].row_mask
  std::vector<uint64_t> overlay_mask;     // storage of overlay.row_mask
  const RowChoice* choice = nullptr;      // tokens choose among the pages' rows; null: all of them
  int32_t rows_used = 0;
  std::vector<uint64_t> heads;  // query heads to compute, bit h % 64 of word h / 64; empty: all

  // The rows that every token uses, bit i of word i / 64; not those that tokens choose.
  void AddTo(std::span<uint64_t> mask) const;
};

// Where a draft's rows come from.
struct DraftSources {
  const Weights* weights = nullptr;
  const Overlay* overlay = nullptr;  // may be null
  GatheredRows* gathered = nullptr;  // may be null: lists become masks
  Predictor* predictor = nullptr;
  const HeadChoice* heads = nullptr;  // null: all of them
};

class DraftRows {
 public:
  static DraftRows Build(const DraftSources& sources);
  // A layer anew, with the overlay's rows and the predictor's choice of now.
  void Update(LayerIndex layer, const DraftSources& sources);

  const DraftLayer& layer(LayerIndex layer) const { return layers_[static_cast<size_t>(ToInt(layer))]; }
  // Rows used / rows, over all layers.
  double density() const {
    return all_rows_ > 0 ? static_cast<double>(used_rows_) / static_cast<double>(all_rows_) : 1;
  }

 private:
  std::vector<DraftLayer> layers_;
  RowSet available_;  // of the layer that is being updated
  int64_t used_rows_ = 0, all_rows_ = 0;
};

}  // namespace dogstar
