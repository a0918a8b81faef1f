#include "predictors/token_choice.h"

#include <cmath>

#include "predictors/density.h"
#include "predictors/statistics.h"

namespace dogstar {
namespace {

// Rows 0.7, down parts 0.4: the best of its bytes in the measurements that the design rests on.
constexpr double kSecondShare = 4.0 / 7;

}  // namespace

TokenChoicePredictor::TokenChoicePredictor(Kind kind, std::string_view name, const Options& options)
    : kind_(kind),
      name_(name),
      chooses_(options.density >= 0 || !options.layer_densities.empty()),
      choices_(static_cast<size_t>(options.layers)),
      tokens_(choices_.size()),
      up_squares_(choices_.size()),
      weights_(choices_.size()),
      down_norm_(choices_.size()) {
  if (options.statistics != nullptr) {
    for (const LayerStatistics& layer : options.statistics->layers) calibrated_.push_back(layer.up_rms);
  }
  const bool by_value = kind == Kind::kMagnitude || kind == Kind::kContribution;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const double density = options.layer_densities.empty() ? options.density : options.layer_densities[i];
    RowChoice& choice = choices_[i];
    choice.score = by_value ? RowScore::kValue : RowScore::kGate;
    choice.shared = options.shared;
    choice.count = kind == Kind::kGate ? RowsLeft(density, options.ffn_rows) : RowsOf(density, options.ffn_rows);
    if (kind != Kind::kTwoStage) continue;
    const double value_density = options.value_density >= 0 ? options.value_density : kSecondShare * density;
    choice.value_count = RowsOf(value_density, options.ffn_rows);
  }
}

// Until a prompt was observed every row's up counts alike.
void TokenChoicePredictor::SetRowNorms(LayerIndex layer, std::span<const float>, std::span<const float> down) {
  const auto at = static_cast<size_t>(ToInt(layer));
  RowChoice& choice = choices_[at];
  down_norm_[at].assign(down.begin(), down.end());
  weights_[at] = down_norm_[at];
  if (!calibrated_.empty() && kind_ != Kind::kContribution) {
    for (size_t i = 0; i < down.size(); ++i) weights_[at][i] *= calibrated_[at][i];
  }
  up_squares_[at].assign(down.size(), 0.0F);
  choice.weight = weights_[at].data();
  if (kind_ == Kind::kTwoStage) choice.value_weight = down_norm_[at].data();
}

void TokenChoicePredictor::ObserveUp(LayerIndex layer, std::span<const float> up, int32_t tokens, int32_t stride) {
  const auto at = static_cast<size_t>(ToInt(layer));
  std::vector<float>& squares = up_squares_[at];
  for (int32_t t = 0; t < tokens; ++t) {
    const auto row = up.subspan(static_cast<size_t>(t) * static_cast<size_t>(stride), squares.size());
    for (size_t i = 0; i < row.size(); ++i) squares[i] += row[i] * row[i];
  }
  tokens_[at] += tokens;
}

void TokenChoicePredictor::EndPrompt() {
  if (!observes_up()) return;
  for (size_t layer = 0; layer < weights_.size(); ++layer) {
    if (tokens_[layer] == 0) continue;
    const float share = 1.0F / static_cast<float>(tokens_[layer]);
    for (size_t i = 0; i < weights_[layer].size(); ++i) {
      weights_[layer][i] = std::sqrt(up_squares_[layer][i] * share) * down_norm_[layer][i];
    }
  }
}

}  // namespace dogstar
