// Predictor: which FFN rows a draft uses.
//
// A predictor says what it would like; what it gets are rows that are resident, because a draft that waits for the
// disk costs as much as a full pass. The engine intersects the wish with what tier 0 holds and reports both.
//
// Threads: one.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/row_set.h"
#include "base/status.h"
#include "base/types.h"
#include "device/backend.h"

namespace dogstar {

struct LowRankMap;
struct Statistics;

class Predictor {
 public:
  virtual ~Predictor() = default;

  virtual std::string_view name() const = 0;
  // True when full passes over the prompt must show their activations.
  virtual bool observes_prompt() const { return false; }
  // True when its choice is the last tokens': ObserveToken must be called.
  virtual bool follows_text() const { return false; }
  // Rows that it takes of a token's, where it follows the text; < 0: all.
  virtual int32_t RowsOfToken(LayerIndex layer) const {
    static_cast<void>(layer);
    return -1;
  }

  // A new prompt: what was learned from the last one is dropped.
  virtual void BeginPrompt() {}
  // z of a layer for `tokens` prompt positions: [tokens, stride], RowIndex order, the first ffn_rows columns.
  virtual void ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) {
    static_cast<void>(layer), static_cast<void>(z), static_cast<void>(tokens), static_cast<void>(stride);
  }
  // True when it wants to see up x of the prompt as well, after each ObservePrompt; the same shape.
  virtual bool observes_up() const { return false; }
  virtual void ObserveUp(LayerIndex layer, std::span<const float> up, int32_t tokens, int32_t stride) {
    static_cast<void>(layer), static_cast<void>(up), static_cast<void>(tokens), static_cast<void>(stride);
  }
  virtual void EndPrompt() {}

  // A token of the text after the prompt: the top_rows rows of a layer that mattered most to it, bit i of word i / 64.
  virtual void ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t top_rows) {
    static_cast<void>(layer), static_cast<void>(mask), static_cast<void>(top_rows);
  }
  // Rows for the next drafts out of `available`. nullptr: all that are available.
  virtual const RowSet* Choose(LayerIndex layer, const RowSet& available) {
    static_cast<void>(layer), static_cast<void>(available);
    return nullptr;
  }

  // Rows of what Choose gives, where that holds for a whole text and is not the first rows in the file's order; < 0: it
  // does not.
  virtual int32_t ListedRows(LayerIndex layer) const {
    static_cast<void>(layer);
    return -1;
  }

  // How each token of a draft chooses among the resident rows while the layer's FFN runs; null: what Choose said serves
  // every token. The same object for the predictor's life.
  virtual const RowChoice* TokenChoice(LayerIndex layer) const {
    static_cast<void>(layer);
    return nullptr;
  }
  virtual bool chooses_by_token() const { return false; }
  // What gives the scores of a RowChoice by RowScore::kGiven, rows in RowIndex order; null for other choices.
  virtual const LowRankMap* ScoreMap(LayerIndex layer) const {
    static_cast<void>(layer);
    return nullptr;
  }

  // True when attribution of the prompt's tokens is to be given after each prompt, before Choose: scores of a layer's
  // rows, [ffn_rows], RowIndex order (runtime/prompt_attribution.h).
  virtual bool needs_prompt_attribution() const { return false; }
  virtual void SetPromptAttribution(LayerIndex layer, std::span<const float> scores) {
    static_cast<void>(layer), static_cast<void>(scores);
  }

  // Evaluation only: what no run knows, z of the full model at the position that the next draft computes. [ffn_rows]
  virtual void ShowFullValues(LayerIndex layer, std::span<const float> z) {
    static_cast<void>(layer), static_cast<void>(z);
  }
  virtual bool evaluation_only() const { return false; }

  // True when norms of rows are to be given before the first Choose or TokenChoice. [ffn_rows], RowIndex order, 0 for
  // rows that are not resident: |gate_j w| and |up_j w| (w: the weights of the FFN's input norm), |d_j|, the down
  // part's.
  virtual bool needs_row_norms() const { return false; }
  virtual void SetGateNorms(LayerIndex layer, std::span<const float> gate) {
    static_cast<void>(layer), static_cast<void>(gate);
  }
  virtual void SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) {
    static_cast<void>(layer), static_cast<void>(up), static_cast<void>(down);
  }
};

struct PredictorOptions {
  std::string name = "resident";  // see PredictorNames
  // Share of rows a draft uses; < 0: every row that is available.
  double density = -1;
  std::vector<double> layer_densities;  // of each layer instead of `density`; empty: the same everywhere
  double value_density = -1;            // two-stage: share of rows whose down part is used; < 0: 4/7 of density
  std::string selection = "topk";       // griffin: SelectionNames
  double prior = 0;                     // griffin: tokens that stand before the prompt
  int32_t refresh = 1;                  // lag: tokens between choices
  bool shared = false;                  // by token: one set for all tokens of a pass
  uint64_t seed = 1;                    // random, and griffin's draws
  // Of the model, rows in RowIndex order (InRowOrder); null: none. Must outlive the predictor's making only.
  const Statistics* statistics = nullptr;
};

// "resident": the rows that tier 0 holds anyway, in the packed file's order of importance.
// "griffin":  per prompt, from its own activations (references: Sirius' CSparse), by a Selection.
// "lag":      the last verified token's.
// "dense":    all rows; drafts then equal full passes.
// "gate", "gate-weighted", "two-stage", "magnitude", "contribution": by token (token_choice.h).
// "hot", "attribution", "threshold", "low-rank": by statistics (calibrated.h).
// "prompt-attribution": the rows of the largest attribution along the prompt (ranked.h).
// "random", "weight-norm": for comparison (static_choice.h); "oracle": for evaluation (text_rows.h).
std::span<const std::string_view> PredictorNames();
absl::StatusOr<std::unique_ptr<Predictor>> NewPredictor(const PredictorOptions& options, int32_t layers,
                                                        int32_t ffn_rows);

}  // namespace dogstar
