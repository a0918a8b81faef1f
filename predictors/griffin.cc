#include "predictors/griffin.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dogstar {
namespace {

// Keeps a token whose FFN is silent from dividing by zero; far below any energy of a real layer.
constexpr float kEnergyEpsilon = 1e-30F;

}  // namespace

GriffinPredictor::GriffinPredictor(double density, int32_t layers, int32_t ffn_rows)
    : density_(density),
      ffn_rows_(ffn_rows),
      scores_(static_cast<size_t>(layers), std::vector<float>(static_cast<size_t>(ffn_rows))) {}

void GriffinPredictor::BeginPrompt() {
  for (std::vector<float>& layer : scores_) std::fill(layer.begin(), layer.end(), 0.0F);
}

void GriffinPredictor::ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) {
  std::vector<float>& scores = scores_[static_cast<size_t>(ToInt(layer))];
  for (int32_t token = 0; token < tokens; ++token) {
    const auto row =
        z.subspan(static_cast<size_t>(token) * static_cast<size_t>(stride), static_cast<size_t>(ffn_rows_));
    float energy = kEnergyEpsilon;
    for (float value : row) energy += value * value;
    const float inverse = 1.0F / energy;
    for (size_t j = 0; j < row.size(); ++j) scores[j] += row[j] * row[j] * inverse;
  }
}

void GriffinPredictor::ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t top_rows) {
  std::vector<float>& scores = scores_[static_cast<size_t>(ToInt(layer))];
  const float share = 1.0F / static_cast<float>(top_rows);
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      scores[word * 64 + static_cast<size_t>(std::countr_zero(bits))] += share;
    }
  }
}

std::span<const float> GriffinPredictor::Scores(LayerIndex layer) const {
  return scores_[static_cast<size_t>(ToInt(layer))];
}

const RowSet* GriffinPredictor::Choose(LayerIndex layer, const RowSet& available) {
  if (density_ < 0) return nullptr;
  TopRows(Scores(layer), available, static_cast<int32_t>(std::floor(density_ * ffn_rows_)), &scratch_, &chosen_);
  return &chosen_;
}

void TopRows(std::span<const float> scores, const RowSet& available, int32_t k, std::vector<int32_t>* scratch,
             RowSet* chosen) {
  std::vector<int32_t>& order = *scratch;
  order.clear();
  for (int32_t row = 0; row < available.rows(); ++row) {
    if (available.Contains(RowIndex{row})) order.push_back(row);
  }
  k = std::clamp(k, 0, static_cast<int32_t>(order.size()));
  const auto better = [&](int32_t a, int32_t b) {
    const float sa = scores[static_cast<size_t>(a)], sb = scores[static_cast<size_t>(b)];
    return sa != sb ? sa > sb : a < b;
  };
  std::nth_element(order.begin(), order.begin() + k, order.end(), better);
  chosen->Reset(available.rows());
  for (int32_t i = 0; i < k; ++i) chosen->Insert(RowIndex{order[static_cast<size_t>(i)]});
}

}  // namespace dogstar
