#include "predictors/token_choice.h"

#include "predictors/density.h"

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
      weights_(choices_.size()),
      down_norm_(choices_.size()) {
  const bool by_value = kind == Kind::kMagnitude || kind == Kind::kContribution;
  for (size_t i = 0; i < choices_.size(); ++i) {
    const double density = options.layer_densities.empty() ? options.density : options.layer_densities[i];
    RowChoice& choice = choices_[i];
    choice.score = by_value ? RowScore::kValue : RowScore::kGate;
    choice.shared = options.shared;
    choice.count = RowsLeft(density, options.ffn_rows);
    if (kind != Kind::kTwoStage) continue;
    const double value_density = options.value_density >= 0 ? options.value_density : kSecondShare * density;
    choice.value_count = RowsLeft(value_density, options.ffn_rows);
  }
}

void TokenChoicePredictor::SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) {
  const auto at = static_cast<size_t>(ToInt(layer));
  RowChoice& choice = choices_[at];
  if (kind_ == Kind::kContribution) {
    weights_[at].assign(down.begin(), down.end());
  } else {
    weights_[at].resize(up.size());
    for (size_t i = 0; i < up.size(); ++i) weights_[at][i] = up[i] * down[i];
  }
  choice.weight = weights_[at].data();
  if (kind_ != Kind::kTwoStage) return;
  down_norm_[at].assign(down.begin(), down.end());
  choice.value_weight = down_norm_[at].data();
}

}  // namespace dogstar
