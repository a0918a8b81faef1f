#include "runtime/prompt_harvest.h"

#include <algorithm>

namespace dogstar {

void PromptHarvest::BeginPiece() {
  if (overlay_ != nullptr) overlay_->Clear();
}

void PromptHarvest::OnStreamedPages(LayerIndex layer, std::span<const FfnPageRef> pages, std::span<const float> z,
                                    int32_t rows, int32_t stride) {
  if (overlay_ == nullptr) return;
  const std::span<const float> before = row_scores_->Of(layer);
  if (!reads_values_) {
    for (const FfnPageRef& page : pages) {
      overlay_->Offer(layer, page,
                      before.subspan(static_cast<size_t>(page.first_row), static_cast<size_t>(page.row_count)));
    }
    return;
  }
  const int32_t seen = pages.back().first_row + pages.back().row_count;
  std::vector<float> inverse_energy(static_cast<size_t>(rows));
  for (int32_t t = 0; t < rows; ++t) {
    float energy = 1e-30F;  // a silent layer divides by nothing
    for (float value : z.subspan(static_cast<size_t>(t) * static_cast<size_t>(stride), static_cast<size_t>(seen))) {
      energy += value * value;
    }
    inverse_energy[static_cast<size_t>(t)] = 1.0F / energy;
  }
  for (const FfnPageRef& page : pages) {
    const size_t first = static_cast<size_t>(page.first_row), count = static_cast<size_t>(page.row_count);
    scores_.assign(before.begin() + static_cast<ptrdiff_t>(first),
                   before.begin() + static_cast<ptrdiff_t>(first + count));
    for (int32_t t = 0; t < rows; ++t) {
      const auto values = z.subspan(static_cast<size_t>(t) * static_cast<size_t>(stride) + first, count);
      for (size_t i = 0; i < count; ++i) scores_[i] += values[i] * values[i] * inverse_energy[static_cast<size_t>(t)];
    }
    overlay_->Offer(layer, page, scores_);
  }
}

void PromptHarvest::OnLayer(LayerIndex layer, std::span<const float> z, int32_t rows, int32_t stride) {
  predictor_->ObservePrompt(layer, z, rows, stride);
  if (row_scores_ != nullptr) row_scores_->AddPrompt(layer, z, rows, stride);
}

}  // namespace dogstar
