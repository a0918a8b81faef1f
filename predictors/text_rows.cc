#include "predictors/text_rows.h"

#include <bit>
#include <cmath>

#include "predictors/selection.h"

namespace dogstar {

LagPredictor::LagPredictor(std::vector<int32_t> rows, int32_t ffn_rows, int32_t refresh)
    : rows_(std::move(rows)),
      refresh_(refresh),
      layers_(rows_.size(), Layer{RowSet(ffn_rows)}),
      magnitudes_(static_cast<size_t>(ffn_rows)),
      all_(ffn_rows) {
  for (int32_t row = 0; row < ffn_rows; ++row) all_.Insert(RowIndex{row});
}

void LagPredictor::BeginPrompt() {
  for (Layer& layer : layers_) {
    layer.rows.Clear();
    layer.tokens = 0;
  }
}

void LagPredictor::ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) {
  const auto index = static_cast<size_t>(ToInt(layer));
  if (rows_[index] < 0 || tokens == 0) return;
  const auto last = z.subspan(static_cast<size_t>(tokens - 1) * static_cast<size_t>(stride));
  for (size_t j = 0; j < magnitudes_.size(); ++j) magnitudes_[j] = std::fabs(last[j]);
  TopRows(magnitudes_, all_, rows_[index], &scratch_, &layers_[index].rows);
}

void LagPredictor::ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t) {
  Layer& at = layers_[static_cast<size_t>(ToInt(layer))];
  if (++at.tokens % refresh_ != 0) return;
  at.rows.Clear();
  for (size_t word = 0; word < mask.size(); ++word) {
    for (uint64_t bits = mask[word]; bits != 0; bits &= bits - 1) {
      at.rows.Insert(RowIndex{static_cast<int32_t>(word * 64) + std::countr_zero(bits)});
    }
  }
}

const RowSet* LagPredictor::Choose(LayerIndex layer, const RowSet& available) {
  const auto index = static_cast<size_t>(ToInt(layer));
  if (rows_[index] < 0) return nullptr;
  chosen_.Reset(available.rows());
  for (int32_t row = 0; row < available.rows(); ++row) {
    if (layers_[index].rows.Contains(RowIndex{row}) && available.Contains(RowIndex{row})) chosen_.Insert(RowIndex{row});
  }
  return &chosen_;
}

void OraclePredictor::SetRowNorms(LayerIndex layer, std::span<const float>, std::span<const float> down) {
  down_norms_[static_cast<size_t>(ToInt(layer))].assign(down.begin(), down.end());
}

void OraclePredictor::ShowFullValues(LayerIndex layer, std::span<const float> z) {
  const auto index = static_cast<size_t>(ToInt(layer));
  std::vector<float>& scores = scores_[index];
  for (size_t row = 0; row < scores.size(); ++row) scores[row] = std::fabs(z[row]) * down_norms_[index][row];
}

const RowSet* OraclePredictor::Choose(LayerIndex layer, const RowSet& available) {
  const auto index = static_cast<size_t>(ToInt(layer));
  if (rows_[index] < 0) return nullptr;
  TopRows(scores_[index], available, rows_[index], &scratch_, &chosen_);
  return &chosen_;
}

}  // namespace dogstar
