// RowUse: what drafts use of a model's FFN rows along a given text, beside what the full model's own values would
// choose.
//
// It watches a comparison (Generator::CompareDrafts): the full pass over a piece of text shows z of every row; each
// draft then shows the rows that it used. Of these:
//   recall    share that is also among the rows of largest |z_j| |d_j| of the full model, as many of them
//   touched   bytes that a token reads
//   resident  bytes that the tokens of a piece read between them: what must be in memory so that a cycle of that many
//             drafts reads no disk
//   fetched   bytes that a token reads and its neighbour did not: what each draft would wait for if no more were kept
// Bytes are those of FFN rows, each with its share of the down-scale table.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "memory/weights.h"
#include "predictors/predictor.h"
#include "runtime/forward.h"
#include "runtime/generator.h"
#include "runtime/top_rows.h"

namespace dogstar {

struct RowUseTotals {
  int64_t tokens = 0, pieces = 0;
  double used = 0;                                                  // sum over tokens of rows used / rows
  double recall = 0;                                                // sum over tokens of their mean over layers
  double touched_bytes = 0, resident_bytes = 0, fetched_bytes = 0;  // sums over tokens; over pieces
  double fetches = 0;                                               // tokens that had a neighbour
  double ffn_bytes = 0;                                             // of the model

  double mean_used() const { return tokens > 0 ? used / static_cast<double>(tokens) : 0; }
  double mean_recall() const { return tokens > 0 ? recall / static_cast<double>(tokens) : 0; }
  double mean_touched() const { return tokens > 0 ? touched_bytes / static_cast<double>(tokens) : 0; }
  double mean_resident() const { return pieces > 0 ? resident_bytes / static_cast<double>(pieces) : 0; }
  double mean_fetched() const { return fetches > 0 ? fetched_bytes / fetches : 0; }
};

class RowUse : public PassObserver, public DraftObserver {
 public:
  // piece_rows: most rows of a full pass. predictor may be null; one that follows the text or sees the full model's
  // values is shown them.
  static absl::StatusOr<std::unique_ptr<RowUse>> Create(const Weights& weights, int threads, int32_t piece_rows,
                                                        Backend* backend, Predictor* predictor);

  // For CompareDrafts; this object outlives the call.
  CompareHooks Hooks();
  RowUseTotals Totals();

  Reads reads() const override { return Reads::kLayers; }
  void OnStreamedPages(LayerIndex, std::span<const FfnPageRef>, std::span<const float>, int32_t, int32_t) override {}
  void OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) override;
  void OnDraftRows(LayerIndex layer, std::span<const uint64_t> masks, int32_t rows, const FfnUse& use) override;

 private:
  RowUse(int32_t ffn_rows, Predictor* predictor);
  struct Layer {
    double gate_bytes = 0, up_bytes = 0, down_bytes = 0;  // of a row
    std::vector<float> down_norms;                        // [ffn_rows]
    std::vector<float> values;                            // [piece rows, ffn_rows] z of the full model
    std::vector<float> before;                            // [ffn_rows] z of the row before the piece
    std::vector<uint64_t> piece, neighbour;               // rows used by the piece's tokens, by the last one drafted
  };
  void BeforeDraft(int32_t row);
  void EndPiece();
  std::span<const float> ValuesOf(const Layer& layer, int32_t row) const {
    return std::span(layer.values).subspan(static_cast<size_t>(row) * rows_, rows_);
  }
  double Bytes(const Layer& layer, std::span<const uint64_t> mask) const;

  Predictor* predictor_;
  size_t rows_;   // of a layer
  size_t words_;  // of a mask
  int32_t piece_rows_ = 0, draft_row_ = 0;
  bool by_gates_ = false, by_values_ = false;  // tokens choose after all gates, after all gates and ups
  bool piece_open_ = false, has_before_ = false;
  std::vector<Layer> layers_;
  RowUseTotals totals_;
  TopRowsFinder finder_;
  std::vector<float> scores_;
  std::vector<uint64_t> best_;
};

}  // namespace dogstar
