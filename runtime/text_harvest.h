// TextHarvest: the overlay follows the running text. A full pass over a cycle's tokens computes every FFN row, so it
// knows which rows each token wanted; once the corrector has judged the tokens, those of the verified ones are the
// requests that the overlay's policy sees, token by token, and rows that were missed are wanted.
//
// A token's top rows: the k with the largest |z| in its layer, k the draft's share of the rows; each counts by its
// share of the layer's energy (RowScores). (|z| times the norm of the row's down column ranks no better, measured on
// two models, and the norms are not at hand.)
//
// Time: pages stream before the pass' tokens are judged, and a draft that is rejected must not count. So a wanted row
// comes in when its page streams by in the next pass: decided by verified tokens only, without a look at values that
// are still incomplete, one cycle late. That costs little: half of a token's rows are the last one's too, but what pays
// is what many tokens share. A row that no pass brought in before new tokens are judged is wanted no longer.
//
// Threads: one. Memory: allocated once; TableBytes says how much.
#pragma once

#include <cstdint>
#include <vector>

#include "memory/access_trace.h"
#include "memory/overlay.h"
#include "memory/weights.h"
#include "predictors/predictor.h"
#include "runtime/forward.h"
#include "runtime/row_scores.h"
#include "runtime/top_rows.h"

namespace dogstar {

class TextHarvest : public PassObserver {
 public:
  struct Options {
    double density = -1;                 // of drafts; < 0: what is resident
    int32_t pass_rows = 0;               // rows of an observed pass, at most
    AccessRecorder* accesses = nullptr;  // hears of the same requests; may be null
  };
  // overlay may be null: then the predictor alone follows the text.
  TextHarvest(const Weights* weights, Predictor* predictor, RowScores* scores, Overlay* overlay,
              const Options& options);
  // Bytes it takes, at most.
  static uint64_t TableBytes(int32_t layers, int32_t ffn_rows, int32_t pass_rows, double density);

  // The prompt is over: the overlay's rows and scores are the prompt's.
  void BeginText(int32_t prompt_tokens);
  // These rows of the observed pass are tokens of the text, in their order.
  void EndPass(std::span<const int32_t> verified_rows);

  Reads reads() const override { return Reads::kLayers; }
  void OnStreamedPages(LayerIndex layer, std::span<const FfnPageRef> pages, std::span<const float> z, int32_t rows,
                       int32_t stride) override;
  void OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) override;

 private:
  struct Layer {
    int32_t prefix_rows = 0;
    int32_t top_rows = 0;
    RowSet wanted;
    std::vector<uint64_t> masks;  // [pass_rows, words]: top rows of each row of the pass
    std::vector<uint8_t> shares;  // [pass_rows, top_rows]: their energy's share, EncodeShare, in the order of rows
  };
  std::span<uint64_t> MaskOf(Layer* layer, int32_t row) {
    return std::span(layer->masks).subspan(static_cast<size_t>(row) * words_, words_);
  }
  void Replay(LayerIndex index, int32_t pass_row);
  void Record(LayerIndex index, int32_t pass_row);

  Predictor* predictor_;
  RowScores* scores_;
  Overlay* overlay_;
  AccessRecorder* accesses_;
  int32_t ffn_rows_ = 0;
  size_t words_ = 0;  // of a mask
  std::vector<Layer> layers_;
  TopRowsFinder finder_;
};

}  // namespace dogstar
