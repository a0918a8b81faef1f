// Griffin (Sirius' coarse-grained sparsity, CSparse): the rows that mattered for the prompt serve its whole reply.
//
//   s[j] = sum over prompt positions t of (z[t, j] / ||z[t, :]||)^2      (arXiv 2409.03856, section on CSparse), the
//   k = floor(density * ffn_rows) largest; equal scores: the lower row first. Sums are additive, so a prompt may come
//   in pieces. The published score is the square root, which does not change the ranking; where rows are drawn
//   (predictors/selection.h) its value is their weight.
//   A prior of p tokens begins s as if p tokens had used rows as the packed file's order, which is one of importance,
//   lets expect: shares in a line from 1.62 to 0.38 of the mean (runtime/row_scores.cc has where it comes from).
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "predictors/predictor.h"
#include "predictors/selection.h"

namespace dogstar {

class GriffinPredictor : public Predictor {
 public:
  struct Options {
    std::vector<int32_t> rows;  // [layers] to choose; < 0: all
    int32_t ffn_rows = 0;
    Selection selection = Selection::kTopK;
    uint64_t seed = 0;
    double prior = 0;  // tokens
  };
  explicit GriffinPredictor(Options options);

  std::string_view name() const override { return "griffin"; }
  bool observes_prompt() const override { return true; }
  int32_t ListedRows(LayerIndex layer) const override { return options_.rows[static_cast<size_t>(ToInt(layer))]; }
  void BeginPrompt() override;
  void ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) override;
  // The token counts as one of the prompt whose energy lies evenly in these rows.
  void ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t top_rows) override;
  // s of a layer, [ffn_rows].
  std::span<const float> Scores(LayerIndex layer) const;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  Options options_;
  std::vector<std::vector<float>> scores_;  // [layer][row]
  std::vector<float> weights_;              // square roots, of one layer
  SelectionScratch scratch_;
  RowSet chosen_;
};

}  // namespace dogstar
