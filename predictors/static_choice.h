// Predictors whose rows are fixed beforehand: without a look at text (for comparison), or by the prompt's statistic
// with a part of chance.
#pragma once

#include <string_view>
#include <utility>
#include <vector>

#include "predictors/predictor.h"
#include "predictors/selection.h"

namespace dogstar {

// So many rows of those available, each as likely as any other; the same ones for the same seed.
class RandomPredictor : public Predictor {
 public:
  // rows: [layers]; < 0: all.
  RandomPredictor(std::vector<int32_t> rows, uint64_t seed) : rows_(std::move(rows)), seed_(seed) {}

  std::string_view name() const override { return "random"; }
  int32_t ListedRows(LayerIndex layer) const override { return rows_[static_cast<size_t>(ToInt(layer))]; }
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  std::vector<int32_t> rows_;
  uint64_t seed_;
  std::vector<float> scores_;
  SelectionScratch scratch_;
  RowSet chosen_;
};

// The rows of largest |gate_j| |up_j| (norms of the weights alone; Sirius' released code, selection "magnitude"),
// with the input's norm weights in both.
class WeightNormPredictor : public Predictor {
 public:
  // rows: [layers]; < 0: all.
  explicit WeightNormPredictor(std::vector<int32_t> rows) : rows_(std::move(rows)), scores_(rows_.size()) {}

  std::string_view name() const override { return "weight-norm"; }
  int32_t ListedRows(LayerIndex layer) const override { return rows_[static_cast<size_t>(ToInt(layer))]; }
  bool needs_row_norms() const override { return true; }
  void SetGateNorms(LayerIndex layer, std::span<const float> gate) override;
  void SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) override;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  std::vector<int32_t> rows_;
  std::vector<std::vector<float>> scores_;  // [layer][row]
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

}  // namespace dogstar
