#include "predictors/static_choice.h"

namespace dogstar {

const RowSet* RandomPredictor::Choose(LayerIndex layer, const RowSet& available) {
  const auto index = static_cast<size_t>(ToInt(layer));
  if (rows_[index] < 0) return nullptr;
  scores_.resize(static_cast<size_t>(available.rows()));
  SelectRows(Selection::kRandom, scores_, available, rows_[index], {seed_, index}, &scratch_, &chosen_);
  return &chosen_;
}

void WeightNormPredictor::SetGateNorms(LayerIndex layer, std::span<const float> gate) {
  scores_[static_cast<size_t>(ToInt(layer))].assign(gate.begin(), gate.end());
}

void WeightNormPredictor::SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float>) {
  std::vector<float>& scores = scores_[static_cast<size_t>(ToInt(layer))];
  for (size_t i = 0; i < up.size(); ++i) scores[i] *= up[i];
}

const RowSet* WeightNormPredictor::Choose(LayerIndex layer, const RowSet& available) {
  const auto index = static_cast<size_t>(ToInt(layer));
  if (rows_[index] < 0) return nullptr;
  TopRows(scores_[index], available, rows_[index], &scratch_, &chosen_);
  return &chosen_;
}

}  // namespace dogstar
