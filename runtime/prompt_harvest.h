// PromptHarvest: what a prompt-level predictor takes from the full passes over the prompt: its statistic, and the rows
// that deserve a place in the overlay, copied as they stream by (no read is made for them).
//
// A streamed page is judged when it passes, before the layer's statistic is complete: by the prompt pieces before this
// one, plus this piece's z^2 over the energy of the rows seen so far. Resident pages are the most important and come
// first, so most of the energy is known by then.
#pragma once

#include <vector>

#include "memory/overlay.h"
#include "predictors/predictor.h"
#include "runtime/forward.h"

namespace dogstar {

class PromptHarvest : public PassObserver {
 public:
  // overlay may be null.
  PromptHarvest(Predictor* predictor, Overlay* overlay) : predictor_(predictor), overlay_(overlay) {}

  // Before each piece of the prompt: rows are chosen anew, by all pieces so far.
  void BeginPiece();
  void OnStreamedPages(LayerIndex layer, std::span<const FfnPageRef> pages, std::span<const float> z, int32_t rows,
                       int32_t stride) override;
  void OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) override;

 private:
  Predictor* predictor_;
  Overlay* overlay_;
  std::vector<float> scores_;  // of one page
};

}  // namespace dogstar
