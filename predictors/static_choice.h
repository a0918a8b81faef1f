// Predictors whose rows are fixed beforehand: without a look at text (for comparison), or by the prompt's statistic
// with a part of chance.
#pragma once

#include <vector>

#include "base/random.h"
#include "predictors/griffin.h"
#include "predictors/predictor.h"

namespace dogstar {

// k = floor(density * ffn_rows) rows of those available, each as likely as any other; the same ones for the same seed.
class RandomPredictor : public Predictor {
 public:
  RandomPredictor(double density, int32_t ffn_rows, uint64_t seed)
      : density_(density), ffn_rows_(ffn_rows), seed_(seed) {}

  std::string_view name() const override { return "random"; }
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  double density_;
  int32_t ffn_rows_;
  uint64_t seed_;
  std::vector<float> scores_;
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

// The rows of largest |gate_j| |up_j| (norms of the weights alone; Sirius' released code, selection "magnitude"),
// with the input's norm weights in both.
class WeightNormPredictor : public Predictor {
 public:
  WeightNormPredictor(double density, int32_t layers, int32_t ffn_rows)
      : density_(density), ffn_rows_(ffn_rows), scores_(static_cast<size_t>(layers)) {}

  std::string_view name() const override { return "weight-norm"; }
  bool needs_row_norms() const override { return true; }
  void SetGateNorms(LayerIndex layer, std::span<const float> gate) override;
  void SetRowNorms(LayerIndex layer, std::span<const float> up, std::span<const float> down) override;
  const RowSet* Choose(LayerIndex layer, const RowSet& available) override;

 private:
  double density_;
  int32_t ffn_rows_;
  std::vector<std::vector<float>> scores_;  // [layer][row]
  std::vector<int32_t> scratch_;
  RowSet chosen_;
};

}  // namespace dogstar
