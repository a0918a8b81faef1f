#include "runtime/row_use.h"

#include <algorithm>
#include <bit>
#include <cmath>

#include "base/panel.h"
#include "base/thread_pool.h"
#include "runtime/row_norms.h"

namespace dogstar {
namespace {

int32_t Count(std::span<const uint64_t> mask) {
  int32_t count = 0;
  for (const uint64_t word : mask) count += std::popcount(word);
  return count;
}

// Of a row's down part, its share of the layer's table of scales included.
double DownRowBytes(const FfnPageLayout& layout) {
  const double panels = (layout.dim + kPanelRows - 1) / kPanelRows;
  return static_cast<double>(layout.down_panel_bytes) * panels / layout.page_rows +
         static_cast<double>(layout.down_table_bytes()) / layout.ffn_rows;
}

}  // namespace

RowUse::RowUse(int32_t ffn_rows, Predictor* predictor)
    : predictor_(predictor),
      rows_(static_cast<size_t>(ffn_rows)),
      words_((rows_ + 63) / 64),
      finder_(ffn_rows),
      scores_(rows_),
      best_(words_) {}

absl::StatusOr<std::unique_ptr<RowUse>> RowUse::Create(const Weights& weights, int threads, int32_t piece_rows,
                                                       Backend* backend, Predictor* predictor) {
  auto use = std::unique_ptr<RowUse>(new RowUse(weights.ffn(LayerIndex{0}).layer->layout.ffn_rows, predictor));
  const auto rows = static_cast<double>(use->rows_);
  ThreadPool pool(threads);
  for (int32_t i = 0; i < weights.layer_count(); ++i) {
    const FfnPageLayout& layout = weights.ffn(LayerIndex{i}).layer->layout;
    Layer& layer = use->layers_.emplace_back();
    layer.gate_bytes = static_cast<double>(RowBytes(layout.gate_type, layout.dim));
    layer.up_bytes = static_cast<double>(RowBytes(layout.up_type, layout.dim));
    layer.down_bytes = DownRowBytes(layout);
    ASSIGN_OR_RETURN(RowNorms norms, NormsOfLayer(weights, LayerIndex{i}, backend, &pool));
    layer.down_norms = std::move(norms.down);
    layer.values.resize(static_cast<size_t>(piece_rows) * use->rows_);
    layer.before.resize(use->rows_);
    layer.piece.resize(use->words_);
    layer.neighbour.resize(use->words_);
    use->totals_.ffn_bytes += rows * (layer.gate_bytes + layer.up_bytes + layer.down_bytes);
  }
  return use;
}

CompareHooks RowUse::Hooks() {
  return {this, [this](int32_t row) { BeforeDraft(row); }};
}

RowUseTotals RowUse::Totals() {
  EndPiece();
  return totals_;
}

void RowUse::OnLayer(LayerIndex index, std::span<const float> z, int32_t rows, int32_t stride) {
  if (index == LayerIndex{0}) EndPiece();
  Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  for (int32_t row = 0; row < rows; ++row) {
    const auto from = z.subspan(static_cast<size_t>(row) * static_cast<size_t>(stride), rows_);
    std::copy(from.begin(), from.end(),
              layer.values.begin() + static_cast<ptrdiff_t>(static_cast<size_t>(row) * rows_));
  }
  piece_rows_ = rows;
}

// Bytes of a piece's rows go to the totals, its last row stays for the next piece.
void RowUse::EndPiece() {
  if (!piece_open_) return;
  for (Layer& layer : layers_) {
    totals_.resident_bytes += Bytes(layer, layer.piece);
    if (by_gates_) totals_.resident_bytes += static_cast<double>(rows_) * layer.gate_bytes;
    if (by_values_) totals_.resident_bytes += static_cast<double>(rows_) * layer.up_bytes;
    const std::span<const float> last = ValuesOf(layer, piece_rows_ - 1);
    std::copy(last.begin(), last.end(), layer.before.begin());
    std::fill(layer.piece.begin(), layer.piece.end(), 0);
  }
  ++totals_.pieces;
  piece_open_ = false;
  has_before_ = true;
}

// Parts of rows that are read because a token uses them; what is read to choose comes on top.
double RowUse::Bytes(const Layer& layer, std::span<const uint64_t> mask) const {
  double of_row = layer.down_bytes;
  if (!by_values_) of_row += layer.up_bytes;
  if (!by_gates_) of_row += layer.gate_bytes;
  return Count(mask) * of_row;
}

void RowUse::BeforeDraft(int32_t row) {
  draft_row_ = row;
  ++totals_.tokens;
  if (predictor_ == nullptr) return;
  for (size_t i = 0; i < layers_.size(); ++i) {
    Layer& layer = layers_[i];
    const LayerIndex index{static_cast<int32_t>(i)};
    predictor_->ShowFullValues(index, ValuesOf(layer, row));
    // Of the first piece's first row the token before is the prompt's; it keeps the row that was drafted last, its
    // neighbour on the other side.
    if (!predictor_->follows_text() || (row == 0 && !has_before_)) continue;
    const std::span<const float> last = row > 0 ? ValuesOf(layer, row - 1) : std::span<const float>(layer.before);
    const int32_t count = predictor_->RowsOfToken(index);
    finder_.Find(last, count >= 0 ? count : static_cast<int32_t>(rows_), best_);
    predictor_->ObserveToken(index, best_, count);
  }
}

void RowUse::OnDraftRows(LayerIndex index, std::span<const uint64_t> masks, int32_t, const FfnUse& use) {
  Layer& layer = layers_[static_cast<size_t>(ToInt(index))];
  const auto mask = masks.first(words_);
  by_gates_ = use.gate_rows > 0;
  by_values_ = by_gates_ && use.up_rows == use.gate_rows;
  const int32_t count = Count(mask);
  totals_.touched_bytes += by_gates_ ? static_cast<double>(use.gate_rows) * layer.gate_bytes +
                                           static_cast<double>(use.up_rows) * layer.up_bytes +
                                           static_cast<double>(use.down_rows) * layer.down_bytes
                                     : Bytes(layer, mask);
  const std::span<const float> z = ValuesOf(layer, draft_row_);
  for (size_t j = 0; j < rows_; ++j) scores_[j] = z[j] * layer.down_norms[j];
  finder_.Find(scores_, count, best_);
  int32_t shared = 0, fresh = 0;
  for (size_t w = 0; w < words_; ++w) {
    shared += std::popcount(mask[w] & best_[w]);
    fresh += std::popcount(mask[w] & ~layer.neighbour[w]);
    layer.piece[w] |= mask[w];
  }
  totals_.used += static_cast<double>(count) / static_cast<double>(rows_ * layers_.size());
  totals_.recall += count > 0 ? static_cast<double>(shared) / count / static_cast<double>(layers_.size()) : 0;
  if (piece_open_ && draft_row_ + 1 < piece_rows_) {
    totals_.fetched_bytes += count > 0 ? Bytes(layer, mask) * fresh / count : 0;
    if (index == LayerIndex{0}) ++totals_.fetches;
  }
  std::copy(mask.begin(), mask.end(), layer.neighbour.begin());
  if (static_cast<size_t>(ToInt(index)) + 1 == layers_.size()) piece_open_ = true;
}

}  // namespace dogstar
