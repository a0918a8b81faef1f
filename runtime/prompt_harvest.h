// PromptHarvest: what is taken from the full passes over a prompt: the predictor's statistic, the scores of rows, and
// the rows that deserve a place in the overlay, copied as they stream by (no read is made for them).
//
// A streamed page is judged when it passes, before the layer's scores are complete: by the prompt pieces before this
// one, plus this piece's z^2 over the energy of the rows seen so far. Resident pages are the most important and come
// first, so most of the energy is known by then.
#pragma once

#include <vector>

#include "memory/overlay.h"
#include "predictors/head_choice.h"
#include "predictors/predictor.h"
#include "runtime/forward.h"
#include "runtime/row_scores.h"

namespace dogstar {

class PromptHarvest : public PassObserver {
 public:
  // Without `reads_values` rows come in by the scores as they are: by what stood there before the prompt. scores and
  // overlay may be null, both; so may heads.
  PromptHarvest(Predictor* predictor, RowScores* scores, Overlay* overlay, HeadChoice* heads, bool reads_values)
      : predictor_(predictor), row_scores_(scores), overlay_(overlay), heads_(heads), reads_values_(reads_values) {}

  // Before each piece of the prompt: rows are chosen anew, by all pieces so far.
  void BeginPiece();
  Reads reads() const override {
    if (!reads_values_) return Reads::kNothing;
    return overlay_ != nullptr ? Reads::kPagesAndLayers : Reads::kLayers;
  }
  bool reads_up() const override { return reads_values_ && predictor_->observes_up(); }
  void OnLayerUp(LayerIndex layer, std::span<const float> up, int32_t rows, int32_t stride) override {
    predictor_->ObserveUp(layer, up, rows, stride);
  }
  bool reads_contexts() const override { return heads_ != nullptr && heads_->observes_prompt(); }
  void OnContexts(LayerIndex layer, std::span<const float> contexts, int32_t rows, int32_t stride) override {
    heads_->Observe(layer, contexts, rows, stride);
  }
  void OnStreamedPages(LayerIndex layer, std::span<const FfnPageRef> pages, std::span<const float> z, int32_t rows,
                       int32_t stride) override;
  void OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) override;

 private:
  Predictor* predictor_;
  RowScores* row_scores_;
  Overlay* overlay_;
  HeadChoice* heads_;
  bool reads_values_;
  std::vector<float> scores_;  // of one page
};

}  // namespace dogstar
