#include "predictors/static_choice.h"

#include <cmath>

namespace dogstar {

const RowSet* RandomPredictor::Choose(LayerIndex layer, const RowSet& available) {
  if (density_ < 0) return nullptr;
  SplitMix64 random(seed_ + 0x9e3779b97f4a7c15 * (static_cast<uint64_t>(ToInt(layer)) + 1));
  scores_.resize(static_cast<size_t>(available.rows()));
  for (float& score : scores_) score = static_cast<float>(random.Uniform());
  TopRows(scores_, available, static_cast<int32_t>(std::floor(density_ * ffn_rows_)), &scratch_, &chosen_);
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
  if (density_ < 0) return nullptr;
  TopRows(scores_[static_cast<size_t>(ToInt(layer))], available, static_cast<int32_t>(std::floor(density_ * ffn_rows_)),
          &scratch_, &chosen_);
  return &chosen_;
}

}  // namespace dogstar
