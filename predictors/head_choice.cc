#include "predictors/head_choice.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "predictors/attribution_scores.h"
#include "predictors/density.h"

namespace dogstar {

HeadChoice::HeadChoice(int32_t layers, int32_t heads, int32_t head_dim, double density)
    : heads_(heads),
      head_dim_(head_dim),
      kept_(std::max(1, RowsLeft(density, heads))),  // as the paper counts
      scores_(static_cast<size_t>(layers), std::vector<float>(static_cast<size_t>(heads))) {}

void HeadChoice::SetScores(std::vector<std::vector<float>> scores) {
  CHECK(scores.size() == scores_.size() && scores.front().size() == static_cast<size_t>(heads_));
  scores_ = std::move(scores);
  given_ = true;
}

void HeadChoice::BeginPrompt() {
  if (given_) return;
  for (std::vector<float>& layer : scores_) std::fill(layer.begin(), layer.end(), 0.0F);
}

void HeadChoice::Observe(LayerIndex layer, std::span<const float> context, int32_t rows, int32_t stride) {
  if (given_) return;
  std::vector<float>& scores = scores_[static_cast<size_t>(ToInt(layer))];
  const auto width = static_cast<size_t>(head_dim_);
  for (int32_t row = 0; row < rows; ++row) {
    for (size_t head = 0; head < scores.size(); ++head) {
      const size_t at = static_cast<size_t>(row) * static_cast<size_t>(stride) + head * width;
      scores[head] += static_cast<float>(Norm2(context.subspan(at, width)));
    }
  }
}

std::vector<uint64_t> HeadChoice::Choose(LayerIndex layer) const {
  std::vector<uint64_t> mask(static_cast<size_t>(heads_ + 63) / 64);
  for (const int32_t head : TopUnits(scores_[static_cast<size_t>(ToInt(layer))], kept_, false)) {
    mask[static_cast<size_t>(head) / 64] |= uint64_t{1} << (head % 64);
  }
  return mask;
}

}  // namespace dogstar
