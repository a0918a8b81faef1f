#include "runtime/row_scores.h"

#include <algorithm>
#include <cmath>

namespace dogstar {

RowScores::RowScores(int32_t layers, int32_t ffn_rows, const Options& options)
    : decay_(static_cast<float>(std::exp2(-1 / options.half_life))),
      most_uses_(1 / (1 - std::exp2(-1 / options.half_life))),
      prior_(options.prior),
      layers_(static_cast<size_t>(layers), std::vector<float>(static_cast<size_t>(ffn_rows))) {}

// The expected share falls in a line: the hottest 30% of rows have 43% of the top 30%'s uses, the rest 57% (two models,
// 2048 tokens each, ranked on other text), which a line from 1.62 to 0.38 of the mean gives.
void RowScores::BeginPrompt() {
  constexpr double kFirst = 1.62, kLast = 0.38;
  for (std::vector<float>& layer : layers_) {
    const double rows = static_cast<double>(layer.size());
    for (size_t i = 0; i < layer.size(); ++i) {
      layer[i] = static_cast<float>(prior_ / rows * (kFirst - (kFirst - kLast) * static_cast<double>(i) / rows));
    }
  }
}

void RowScores::AddPrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) {
  constexpr float kEnergyEpsilon = 1e-30F;  // a silent layer divides by nothing
  const std::span<float> scores = Mutable(layer);
  for (int32_t t = 0; t < tokens; ++t) {
    const auto values = z.subspan(static_cast<size_t>(t) * static_cast<size_t>(stride), scores.size());
    float energy = kEnergyEpsilon;
    for (float value : values) energy += value * value;
    const float inverse = 1.0F / energy;
    for (size_t i = 0; i < scores.size(); ++i) scores[i] += values[i] * values[i] * inverse;
  }
}

// A long prompt counts no more than a long text.
void RowScores::BeginText(LayerIndex layer, int32_t prompt_tokens, int32_t top_rows) {
  const double tokens = prior_ + prompt_tokens;
  const float scale = static_cast<float>(std::min(1.0, most_uses_ / std::max(tokens, 1.0)) * top_rows);
  for (float& score : Mutable(layer)) score *= scale;
}

void RowScores::Restore(LayerIndex layer, RowIndex first, std::span<const float> scores) {
  std::copy(scores.begin(), scores.end(), Mutable(layer).begin() + ToInt(first));
}

void RowScores::Decay(LayerIndex layer) {
  for (float& score : Mutable(layer)) score *= decay_;
}

}  // namespace dogstar
