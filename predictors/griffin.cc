#include "predictors/griffin.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace dogstar {
namespace {

// Keeps a token whose FFN is silent from dividing by zero; far below any energy of a real layer.
constexpr float kEnergyEpsilon = 1e-30F;

}  // namespace

GriffinPredictor::GriffinPredictor(Options options)
    : options_(std::move(options)),
      scores_(options_.rows.size(), std::vector<float>(static_cast<size_t>(options_.ffn_rows))) {
  BeginPrompt();
}

void GriffinPredictor::BeginPrompt() {
  constexpr double kFirst = 1.62, kLast = 0.38;
  const double rows = options_.ffn_rows;
  for (std::vector<float>& layer : scores_) {
    for (size_t j = 0; j < layer.size(); ++j) {
      layer[j] =
          static_cast<float>(options_.prior / rows * (kFirst - (kFirst - kLast) * static_cast<double>(j) / rows));
    }
  }
}

void GriffinPredictor::ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) {
  std::vector<float>& scores = scores_[static_cast<size_t>(ToInt(layer))];
  for (int32_t token = 0; token < tokens; ++token) {
    const auto row =
        z.subspan(static_cast<size_t>(token) * static_cast<size_t>(stride), static_cast<size_t>(options_.ffn_rows));
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
  const auto index = static_cast<size_t>(ToInt(layer));
  if (options_.rows[index] < 0) return nullptr;
  std::span<const float> scores = scores_[index];
  if (options_.selection == Selection::kSample || options_.selection == Selection::kTopKSample) {
    weights_.resize(scores.size());
    std::transform(scores.begin(), scores.end(), weights_.begin(), [](float score) { return std::sqrt(score); });
    scores = weights_;
  }
  SelectRows(options_.selection, scores, available, options_.rows[index], {options_.seed, index}, &scratch_, &chosen_);
  return &chosen_;
}

}  // namespace dogstar
