// Griffin (Sirius' coarse-grained sparsity, CSparse): the rows that mattered for the prompt serve its whole reply.
//
//   s[j] = sum over prompt positions t of (z[t, j] / ||z[t, :]||)^2      (arXiv 2409.03856, section on CSparse;
//   the square root of the published score does not change the ranking), the k = floor(density * ffn_rows) largest;
//   equal scores: the lower row first. Sums are additive, so a prompt may come in pieces.
#pragma once

#include <vector>

#include "predictors/predictor.h"

namespace dogstar {

class GriffinPredictor : public Predictor {
 public:
  GriffinPredictor(double density, int32_t layers, int32_t ffn_rows);

  std::string_view name() const override { return "griffin"; }
  bool observes_prompt() const override { return true; }
  void BeginPrompt() override;
  void ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) override;
  // The token counts as one of the prompt whose energy lies evenly in these rows.
  void ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t top_rows) override;
  // s of a layer, [ffn_rows].
  std::span<const float> Scores(LayerIndex layer) const;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  double density_;
  int32_t ffn_rows_;
  std::vector<std::vector<float>> scores_;  // [layer][row]
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

// The k rows of `available` with the largest scores; equal scores: the lower row. k larger than the set: all of it.
// scratch is the caller's so that choosing again allocates nothing.
void TopRows(std::span<const float> scores, const RowSet& available, int32_t k, std::vector<int32_t>* scratch,
             RowSet* chosen);

}  // namespace dogstar
