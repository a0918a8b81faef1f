#include "predictors/token_choice.h"

#include <cmath>

namespace dogstar {
namespace {

// Rows 0.7, down parts 0.4: the best of its bytes in the measurements that the design rests on.
constexpr double kSecondShare = 4.0 / 7;

}  // namespace

TokenChoicePredictor::TokenChoicePredictor(Kind kind, std::string_view name, double density, double value_density,
                                           int32_t layers, int32_t ffn_rows)
    : kind_(kind),
      name_(name),
      density_(density),
      choices_(static_cast<size_t>(layers)),
      weights_(static_cast<size_t>(layers)),
      down_norm_(static_cast<size_t>(layers)) {
  const auto rows_of = [&](double share) { return static_cast<int32_t>(std::floor(share * ffn_rows)); };
  for (RowChoice& choice : choices_) {
    const bool by_value = kind == Kind::kMagnitude || kind == Kind::kContribution;
    choice.score = by_value ? RowScore::kValue : RowScore::kGate;
    choice.count = rows_of(std::max(density, 0.0));
    if (kind == Kind::kTwoStage) {
      choice.value_count = rows_of(value_density >= 0 ? value_density : kSecondShare * std::max(density, 0.0));
    }
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
