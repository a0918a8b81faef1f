// Predictors whose rows are those of one token: the last verified one (lag), or the very one that is drafted, which no
// run knows (oracle).
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "predictors/predictor.h"

namespace dogstar {

// The rows of largest |z| of the last verified token, before that of the prompt's last one; taken anew every `refresh`
// tokens. Neighbouring tokens share a little more than chance.
class LagPredictor : public Predictor {
 public:
  // rows: [layers], of the prompt's last token; < 0: all that are available.
  LagPredictor(std::vector<int32_t> rows, int32_t ffn_rows, int32_t refresh);
  std::string_view name() const override { return "lag"; }
  bool observes_prompt() const override { return true; }
  bool follows_text() const override { return true; }
  int32_t RowsOfToken(LayerIndex layer) const override { return rows_[static_cast<size_t>(ToInt(layer))]; }
  void BeginPrompt() override;
  void ObservePrompt(LayerIndex layer, std::span<const float> z, int32_t tokens, int32_t stride) override;
  void ObserveToken(LayerIndex layer, std::span<const uint64_t> mask, int32_t top_rows) override;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  struct Layer {
    RowSet rows;
    int32_t tokens = 0;  // since the prompt
  };
  std::vector<int32_t> rows_;
  int32_t refresh_;
  std::vector<Layer> layers_;
  std::vector<float> magnitudes_;
  std::vector<int32_t> scratch_;
  RowSet all_, chosen_;
};

// The rows of largest |z_j| |d_j| of the full model at the position itself: what choosing could reach, not what a run
// can do. It sees no label: z is computed from the tokens before.
class OraclePredictor : public Predictor {
 public:
  OraclePredictor(std::vector<int32_t> rows, int32_t ffn_rows)
      : rows_(std::move(rows)),
        down_norms_(rows_.size()),
        scores_(rows_.size(), std::vector<float>(static_cast<size_t>(ffn_rows))) {}
  std::string_view name() const override { return "oracle"; }
  bool evaluation_only() const override { return true; }
  bool needs_row_norms() const override { return true; }
  void SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) override;
  void ShowFullValues(LayerIndex layer, std::span<const float> z) override;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  std::vector<int32_t> rows_;
  std::vector<std::vector<float>> down_norms_, scores_;  // [layer][row]
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

}  // namespace dogstar
